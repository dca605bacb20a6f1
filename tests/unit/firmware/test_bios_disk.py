"""INT 13h and INT 19h: geometry, transfers, EDD, El Torito, boot order."""

from __future__ import annotations

import struct

import pytest
from bios_machine import Caller, FakeImage

from pyvmm.errors import BootError, ImageError
from pyvmm.firmware.drives import Geometry, floppy_format, hard_disk_geometry
from pyvmm.firmware.eltorito import read_boot_entry
from pyvmm.firmware.platform import Drive
from pyvmm.units import GIB, KIB, MIB

SIGNATURE = b"\x55\xaa"


def disk(size: int = 8 * MIB, *, boot: bool = True, read_only: bool = False) -> FakeImage:
    data = bytearray(size)
    for lba in range(size // 512):
        data[lba * 512 : lba * 512 + 4] = lba.to_bytes(4, "little")
    if boot:
        data[510:512] = SIGNATURE
    return FakeImage(data, read_only)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (8 * MIB, Geometry(16, 16, 63)),
        (504 * MIB, Geometry(1024, 16, 63)),
        (1 * GIB, Geometry(520, 64, 63)),
        (100 * GIB, Geometry(1024, 255, 63)),
        (512, Geometry(1, 16, 63)),
    ],
)
def test_hard_disk_geometry(size: int, expected: Geometry) -> None:
    assert hard_disk_geometry(size // 512) == expected


def test_floppy_by_size_by_bpb_and_neither() -> None:
    assert floppy_format(FakeImage(bytearray(1440 * KIB)), "a").geometry == Geometry(80, 2, 18)
    odd = bytearray(82 * 2 * 18 * 512)
    odd[0x0B:0x0D] = b"\0\2"
    odd[0x18:0x1C] = b"\x12\0\x02\0"
    assert floppy_format(FakeImage(odd), "b").geometry == Geometry(82, 2, 18)
    with pytest.raises(ImageError, match=r"odd\.img: 1000 bytes is no floppy size"):
        floppy_format(FakeImage(bytearray(1000)), "odd.img")


def test_chs_read_write_and_verify() -> None:
    image = disk()
    guest = Caller([Drive("hd", image)])
    frame = guest.service(0x13, ax=0x0202, cx=0x0003, dx=0x0180, es=0x1000, bx=0x10)
    assert (frame.carry, frame.ah, frame.al) == (False, 0, 2)
    assert guest.memory.read(0x10010, 4) == (63 + 2).to_bytes(4, "little")
    guest.memory.write(0x20000, b"written".ljust(512, b"."))
    assert not guest.service(0x13, ax=0x0301, cx=0x0105, dx=0x0080, es=0x2000, bx=0).carry
    assert image.pread(7, (16 * 63 + 4) * 512) == b"written"
    assert not guest.service(0x13, ax=0x0401, cx=1, dx=0x80).carry


@pytest.mark.parametrize(
    ("registers", "code"),
    [
        ({"ax": 0x0201, "cx": 0x0000, "dx": 0x80}, 0x04),  # sector 0
        ({"ax": 0x0201, "cx": 0x0001, "dx": 0x1080}, 0x04),  # head 16
        ({"ax": 0x0200, "cx": 0x0001, "dx": 0x80}, 0x01),  # no sectors
        ({"ax": 0x0201, "cx": 0x0001, "dx": 0x81}, 0x01),  # no such hard disk
        ({"ax": 0x0201, "cx": 0x0001, "dx": 0x00}, 0x80),  # no such floppy
        ({"ax": 0x0201, "cx": 0x0001, "dx": 0x80, "es": 0xA000}, 0x09),  # no RAM there
        ({"ax": 0x0501, "cx": 0x0001, "dx": 0x80}, 0x01),  # format
    ],
)
def test_bad_chs_calls(registers: dict[str, int], code: int) -> None:
    guest = Caller([Drive("hd", disk())])
    frame = guest.service(0x13, **registers)
    assert (frame.carry, frame.ah) == (True, code)


def test_write_to_read_only_disk() -> None:
    image = disk(read_only=True)
    before = bytes(image.data)
    frame = Caller([Drive("hd", image)]).service(0x13, ax=0x0301, cx=1, dx=0x80, es=0x2000)
    assert (frame.carry, frame.ah) == (True, 0x03)
    assert bytes(image.data) == before


def test_host_error_becomes_controller_failure() -> None:
    image = disk()
    guest = Caller([Drive("hd", image)])
    image.pread = lambda offset, size: (_ for _ in ()).throw(OSError(5, "I/O error"))  # type: ignore[method-assign]
    frame = guest.service(0x13, ax=0x0201, cx=1, dx=0x80, es=0x1000)
    assert (frame.carry, frame.ah) == (True, 0x20)
    status = guest.service(0x13, ax=0x0100, dx=0x80)
    assert status.ah == 0x20


def test_parameters_and_type() -> None:
    guest = Caller([Drive("hd0", disk()), Drive("hd1", disk()), Drive("fd", disk(1440 * KIB), "floppy")])
    frame = guest.service(0x13, ax=0x0800, dx=0x80)
    assert (frame.ch, frame.cl, frame.dh, frame.dl) == (15, 63, 15, 2)
    frame = guest.service(0x13, ax=0x0800, dx=0x00)
    assert (frame.ch, frame.cl, frame.dh, frame.dl, frame.bl) == (79, 18, 1, 1, 4)
    frame = guest.service(0x13, ax=0x1500, dx=0x80)
    assert (frame.ah, frame.cx << 16 | frame.dx) == (3, 8 * MIB // 512)
    assert guest.service(0x13, ax=0x1500, dx=0x85).ah == 0
    assert guest.memory.read(0x475, 1) == b"\x02"


def packet(guest: Caller, lba: int, count: int, offset: int, segment: int, flat: int | None = None) -> None:
    size = 16 if flat is None else 24
    guest.memory.write(0x5000, struct.pack("<BBHHHQQ", size, 0, count, offset, segment, lba, flat or 0))


def test_edd() -> None:
    image = disk()
    guest = Caller([Drive("hd", image)])
    frame = guest.service(0x13, ax=0x4100, bx=0x55AA, dx=0x80)
    assert (frame.carry, frame.bx, frame.ah, frame.cx & 1) == (False, 0xAA55, 0x30, 1)
    packet(guest, 1000, 4, 0, 0x2000)
    assert not guest.service(0x13, ax=0x4200, dx=0x80, si=0x5000).carry
    assert guest.memory.read(0x20000 + 3 * 512, 4) == (1003).to_bytes(4, "little")
    packet(guest, 7, 1, 0xFFFF, 0xFFFF, flat=0x200000)
    assert not guest.service(0x13, ax=0x4200, dx=0x80, si=0x5000).carry
    assert guest.memory.read(0x200000, 4) == (7).to_bytes(4, "little")
    packet(guest, 8 * MIB // 512 - 1, 2, 0, 0x2000)
    frame = guest.service(0x13, ax=0x4200, dx=0x80, si=0x5000)
    assert (frame.carry, frame.ah, guest.memory.read(0x5002, 1)) == (True, 0x04, b"\0")
    packet(guest, 1 << 63, 1, 0, 0x2000)
    assert guest.service(0x13, ax=0x4300, dx=0x80, si=0x5000).carry
    guest.memory.write(0x5000, struct.pack("<H", 30))
    assert not guest.service(0x13, ax=0x4800, dx=0x80, si=0x5000).carry
    size, flags, cylinders, heads, sectors, total, sector = struct.unpack(
        "<HHIIIQH", guest.memory.read(0x5000, 26)
    )
    assert (size, flags, cylinders, heads, sectors, total, sector) == (30, 2, 16, 16, 63, 16384, 512)


def test_packet_outside_of_ram_is_an_error_not_an_exception() -> None:
    guest = Caller([Drive("hd", disk())])
    assert guest.service(0x13, ax=0x4200, dx=0x80, ds=0xA000, si=0).carry


def cd(media: int = 0, *, segment: int = 0, load: int = 4, checksum_ok: bool = True) -> FakeImage:
    data = bytearray(2048 * 2000)
    data[17 * 2048 : 17 * 2048 + 39] = b"\0CD001\1EL TORITO SPECIFICATION".ljust(39, b"\0")
    data[17 * 2048 + 0x47 : 17 * 2048 + 0x4B] = (20).to_bytes(4, "little")
    validation = bytearray(32)
    validation[0], validation[0x1E:0x20] = 1, SIGNATURE
    words = sum(struct.unpack("<16H", validation))
    validation[0x1C:0x1E] = (-words & 0xFFFF if checksum_ok else 1).to_bytes(2, "little")
    data[20 * 2048 : 20 * 2048 + 32] = validation
    data[20 * 2048 + 32 : 20 * 2048 + 44] = struct.pack("<BBHBxHI", 0x88, media, segment, 0, load, 30)
    data[30 * 2048 : 30 * 2048 + 4] = b"BOOT"
    if media == 4:
        data[30 * 2048 + 0x1BE : 30 * 2048 + 0x1CE] = struct.pack(
            "<BBBBBBBBII", 0x80, 0, 2, 0, 6, 15, 32, 3, 1, 2047
        )
    return FakeImage(data, True)


def test_cd_without_emulation() -> None:
    guest = Caller([Drive("cd", cd(), "cdrom")])
    frame = guest.service(0x19)
    assert (frame.cs, frame.ip, frame.dl) == (0, 0x7C00, 0xE0)
    assert guest.memory.read(0x7C00, 4) == b"BOOT"
    frame = guest.service(0x13, ax=0x4B01, dx=0xE0, si=0x5000)
    assert not frame.carry
    assert guest.memory.read(0x5000, 8) == struct.pack("<BBBBI", 0x13, 0, 0xE0, 0, 30)
    packet(guest, 30, 1, 0, 0x2000)
    assert not guest.service(0x13, ax=0x4200, dx=0xE0, si=0x5000).carry
    assert guest.memory.read(0x20000, 4) == b"BOOT"
    guest.memory.write(0x5000, struct.pack("<H", 26))
    guest.service(0x13, ax=0x4800, dx=0xE0, si=0x5000)
    assert struct.unpack("<HHIIIQH", guest.memory.read(0x5000, 26))[6] == 2048


def test_cd_segment() -> None:
    frame = Caller([Drive("cd", cd(segment=0x1000), "cdrom")]).service(0x19)
    assert (frame.cs, frame.ip) == (0x1000, 0)


def test_cd_floppy_emulation_moves_the_real_floppy() -> None:
    guest = Caller(
        [Drive("cd", cd(media=2, load=1), "cdrom"), Drive("fd", disk(1440 * KIB), "floppy")], order="d"
    )
    assert guest.service(0x19).dl == 0x00
    frame = guest.service(0x13, ax=0x0201, cx=1, dx=0x00, es=0x2000)
    assert not frame.carry
    assert guest.memory.read(0x20000, 4) == b"BOOT"
    guest.service(0x13, ax=0x0201, cx=2, dx=0x01, es=0x2000)
    assert guest.memory.read(0x20000, 4) == (1).to_bytes(4, "little")
    assert guest.service(0x13, ax=0x0301, cx=1, dx=0x00, es=0x2000).ah == 0x03
    assert not guest.service(0x13, ax=0x4B00, dx=0x00, si=0x5000).carry
    guest.service(0x13, ax=0x0201, cx=2, dx=0x00, es=0x2000)
    assert guest.memory.read(0x20000, 4) == (1).to_bytes(4, "little")


def test_cd_hard_disk_emulation() -> None:
    guest = Caller([Drive("cd", cd(media=4, load=1), "cdrom"), Drive("hd", disk())], order="d")
    assert guest.service(0x19).dl == 0x80
    frame = guest.service(0x13, ax=0x0800, dx=0x80)
    assert (frame.dh, frame.cl & 0x3F, frame.dl) == (15, 32, 2)
    assert guest.memory.read(0x475, 1) == b"\x02"


def test_damaged_catalogue() -> None:
    guest = Caller([Drive("cd.iso", cd(checksum_ok=False), "cdrom")], order="d")
    with pytest.raises(ValueError, match="validation entry is damaged"):
        read_boot_entry(guest.bios.disk.drives[0xE0])
    with pytest.raises(
        BootError, match=r"CD 0 \(cd.iso\): boot catalogue in sector 20: validation entry is damaged"
    ):
        guest.service(0x19)


def test_boot_sector() -> None:
    frame = Caller([Drive("hd", disk())]).service(0x19, ax=0x1234)
    assert (frame.cs, frame.ip, frame.dl, frame.flags & 0x200) == (0, 0x7C00, 0x80, 0x200)


def test_boot_order_and_reasons() -> None:
    drives = [
        Drive("bad.img", disk(boot=False)),
        Drive("cd.iso", FakeImage(bytearray(2048 * 100)), "cdrom"),
        Drive("fd.img", disk(1440 * KIB), "floppy"),
    ]
    guest = Caller(drives)
    assert guest.service(0x19).dl == 0x00
    assert (
        "hard disk 0 (bad.img): no boot signature 55AA at offset 510 of sector 0" in guest.bios.screen.text()
    )
    with pytest.raises(BootError) as caught:
        guest.service(0x18)
    text = str(caught.value)
    assert "\n" not in text
    assert "bad.img" in text
    assert "no El Torito boot record in sector 17" in text
    assert "gave up (INT 18h)" in text


def test_nothing_to_boot() -> None:
    with pytest.raises(BootError, match="hard disk: none; CD: none; floppy: none"):
        Caller().service(0x19)
