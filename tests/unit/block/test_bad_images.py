"""Damaged and hostile images: each is refused in one line that names file, place and field, and is left as it was."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.block import check_image, create_image, open_image
from pyvmm.cli.main import main
from pyvmm.errors import ImageError

CLUSTER = 4096


def put(fmt: str, offset: int, value: int) -> Callable[[bytearray], None]:
    """A change of one big-endian field."""
    return lambda image: struct.pack_into(">" + fmt, image, offset, value)


def both(*changes: Callable[[bytearray], None]) -> Callable[[bytearray], None]:
    """Several changes."""

    def change(image: bytearray) -> None:
        for each in changes:
            each(image)

    return change


def cut(length: int) -> Callable[[bytearray], None]:
    """The file ends after `length` bytes."""

    def change(image: bytearray) -> None:
        del image[length:]

    return change


def extension(kind: int, length: int) -> Callable[[bytearray], None]:
    """The first header extension claims this type and length."""
    return both(put("I", 112, kind), put("I", 116, length))


def l1_entry(value: int) -> Callable[[bytearray], None]:
    """The first L1 entry; the table's place is in the header."""

    def change(image: bytearray) -> None:
        struct.pack_into(">Q", image, struct.unpack_from(">Q", image, 40)[0], value)

    return change


BAD = {
    "magic": (put("I", 0, 0x51464900), "header offset 0: magic"),
    "version-1": (put("I", 4, 1), "offset 4: version is 1"),
    "version-4": (put("I", 4, 4), "offset 4: version is 4"),
    "cluster-bits-8": (put("I", 20, 8), "offset 20: cluster_bits is 8"),
    "cluster-bits-22": (put("I", 20, 22), "offset 20: cluster_bits is 22"),
    "cluster-bits-huge": (put("I", 20, 0xFFFFFFFF), "cluster_bits is 4294967295"),
    "aes": (put("I", 32, 1), "encrypted (AES)"),
    "luks": (put("I", 32, 2), "encrypted (LUKS)"),
    "header-length-short": (put("I", 100, 96), "offset 100: header_length is 96"),
    "header-length-long": (put("I", 100, 8192), "header_length is 8192"),
    "header-length-odd": (put("I", 100, 105), "header_length is 105"),
    "refcount-order": (put("I", 96, 7), "offset 96: refcount_order is 7"),
    "data-file": (put("Q", 72, 4), "bit 2 (external data file)"),
    "extended-l2": (put("Q", 72, 16), "bit 4 (extended L2 entries)"),
    "unknown-feature": (put("Q", 72, 1 << 40), "bit 40 (a feature without a name)"),
    "compression-unknown": (both(put("Q", 72, 8), put("B", 104, 9)), "offset 104: compression_type is 9"),
    "compression-unmarked": (put("B", 104, 1), "offset 104: compression_type is 1"),
    "corrupt": (put("Q", 72, 2), "marked corrupt"),
    "size-absurd": (put("Q", 24, 1 << 63), "offset 24: size"),
    "size-beyond-l1": (put("Q", 24, 1 << 40), "offset 36: L1 table"),
    "l1-too-small": (put("I", 36, 0), "offset 36: L1 table has 0 entries"),
    "l1-size-absurd": (put("I", 36, 0xFFFFFFFF), "offset 36: L1 table of 4294967295 entries"),
    "l1-unaligned": (put("Q", 40, CLUSTER + 8), "offset 40: l1_table_offset 0x1008 is not aligned"),
    "l1-beyond": (put("Q", 40, 1 << 40), "offset 40: l1_table_offset 0x10000000000"),
    "l1-wraps": (put("Q", 40, (1 << 64) - CLUSTER), "offset 40: l1_table_offset"),
    "l1-entry-unaligned": (l1_entry(1 << 63 | 0x2200), "L1 table entry 0"),
    "l1-entry-beyond": (l1_entry(1 << 63 | 1 << 40), "is beyond the end of the file"),
    "l1-entry-reserved": (l1_entry(1 << 63 | 1 << 60 | 0x2000), "has reserved bits set"),
    "reftable-unaligned": (put("Q", 48, CLUSTER + 512), "offset 48: refcount_table_offset"),
    "reftable-beyond": (put("Q", 48, 1 << 50), "offset 48: refcount_table_offset"),
    "reftable-none": (put("I", 56, 0), "offset 56: refcount table of 0 clusters"),
    "reftable-absurd": (put("I", 56, 1 << 30), "offset 56: refcount table of 1073741824 clusters"),
    "refblock-unaligned": (put("Q", CLUSTER, 0x2100), "refcount table entry 0"),
    "refblock-beyond": (put("Q", CLUSTER, 1 << 45), "refcount table entry 0"),
    "snapshots-absurd": (put("I", 60, 1 << 20), "offset 60: nb_snapshots"),
    "snapshots-beyond": (both(put("I", 60, 3), put("Q", 64, 1 << 40)), "offset 64: snapshots_offset"),
    "backing-name-long": (both(put("Q", 8, 200), put("I", 16, 5000)), "offset 16: backing_file_size is 5000"),
    "backing-name-outside": (both(put("Q", 8, 1 << 33), put("I", 16, 8)), "offset 8: backing_file_offset"),
    "backing-name-larger-than-a-cluster": (
        both(put("I", 20, 9), both(put("Q", 8, 1 << 40), put("I", 16, 600))),
        "offset 8: backing_file_offset",
    ),
    "backing-name-zeros": (both(put("Q", 8, 2000), put("I", 16, 8)), "contains a zero byte"),
    "extension-long": (extension(0x12345678, 1 << 31), "header extension 0x12345678 at offset 112"),
    "backing-format-long": (extension(0xE2792ACA, 100), "backing format name has 100 bytes"),
    "truncated-header": (cut(60), "header is truncated"),
    "truncated-tables": (cut(2 * CLUSTER), "beyond the end of the file"),
    "empty": (cut(0), "header is truncated"),
}


def digest(path: Path) -> str:
    """The file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sound image with a few clusters in it."""
    path = tmp_path / "disk.qcow2"
    create_image(path, "qcow2", 1 << 20, cluster_size=CLUSTER)
    with open_image(path) as opened:
        opened.pwrite(b"data" * 4000, 100_000)
    return path


@pytest.mark.parametrize("name", BAD)
def test_refused_with_one_line_and_unchanged(
    name: str, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, expected = BAD[name]
    data = bytearray(image.read_bytes())
    change(data)
    image.write_bytes(data)
    before = digest(image)
    with pytest.raises(ImageError) as raised:
        open_image(image, "qcow2")
    message = str(raised.value)
    assert expected in message
    assert str(image) in message
    assert "\n" not in message
    assert digest(image) == before
    assert main(["image", "resize", "-f", "qcow2", str(image), "2M"]) != 0
    assert capsys.readouterr().err.count("\n") == 1
    assert digest(image) == before


def test_feature_name_table_is_used(image: Path) -> None:
    data = bytearray(image.read_bytes())
    extension(0x6803F857, 48)(data)
    data[120:168] = b"\0\x28" + b"time travel".ljust(46, b"\0")
    data[168:176] = bytes(8)
    put("Q", 72, 1 << 40)(data)
    image.write_bytes(data)
    with pytest.raises(ImageError, match=r"bit 40 \(time travel\)"):
        open_image(image)


def test_l2_entries_are_checked_when_used(image: Path) -> None:
    with open_image(image, read_only=True) as opened:
        data_offset = next(e.offset for e in opened.map() if e.data)
    data = bytearray(image.read_bytes())
    entry = data.index(
        struct.pack(">Q", 1 << 63 | (data_offset or 0) - 100_000 % CLUSTER + 100_000 % CLUSTER)
    )
    struct.pack_into(">Q", data, entry, 1 << 63 | 1 << 40)
    image.write_bytes(data)
    before = digest(image)
    with (
        open_image(image, read_only=True) as opened,
        pytest.raises(
            ImageError, match=r"guest offset 0x18000: cluster offset 0x10000000000 is beyond the file"
        ),
    ):
        opened.pread(4096, 100_000)
    assert digest(image) == before
    assert check_image(image).corruptions >= 1


def test_clusters_that_hold_tables_are_not_given_out(image: Path) -> None:
    data = bytearray(image.read_bytes())
    data[2 * CLUSTER : 3 * CLUSTER] = bytes(CLUSTER)  # the refcount block: all seems free
    image.write_bytes(data)
    with open_image(image) as opened:
        with pytest.raises(ImageError, match="holds a table, but its refcount is 0"):
            opened.pwrite(b"x", 900_000)
        assert opened.info().corrupt
    with pytest.raises(ImageError, match="marked corrupt"):
        open_image(image)
    assert check_image(image, repair="all").corruptions == 0
    with open_image(image) as opened:
        assert opened.pread(16000, 100_000) == b"data" * 4000
        opened.pwrite(b"x", 900_000)
    assert check_image(image).clean


def test_missing_and_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nothing: cannot open: No such file"):
        open_image(tmp_path / "nothing")
    with pytest.raises(ImageError, match="is a directory"):
        open_image(tmp_path, read_only=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="not a regular file"):
        open_image(tmp_path / "pipe")
    with pytest.raises(ImageError, match="unknown image format 'vmdk'"):
        open_image(tmp_path / "x", "vmdk")
    with pytest.raises(ImageError, match="unknown cache mode"):
        open_image(tmp_path / "x", cache="fast")


def test_missing_backing_file(tmp_path: Path) -> None:
    base, top = tmp_path / "base", tmp_path / "top"
    create_image(base, "raw", 4096)
    create_image(top, "qcow2", backing_file="base", backing_format="raw")
    base.unlink()
    before = digest(top)
    with pytest.raises(ImageError, match=r"top: backing file: .*base: cannot open: No such file"):
        open_image(top)
    assert digest(top) == before


def test_backing_loops(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    create_image(a, "qcow2", 4096)
    create_image(b, "qcow2", backing_file="a")
    create_image(tmp_path / "c", "qcow2", backing_file="b")
    os.replace(tmp_path / "c", a)  # a -> b -> a
    with pytest.raises(ImageError, match="backing file loop"):
        open_image(a)
    assert main(["image", "info", "--backing-chain", str(a)]) != 0


def test_backing_names_that_are_not_files(image: Path) -> None:
    data = bytearray(image.read_bytes())
    data[2000:2016] = b"nbd://host:10809"
    both(put("Q", 8, 2000), put("I", 16, 16))(data)
    image.write_bytes(data)
    with pytest.raises(ImageError, match="not a plain file name"):
        open_image(image)


def test_bad_options_leave_an_existing_image_alone(image: Path) -> None:
    before = digest(image)
    for options in (
        {"cluster_size": 1000},
        {"cluster_size": 4 << 20},
        {"refcount_bits": 3},
        {"compat": "0.10", "refcount_bits": 8},
        {"compat": "2.0"},
        {"preallocation": "some"},
        {"cluster_size": 512, "size": 1 << 50},
    ):
        with pytest.raises(ImageError):
            create_image(image, "qcow2", **{"size": 1 << 20, **options})  # type: ignore[arg-type]
        assert digest(image) == before
    with pytest.raises(ImageError):
        create_image(image.parent / "new", "qcow2", 1 << 20, cluster_size=1000)
    assert not (image.parent / "new").exists()


def test_in_use(image: Path) -> None:
    with open_image(image):
        before = digest(image)
        for action in (lambda: open_image(image), lambda: create_image(image, "qcow2", 4096)):
            with pytest.raises(ImageError, match="is in use"):
                action()
        assert digest(image) == before
