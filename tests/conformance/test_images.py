"""One suite over image formats: what we write, QEMU's tools read and accept, and the other way round.

Needs qemu-img and qemu-io (Debian: qemu-utils).
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.block import check_image, convert_image, create_image, open_image
from pyvmm.errors import ImageError

needs_qemu = pytest.mark.skipif(
    not (shutil.which("qemu-img") and shutil.which("qemu-io")),
    reason="needs qemu-img and qemu-io (qemu-utils)",
)

MIB = 1 << 20


@dataclass(frozen=True)
class Format:
    """An image format with options: `qemu` are qemu-img's, `ours` those of create_image."""

    name: str
    format: str
    qemu: str = ""
    ours: tuple[tuple[str, object], ...] = ()
    size: int = 3 * MIB + 1536


FORMATS = [
    Format("raw", "raw"),
    *(
        Format(f"qcow2-{size}", "qcow2", f"cluster_size={size}", (("cluster_size", size),), min(size * 90, 24 * MIB))
        for size in (512, 1024, 4096, 65536, 262144, 2 * MIB)
    ),
    *(
        Format(f"refcount-{bits}", "qcow2", f"refcount_bits={bits},cluster_size=1k",
               (("refcount_bits", bits), ("cluster_size", 1024)))
        for bits in (1, 2, 4, 8, 32, 64)
    ),
    Format("v2", "qcow2", "compat=0.10", (("compat", "0.10"),)),
    Format("v2-512", "qcow2", "compat=0.10,cluster_size=512", (("compat", "0.10"), ("cluster_size", 512))),
    Format("lazy", "qcow2", "lazy_refcounts=on", (("lazy_refcounts", True),)),
    Format("preallocated", "qcow2", "preallocation=metadata", (("preallocation", "metadata"),)),
]  # fmt: skip
QCOW2 = [format for format in FORMATS if format.format == "qcow2"]


def run_tool(*argv: object) -> str:
    """Run one of QEMU's tools; its output."""
    result = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, f"{argv}: {result.stdout}{result.stderr}"
    return result.stdout


def qemu_io(path: Path, format: str, commands: list[str]) -> None:
    """Run qemu-io commands on an image."""
    text = "\n".join([*commands, "quit"])
    result = subprocess.run(
        ["qemu-io", "-f", format, path], input=text, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert "failed" not in result.stdout + result.stderr, result.stdout + result.stderr


def by_qemu(path: Path, format: str, raw: Path) -> bytes:
    """The disk's bytes as qemu-img sees them."""
    run_tool("qemu-img", "convert", "-f", format, "-O", "raw", path, raw)
    return raw.read_bytes()


def by_us(path: Path, format: str | None = None) -> bytes:
    """The disk's bytes as pyvmm sees them, read in pieces of odd lengths."""
    with open_image(path, format, read_only=True) as image:
        pieces, offset = [], 0
        while offset < image.size:
            length = min(image.size - offset, 1234567)
            pieces.append(image.pread(length, offset))
            offset += length
        return b"".join(pieces)


def check_by_qemu(path: Path, *, leaks: bool = False) -> None:
    """qemu-img check finds no corruption, and no leak unless these are allowed."""
    result = subprocess.run(
        ["qemu-img", "check", "--output", "json", path], capture_output=True, text=True, timeout=120
    )
    found = json.loads(result.stdout)
    assert not found.get("corruptions"), result.stdout
    assert not found.get("check-errors"), result.stdout
    assert leaks or not found.get("leaks"), result.stdout


def random_commands(size: int, seed: int, count: int = 60) -> list[str]:
    """qemu-io commands: writes, zeros with and without unmap, discards."""
    rng = random.Random(seed)
    commands = []
    for _ in range(count):
        offset = rng.randrange(size // 512) * 512
        length = min(rng.choice([512, 4096, 65536, 300032, 512 * rng.randrange(1, 3000)]), size - offset)
        kind = rng.choice(["write -P {p}", "write -P {p}", "write -z", "write -z -u", "discard"])
        commands.append(f"{kind.format(p=rng.randrange(1, 256))} {offset} {length}")
    return commands


def random_writes(path: Path, format: str, model: bytearray, seed: int, count: int = 120) -> None:
    """The like by pyvmm, kept in `model` too."""
    rng = random.Random(seed)
    with open_image(path, format) as image:
        for _ in range(count):
            offset = rng.randrange(image.size)
            length = rng.randrange(1, min(rng.choice([600, 5000, 70000, 700000]), image.size - offset) + 1)
            kind = rng.randrange(6)
            if kind < 4:
                data = rng.randbytes(length)
                image.pwrite(data, offset)
                model[offset : offset + length] = data
            elif kind == 4:
                image.write_zeroes(offset, length, unmap=rng.random() < 0.5)
                model[offset : offset + length] = bytes(length)
            else:
                image.discard(offset, length)
                model[offset : offset + length] = image.pread(length, offset)


@needs_qemu
@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_reads_what_qemu_wrote(kind: Format, tmp_path: Path) -> None:
    path = tmp_path / "image"
    options = ["-o", kind.qemu] if kind.qemu else []
    run_tool("qemu-img", "create", "-f", kind.format, *options, path, kind.size)
    qemu_io(path, kind.format, random_commands(kind.size, 1))
    assert by_us(path, kind.format) == by_qemu(path, kind.format, tmp_path / "raw")
    if kind.format == "qcow2":
        assert check_image(path).clean


@needs_qemu
@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_qemu_accepts_what_we_wrote(kind: Format, tmp_path: Path) -> None:
    path, raw = tmp_path / "image", tmp_path / "raw"
    create_image(path, kind.format, kind.size, **dict(kind.ours))  # type: ignore[arg-type]
    model = bytearray(
        json.loads(run_tool("qemu-img", "info", "--output", "json", "-f", kind.format, path))["virtual-size"]
    )
    random_writes(path, kind.format, model, 2)
    raw.write_bytes(model)
    run_tool("qemu-img", "compare", "-f", kind.format, "-F", "raw", path, raw)
    if kind.format == "qcow2":
        check_by_qemu(path)


@needs_qemu
@pytest.mark.parametrize("kind", QCOW2, ids=lambda kind: kind.name)
def test_takes_turns_with_qemu(kind: Format, tmp_path: Path) -> None:
    path, raw = tmp_path / "image", tmp_path / "raw"
    run_tool("qemu-img", "create", "-f", "qcow2", "-o", kind.qemu, path, kind.size)
    for turn in range(3):
        qemu_io(path, "qcow2", random_commands(kind.size, 10 + turn, 25))
        model = bytearray(by_qemu(path, "qcow2", raw))
        random_writes(path, "qcow2", model, 20 + turn, 40)
        assert by_qemu(path, "qcow2", raw) == model
        check_by_qemu(path)


@needs_qemu
@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster", [512, 4096, 65536, 2 * MIB])
def test_compressed_clusters(compression: str, cluster: int, tmp_path: Path) -> None:
    rng = random.Random(3)
    raw, path, ours = tmp_path / "raw", tmp_path / "image", tmp_path / "ours"
    raw.write_bytes(
        b"".join(rng.choice([bytes(700), b"words " * 200, rng.randbytes(900)]) for _ in range(5000))[
            : 4 * MIB
        ]
    )
    options = f"cluster_size={cluster},compression_type={compression}"
    run_tool("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
    size = json.loads(run_tool("qemu-img", "info", "--output", "json", path))["virtual-size"]
    model = bytearray(raw.read_bytes().ljust(size, b"\0"))
    assert by_us(path) == model
    random_writes(path, "qcow2", model, 4)
    assert by_us(path) == model
    check_by_qemu(path)

    convert_image(
        raw, ours, "qcow2", source_format="raw", compress=True, cluster_size=cluster, compression=compression
    )
    run_tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", ours, raw)
    check_by_qemu(ours)
    assert check_image(ours).compressed_clusters > 0


@needs_qemu
@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_overlays_of_qemu_both_ways(base_format: str, compat: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    base, middle, top = tmp_path / "base", tmp_path / "deep" / "middle", tmp_path / "top"
    create_image(base, base_format, MIB + 512)
    model = bytearray(MIB + 512)
    random_writes(base, base_format, model, 5, 40)
    # longer than what it stands on; names relative to each overlay's folder, with and without a stored format
    run_tool(
        "qemu-img",
        "create",
        "-f",
        "qcow2",
        "-o",
        f"compat={compat}",
        "-b",
        "../base",
        "-F",
        base_format,
        middle,
        2 * MIB,
    )
    model += bytes(2 * MIB - len(model))
    random_writes(middle, "qcow2", model, 6, 40)
    create_image(top, "qcow2", backing_file="deep/middle", compat=compat)
    qemu_io(top, "qcow2", ["write -P 7 5000 100000", "write -z 300000 70000", "discard 512 131072"])
    assert by_us(top) == by_qemu(top, "qcow2", tmp_path / "raw")
    model = bytearray(by_us(top))
    random_writes(top, "qcow2", model, 7, 60)
    assert by_qemu(top, "qcow2", tmp_path / "raw") == model
    for path in (middle, top):
        check_by_qemu(path)


@needs_qemu
def test_internal_snapshots_survive_our_writes(tmp_path: Path) -> None:
    path, raw = tmp_path / "image", tmp_path / "raw"
    run_tool("qemu-img", "create", "-f", "qcow2", "-o", "cluster_size=4k", path, 2 * MIB)
    qemu_io(path, "qcow2", ["write -P 1 0 1M", "write -z 300k 40k"])
    before = by_qemu(path, "qcow2", raw)
    run_tool("qemu-img", "snapshot", "-c", "one", path)
    model = bytearray(before)
    random_writes(path, "qcow2", model, 8, 60)
    assert check_image(path).clean
    check_by_qemu(path)
    assert by_qemu(path, "qcow2", raw) == model
    run_tool("qemu-img", "snapshot", "-a", "one", path)
    assert by_us(path) == before
    with open_image(path) as image, pytest.raises(ImageError, match="internal snapshots"):
        image.resize(4 * MIB)


@needs_qemu
def test_bitmaps_are_given_up_on_write(tmp_path: Path) -> None:
    path = tmp_path / "image"
    run_tool("qemu-img", "create", "-f", "qcow2", path, 2 * MIB)
    run_tool("qemu-img", "bitmap", "--add", path, "dirty")
    assert check_image(path).clean
    with open_image(path) as image:
        image.pwrite(b"x", 0)
    assert not check_image(path).corruptions
    check_by_qemu(path, leaks=True)


@needs_qemu
@pytest.mark.parametrize("direction", ["ours", "theirs"])
def test_locks_agree_with_qemu(direction: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    create_image(path, "qcow2", MIB)
    if direction == "ours":
        with open_image(path):
            result = subprocess.run(
                ["qemu-io", "-f", "qcow2", "-c", "read 0 512", path], capture_output=True, text=True
            )
            assert "lock" in result.stderr
        with open_image(path, read_only=True):
            run_tool("qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", path)
        return
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        qemu.stdin.write("read 0 512\n")
        qemu.stdin.flush()
        assert "read 512/512" in qemu.stdout.readline()
        for read_only in (False, True):
            with pytest.raises(ImageError, match=rf"is in use by another process \(pid {qemu.pid}\)"):
                open_image(path, read_only=read_only)
        qemu.stdin.close()
        qemu.wait(10)
    open_image(path).close()


@needs_qemu
def test_repairs_what_qemu_calls_dirty(tmp_path: Path) -> None:
    path = tmp_path / "image"
    run_tool("qemu-img", "create", "-f", "qcow2", "-o", "lazy_refcounts=on", path, 4 * MIB)
    command = ["qemu-io", "-f", "qcow2", "-c", "write -P 5 0 1M", "-c", "flush", "-c", "abort", path]
    subprocess.run(command, capture_output=True, timeout=60)  # dies with the dirty bit set
    with open_image(path, read_only=True) as image:
        assert image.info().dirty
    with open_image(path) as image:
        assert not image.info().dirty
        assert image.pread(MIB, 0) == b"\5" * MIB
        image.pwrite(b"more", 2 * MIB)
    check_by_qemu(path, leaks=True)


WRITER = """
import random, sys
from pyvmm.block import open_image
rng = random.Random(int(sys.argv[2]))
with open_image(sys.argv[1], "qcow2") as image:
    print("ready", flush=True)
    for turn in range(1 << 30):
        slot = rng.randrange(64)
        image.pwrite(turn.to_bytes(8, "little") * 512, slot * 65536 + 1000)
        for _ in range(4):
            image.pwrite(rng.randbytes(3000), 8 << 20 | rng.randrange(8 << 20) & ~511)
            image.discard(8 << 20 | rng.randrange(8 << 20) & ~4095, 20000)
        image.flush()
        print(slot, turn, flush=True)
"""


@pytest.mark.parametrize("cluster", [512, 4096, 65536])
def test_kill_leaves_a_sound_image_with_what_was_flushed(cluster: int, tmp_path: Path) -> None:
    path = tmp_path / "image"
    create_image(path, "qcow2", 17 * MIB, cluster_size=cluster)
    flushed: dict[int, int] = {}
    for kill in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path, str(kill)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            if kill == 0:
                flushed.clear()
            time.sleep(random.Random(kill).uniform(0.01, 0.25))
            writer.send_signal(signal.SIGKILL)
            lines = writer.stdout.read().splitlines()
        turns = {int(line.split()[0]): int(line.split()[1]) for line in lines if len(line.split()) == 2}
        flushed.update(turns)
        result = check_image(path)
        assert result.corruptions == 0, result.first
        if shutil.which("qemu-img"):
            check_by_qemu(path, leaks=True)
        with open_image(path, read_only=True) as image:
            for slot, turn in turns.items():
                data = image.pread(4096, slot * 65536 + 1000)
                stored = int.from_bytes(data[:8], "little")
                assert stored >= turn, f"slot {slot}: turn {turn} was flushed, {stored} is there"
    assert flushed


OPERATION = st.tuples(
    st.sampled_from(["write", "write", "zero", "unmap", "discard", "flush", "reopen", "read"]),
    st.integers(0, 199_999),
    st.integers(1, 40_000),
    st.integers(1, 255),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(OPERATION, max_size=30),
    st.sampled_from([512, 4096, 65536]),
    st.sampled_from([1, 16, 64]),
    st.booleans(),
)
def test_any_operations_against_bytes(
    tmp_path: Path, operations: list[tuple[str, int, int, int]], cluster: int, bits: int, overlay: bool
) -> None:
    size = 200_192
    path, base = tmp_path / "image", tmp_path / "base"
    base.write_bytes(bytes(range(256)) * 500 if overlay else b"")
    model = bytearray(base.read_bytes().ljust(size, b"\0"))
    backing = {"backing_file": base, "backing_format": "raw"} if overlay else {}
    create_image(path, "qcow2", size, cluster_size=cluster, refcount_bits=bits, **backing)  # type: ignore[arg-type]
    image = open_image(path, "qcow2", cache="unsafe")
    for kind, offset, length, value in operations:
        length = min(length, size - offset)
        if kind == "write":
            image.pwrite(bytes([value]) * length, offset)
            model[offset : offset + length] = bytes([value]) * length
        elif kind in ("zero", "unmap"):
            image.write_zeroes(offset, length, unmap=kind == "unmap")
            model[offset : offset + length] = bytes(length)
        elif kind == "discard":
            old = model[offset : offset + length]
            image.discard(offset, length)
            new = image.pread(length, offset)
            assert all(now in (0, was) for now, was in zip(new, old, strict=True))
            model[offset : offset + length] = new
        elif kind == "flush":
            image.flush()
        elif kind == "reopen":
            image.close()
            image = open_image(path, "qcow2", cache="unsafe")
        assert image.pread(length, offset) == model[offset : offset + length]
    image.close()
    assert by_us(path) == model
    assert check_image(path).clean
