"""`pyvmm image` beside qemu-img: words, JSON, exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyvmm.block import create_image, open_image
from pyvmm.cli.image import split_options
from pyvmm.cli.main import main
from pyvmm.errors import ConfigError

needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img (qemu-utils)")


def ours(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str]:
    """Exit code and output of `pyvmm image`."""
    capsys.readouterr()
    code = main(["image", *(str(word) for word in argv)])
    return code, capsys.readouterr().out


def theirs(*argv: object) -> tuple[int, str]:
    """Exit code and output of qemu-img."""
    result = subprocess.run(
        ["qemu-img", *(str(word) for word in argv)], capture_output=True, text=True, timeout=60
    )
    return result.returncode, result.stdout


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An overlay with data in it."""
    create_image(tmp_path / "base.raw", "raw", 4 << 20)
    path = tmp_path / "disk.qcow2"
    create_image(path, "qcow2", backing_file="base.raw", backing_format="raw")
    with open_image(path) as image:
        image.pwrite(b"x" * 200_000, 1 << 20)
    return path


@needs_qemu
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_info_json_is_qemus(compat: str, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = disk.parent / "new.qcow2"
    code, _ = ours(
        capsys, "create", "-f", "qcow2", "-b", disk.name, "-F", "qcow2", "-o", f"compat={compat}", path
    )
    assert code == 0
    for image in (path, disk):
        assert json.loads(ours(capsys, "info", "--output", "json", image)[1]) == json.loads(
            theirs("info", "--output", "json", image)[1]
        )
    chain = json.loads(ours(capsys, "info", "--backing-chain", "--output=json", path)[1])
    assert [each["format"] for each in chain] == ["qcow2", "qcow2", "raw"]


@needs_qemu
def test_check_json_is_qemus(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def both() -> tuple[tuple[int, Any], tuple[int, Any]]:
        a, b = ours(capsys, "check", "--output", "json", disk), theirs("check", "--output", "json", disk)
        return (a[0], json.loads(a[1])), (b[0], json.loads(b[1]))

    mine, qemus = both()
    assert mine == qemus
    assert mine[0] == 0
    data = bytearray(disk.read_bytes())
    clusters = -(-len(data) // 65536)
    data += bytes((clusters + 1) * 65536 - len(data))
    data[2 * 65536 + clusters * 2 + 1] = 1  # the refcount of a cluster that nothing uses: a leak
    disk.write_bytes(data)
    mine, qemus = both()
    assert mine[0] == qemus[0] == 3
    assert mine[1]["leaks"] == qemus[1]["leaks"] == 1
    assert ours(capsys, "check", "-r", "leaks", disk)[0] == 0
    data[2 * 65536 : 2 * 65536 + 16] = bytes(16)
    disk.write_bytes(data)
    mine, qemus = both()
    assert mine[0] == qemus[0] == 2
    assert ours(capsys, "check", "-q", "-r", "all", disk)[0] == 0
    assert theirs("check", disk)[0] == 0


def test_check_of_raw(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ours(capsys, "check", "-f", "raw", disk.parent / "base.raw")[0] == 63


@needs_qemu
def test_map_json_is_qemus(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = json.loads(ours(capsys, "map", "--output", "json", disk)[1])
    qemus = json.loads(theirs("map", "--output", "json", disk)[1])
    for row in mine:
        row.pop("compressed")
    for row in qemus:
        row.pop("compressed", None)
    assert mine == qemus
    assert "disk.qcow2" in ours(capsys, "map", disk)[1]


def test_create_convert_compare_resize(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    assert ours(capsys, "create", "-f", "qcow2", "-o", "cluster_size=4k,refcount_bits=8", a, "10M")[0] == 0
    with open_image(a) as image:
        assert (image.info().cluster_size, image.info().refcount_bits) == (4096, 8)
        image.pwrite(b"q" * 100_000, 77)
    assert ours(capsys, "convert", "-p", "-O", "raw", a, b)[0] == 0
    assert ours(capsys, "compare", a, b) == (0, "Images are identical.\n")
    assert ours(capsys, "resize", "-f", "raw", b, "+1M") == (0, "Image resized.\n")
    assert ours(capsys, "compare", "-F", "raw", a, b)[0] == 0
    assert ours(capsys, "compare", "-s", "-F", "raw", a, b)[0] == 1
    with open_image(b, "raw") as image:
        image.pwrite(b"!", 5000)
    code, text = ours(capsys, "compare", "-F", "raw", a, b)
    assert (code, "Content mismatch at offset 5000!" in text) == (1, True)
    assert ours(capsys, "compare", a, tmp_path / "none")[0] == 2
    assert ours(capsys, "resize", a, "5M")[0] == 1
    assert ours(capsys, "resize", "--shrink", a, "5M")[0] == 0


def test_options() -> None:
    assert split_options(["cluster_size=4k,compat=1.1", "backing_file=a,,b"]) == {
        "cluster_size": "4k",
        "compat": "1.1",
        "backing_file": "a,b",
    }
    with pytest.raises(ConfigError, match="-o colour"):
        split_options(["colour=red"])
    with pytest.raises(ConfigError, match="needs a value"):
        split_options(["cluster_size"])


@pytest.mark.parametrize(
    "argv",
    [
        ("create", "-f", "qcow2", "x", "-5"),
        ("create", "-f", "raw", "-o", "cluster_size=4k", "x", "1M"),
        ("create", "-f", "qcow2", "x", "12parsecs"),
        ("create", "-f", "vmdk", "x", "1M"),
        ("convert", "missing", "x"),
        ("info", "missing"),
    ],
)
def test_wrong_words(argv: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["image", *argv])
    except SystemExit as stop:
        code = int(str(stop.code))
    assert code in (1, 2)
    assert not (tmp_path / "x").exists()
