"""pyvmm.guests without a network: MBR and GRUB's places in it, apt's sources, the initramfs archive, refusals."""

from __future__ import annotations

import gzip
import io
import os
import struct
from pathlib import Path

import pytest

from pyvmm.guests import initramfs
from pyvmm.guests.debian import DebianDisk, build_debian_disk, parse_size
from pyvmm.guests.initramfs import Cpio, build_initramfs, is_static_elf
from pyvmm.guests.mbr import chs_address, install_grub, partition_entry
from pyvmm.guests.mirror import debian_mirror, parse_deb822, parse_one_line
from pyvmm.guests.tools import GuestBuildError, require_tools, run_logged

BOOT_IMAGE = bytes(range(256)) + bytes(254) + b"\x55\xaa"


def core_image(sectors: int) -> bytes:
    """A core image as grub-mkimage leaves it: the count of its further sectors at the end of the first."""
    first = bytearray(512)
    struct.pack_into("<QHH", first, 500, 99, sectors - 1, 0x820)
    return bytes(first) + b"c" * ((sectors - 1) * 512 - 100)


def test_grub_goes_to_the_mbr_gap() -> None:
    """Boot code, disk signature, partition and core image stand where BIOS, GRUB and Linux look for them."""
    disk = io.BytesIO(bytes(4096 * 512))
    install_grub(disk, BOOT_IMAGE, core_image(60), 4096, 0xDEADBEEF)
    data = disk.getvalue()
    assert data[:0x5C] == BOOT_IMAGE[:0x5C]
    assert struct.unpack_from("<Q", data, 0x5C) == (1,)
    assert data[0x64] == 0xFF
    assert data[0x66:0x68] == b"\x90\x90"
    assert struct.unpack_from("<I", data, 0x1B8) == (0xDEADBEEF,)
    assert data[0x1BE] == 0x80
    assert data[0x1C2] == 0x83
    assert struct.unpack_from("<II", data, 0x1C6) == (2048, 2048)
    assert data[0x1CE:0x1FE] == bytes(48)
    assert data[510:512] == b"\x55\xaa"
    assert struct.unpack_from("<QHH", data, 512 + 500) == (2, 59, 0x820)
    assert data[1024 : 61 * 512 - 100] == b"c" * (59 * 512 - 100)
    assert len(data) == 4096 * 512


@pytest.mark.parametrize("sectors", [1, 2048, 3000])
def test_core_image_that_does_not_fit(sectors: int) -> None:
    """A core image longer than the gap is refused and nothing is written."""
    disk = io.BytesIO(bytes(512))
    with pytest.raises(GuestBuildError, match="MBR gap"):
        install_grub(disk, BOOT_IMAGE, bytes(sectors * 512), 4096, 0)
    assert disk.getvalue() == bytes(512)


def test_core_image_of_something_else() -> None:
    """A file that is no core image, and a boot image that is none, are named."""
    with pytest.raises(GuestBuildError, match="core image says"):
        install_grub(io.BytesIO(), BOOT_IMAGE, bytes(5120), 4096, 0)
    with pytest.raises(GuestBuildError, match="not a boot sector"):
        install_grub(io.BytesIO(), bytes(512), core_image(3), 4096, 0)


@pytest.mark.parametrize(
    ("lba", "chs"),
    [
        (0, (0, 0, 1)),
        (62, (0, 0, 63)),
        (63, (0, 1, 1)),
        (2048, (0, 32, 33)),
        (1024 * 255 * 63, (1023, 254, 63)),
    ],
)
def test_chs(lba: int, chs: tuple[int, int, int]) -> None:
    """Cylinder, head and sector of an LBA with 255 heads and 63 sectors."""
    head, sector, cylinder = chs_address(lba)
    assert (cylinder | (sector & 0xC0) << 2, head, sector & 0x3F) == chs


def test_partition_beyond_the_mbr() -> None:
    """Sectors are 32 bits in an MBR."""
    with pytest.raises(GuestBuildError, match="--size"):
        partition_entry(2048, (1 << 32) - 1024)


def test_one_line_sources() -> None:
    """Options, comments and source archives in sources.list."""
    text = (
        "# deb http://no.example/debian sid main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian stable main contrib # x\n"
    )
    (source,) = parse_one_line(text + "deb-src http://a.example/debian stable main\n")
    assert source.uri == "http://a.example/debian"
    assert (source.suite, source.components, source.signed_by) == ("stable", ("main", "contrib"), "/k.gpg")


def test_deb822_sources() -> None:
    """Several suites, continued lines, comments, and a source that is turned off."""
    text = """\
Types: deb deb-src
# a comment in the middle
URIs: http://b.example/debian
Suites: stable
 stable-updates
Components: main

Types: deb
URIs: http://off.example/debian
Suites: stable
Components: main
Enabled: no
"""
    found = list(parse_deb822(text))
    assert [(source.uri, source.suite) for source in found] == [
        ("http://b.example/debian", "stable"),
        ("http://b.example/debian", "stable-updates"),
    ]


def test_mirror_of_the_host(tmp_path: Path) -> None:
    """The archive with the very suite, then any Debian archive, then an error that names the option."""
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    with pytest.raises(GuestBuildError, match="--mirror"):
        debian_mirror("stable", tmp_path)
    (tmp_path / "sources.list").write_text("deb http://s.example/debian-security stable-security main\n")
    (folder / "a.list").write_text("deb http://a.example/debian stable main\n")
    (folder / "b.sources").write_text(
        "Types: deb\nURIs: http://b.example/debian\nSuites: older\nComponents: main\n"
    )
    assert debian_mirror("stable", tmp_path).uri == "http://a.example/debian"
    assert debian_mirror("older", tmp_path).uri == "http://b.example/debian"
    assert debian_mirror("unknown", tmp_path).uri == "http://a.example/debian"


def test_cpio_entry() -> None:
    """One newc header, byte for byte."""
    archive = Cpio()
    archive.file("ab", b"xyz", 0o755)
    data = archive.data()
    expected = "070701" + "00000001" + "000081ED" + "0" * 16 + "00000001" + "0" * 8 + "00000003" + "0" * 32
    assert data[:94] == expected.encode()
    assert data[94:110] == b"0000000300000000"
    assert data[110:116] == b"ab\0\0\0\0"[:6]
    assert len(data) % 4 == 0
    assert b"TRAILER!!!" in data


def test_initramfs_is_reproducible(tmp_path: Path) -> None:
    """Two builds are equal, parents of added files come before them, and a dynamic busybox is refused."""
    elf = bytearray(64 + 56)
    elf[:5] = b"\x7fELF\x02"
    struct.pack_into("<Q", elf, 32, 64)
    struct.pack_into("<HH", elf, 54, 56, 1)
    struct.pack_into("<I", elf, 64, 1)
    program = tmp_path / "busybox"
    program.write_bytes(elf)
    files = {"/lib/a/b": b"1", "/lib/a/c": b"#!/bin/sh\n"}
    first = build_initramfs(tmp_path / "1", files=files, busybox=program).read_bytes()
    assert first == build_initramfs(tmp_path / "2", files=files, busybox=program).read_bytes()
    data = gzip.decompress(first)
    assert data.index(b"lib\0") < data.index(b"lib/a\0") < data.index(b"lib/a/b\0")
    assert data.count(b"lib/a\0") == 1
    struct.pack_into("<I", elf, 64, 3)
    program.write_bytes(elf)
    assert not is_static_elf(bytes(elf))
    with pytest.raises(GuestBuildError, match="busybox-static"):
        build_initramfs(tmp_path / "3", busybox=program)
    assert "echo UP" in initramfs.BUSYBOX_INIT


@pytest.mark.parametrize("text", ["", "2X", "G", "-1G", "1.5G"])
def test_bad_size(text: str) -> None:
    """A size that is none is refused with the option's name."""
    with pytest.raises(GuestBuildError, match="--size"):
        parse_size(text)


@pytest.mark.parametrize(
    "disk",
    [
        DebianDisk(size=1 << 20),
        DebianDisk(size=4 << 40),
        DebianDisk(suite="../x"),
        DebianDisk(kernel="a b"),
        DebianDisk(root_password="a\nb"),
        DebianDisk(hostname="-x"),
        DebianDisk(extra_packages=("--x",)),
    ],
)
def test_bad_disk(disk: DebianDisk) -> None:
    """Values that cannot work are refused before anything is fetched."""
    with pytest.raises(GuestBuildError):
        disk.check()


def test_not_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without root: one line that says what to do, and no file."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(GuestBuildError, match=r"root.*sudo") as caught:
        build_debian_disk(tmp_path / "disk.qcow2")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each missing tool is named, with its package."""
    monkeypatch.setattr("pyvmm.guests.tools.find_tool", lambda name: None)
    with pytest.raises(
        GuestBuildError, match="missing debootstrap, mke2fs: apt-get install debootstrap e2fsprogs"
    ):
        require_tools(["mke2fs", "debootstrap"])


def test_failed_tool(tmp_path: Path) -> None:
    """A tool that fails is one line with its last words and the log."""
    log = tmp_path / "log"
    with pytest.raises(GuestBuildError, match=r"sh failed \(3\): it broke \(see .*log\)"):
        run_logged(["sh", "-c", "echo first; echo it broke >&2; exit 3"], log)
