"""The guest's real-mode code on a CPU without a machine: BIOS answers that no firmware at hand gives.

The boot sector and setup.S run in Unicorn; the BIOS calls are answered here. So the ways are tried that SeaBIOS never
takes: a disk that fails in the middle of an extended read, a BIOS without E820, an A20 line that one method opens.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import unicorn as uc
from unicorn import x86_const as x86

from tests.boot.builtin_build import guest

__all__ = ["guest"]  # the fixture

pytestmark = pytest.mark.boot

MIB = 1 << 20
IMAGE = 0x10000
CARRY = 1


@dataclass
class Pc:
    """A CPU in real mode, 2 MiB of memory and the few things that a test changes."""

    gate: str = "open"  # what opens A20: open, int15, 8042, port92, never
    bios: dict[int, Callable[[Pc], bool]] = field(default_factory=dict)
    printed: bytearray = field(default_factory=bytearray)
    serial: bytearray = field(default_factory=bytearray)
    calls: list[int] = field(default_factory=list)
    kbd_command: int = 0

    def __post_init__(self) -> None:
        self.cpu: Any = uc.Uc(uc.UC_ARCH_X86, uc.UC_MODE_16)
        self.low = ctypes.create_string_buffer(MIB)
        self.high = ctypes.create_string_buffer(MIB)
        self.cpu.mem_map_ptr(0, MIB, uc.UC_PROT_ALL, ctypes.addressof(self.low))
        self.cpu.mem_map_ptr(MIB, MIB, uc.UC_PROT_ALL, ctypes.addressof(self.low))
        self.cpu.hook_add(uc.UC_HOOK_INTR, self._interrupt)
        self.cpu.hook_add(uc.UC_HOOK_INSN, self._in, None, 1, 0, x86.UC_X86_INS_IN)
        self.cpu.hook_add(uc.UC_HOOK_INSN, self._out, None, 1, 0, x86.UC_X86_INS_OUT)
        self.opens("open")

    def opens(self, method: str) -> None:
        """Open A20 when `method` is the one that works here: memory above 1 MiB becomes memory of its own."""
        if method == self.gate:
            self.cpu.mem_unmap(MIB, MIB)
            self.cpu.mem_map_ptr(MIB, MIB, uc.UC_PROT_ALL, ctypes.addressof(self.high))

    def get(self, name: str) -> int:
        """Return a register by its name."""
        return int(self.cpu.reg_read(getattr(x86, f"UC_X86_REG_{name.upper()}")))

    def put(self, **registers: int) -> None:
        """Set registers by name; `carry` sets or clears CF."""
        for name, value in registers.items():
            if name == "carry":
                self.cpu.reg_write(x86.UC_X86_REG_EFLAGS, self.get("eflags") & ~CARRY | value)
            else:
                self.cpu.reg_write(getattr(x86, f"UC_X86_REG_{name.upper()}"), value)

    def run(self, at: int, until: int) -> None:
        """Run from `at` to `until` or to HLT."""
        self.put(cs=at >> 16, ss=0, esp=0x7C00, edx=0x80)
        self.cpu.emu_start((at >> 16) * 16 + (at & 0xFFFF), until, count=2_000_000)

    def _interrupt(self, cpu: object, number: int, _: object) -> None:
        if number == 0x10:
            self.printed.append(self.get("al"))
            return
        call = number << 8 | self.get("ah")
        self.calls.append(call)
        answer = self.bios.get(call)
        self.put(carry=0 if answer and answer(self) else 1)

    def _in(self, cpu: object, port: int, size: int, _: object) -> int:
        return 0x20 if port == 0x3FD else 0  # THR empty; 8042 input buffer empty

    def _out(self, cpu: object, port: int, size: int, value: int, _: object) -> None:
        if port == 0x3F8:
            self.serial.append(value)
        elif port == 0x64:
            self.kbd_command = value
        elif port == 0x60 and self.kbd_command == 0xD1 and value & 2:
            self.opens("8042")
        elif port == 0x92 and value & 3 == 2:
            self.opens("port92")


def load_setup(pc: Pc, guest: Path) -> bytes:
    """Put setup.bin where the boot sector would, with a short kernel behind it; return that kernel."""
    kernel = bytes(range(256)) * 8
    setup = bytearray((guest / "guest" / "setup.bin").read_bytes())
    struct.pack_into("<I", setup, 8, len(kernel))
    pc.cpu.mem_write(IMAGE, bytes(setup) + kernel)
    return kernel


def start_info(pc: Pc) -> list[tuple[int, int, int]]:
    """Return the memory map that the kernel would see in hvm_start_info."""
    at = pc.get("ebx")
    magic, version = struct.unpack("<II", pc.cpu.mem_read(at, 8))
    assert (magic, version) == (0x336EC578, 1)
    table, count = struct.unpack("<QI", pc.cpu.mem_read(at + 40, 12))
    rows = [struct.unpack("<QQII", pc.cpu.mem_read(table + 24 * i, 24)) for i in range(count)]
    return [(base, size, kind) for base, size, kind, _ in rows]


def e820(*rows: tuple[int, int, int]) -> Callable[[Pc], bool]:
    """Answer INT 15h E820h with `rows`."""

    def answer(pc: Pc) -> bool:
        index = pc.get("ebx")
        assert pc.get("edx") == 0x534D4150
        pc.cpu.mem_write(pc.get("es") * 16 + pc.get("di"), struct.pack("<QQI", *rows[index]))
        pc.put(eax=0x534D4150, ecx=20, ebx=(index + 1) % len(rows))
        return True

    return answer


def registers(**values: int) -> Callable[[Pc], bool]:
    """Answer a BIOS call with these registers."""

    def answer(pc: Pc) -> bool:
        pc.put(**values)
        return True

    return answer


def a20_by_bios(pc: Pc) -> bool:
    """INT 15h 2401h, where it works."""
    pc.opens("int15")
    return pc.gate == "int15"


ROWS = ((0, 0x9FC00, 1), (0x100000, 0, 1), (0x100000, 0x7F00000, 1), (0xFFFC0000, 0x40000, 2))


@pytest.mark.parametrize("gate", ["open", "int15", "8042", "port92"])
def test_setup_opens_a20_by_any_way(guest: Path, gate: str) -> None:
    """Whatever method works, the kernel arrives at 1 MiB with the memory map; empty ranges are left out."""
    pc = Pc(gate)
    kernel = load_setup(pc, guest)
    pc.bios = {0x1524: a20_by_bios, 0x15E8: e820(*ROWS)}
    pc.run(0x10000000, MIB)
    assert pc.get("eip") == MIB, bytes(pc.printed)
    assert bytes(pc.cpu.mem_read(MIB, len(kernel))) == kernel
    assert start_info(pc) == [row for row in ROWS if row[1]]


def test_setup_gives_up_without_a20(guest: Path) -> None:
    """A line that nothing opens is said, not ignored."""
    pc = Pc("never")
    load_setup(pc, guest)
    pc.run(0x10000000, MIB)
    assert b"A20 cannot be opened" in pc.printed
    assert pc.printed == pc.serial
    assert pc.get("cs") == 0x1000, "still in real mode"


def test_setup_memory_by_e801(guest: Path) -> None:
    """Without E820: conventional memory by INT 12h, the rest by E801h (in CX and DX, or AX and BX)."""

    def no_e820_but_e801(pc: Pc) -> bool:
        if pc.get("al") != 0x01:
            return False
        pc.put(ax=15 * 1024, bx=1792, cx=0, dx=0)
        return True

    pc = Pc("open")
    load_setup(pc, guest)
    pc.bios = {0x15E8: no_e820_but_e801}
    pc.bios |= {0x1200 | ah: registers(ax=639) for ah in range(256)}
    pc.run(0x10000000, MIB)
    assert start_info(pc) == [(0, 639 << 10, 1), (MIB, 15 << 20, 1), (16 << 20, 112 << 20, 1)]


def test_setup_memory_by_88h(guest: Path) -> None:
    """The oldest call is the last resort."""
    pc = Pc("open")
    load_setup(pc, guest)
    pc.bios = {0x1588: registers(ax=31 * 1024)} | {0x1200 | ah: registers(ax=640) for ah in range(256)}
    pc.run(0x10000000, MIB)
    assert start_info(pc) == [(0, 640 << 10, 1), (MIB, 31 << 20, 1)]


class Drive:
    """A disk behind INT 13h: extended reads fail from one sector on, if told so."""

    def __init__(
        self,
        data: bytes,
        edd: bool = True,
        broken_from: int = 1 << 32,
        chs_failures: int = 0,
        geometry: tuple[int, int] = (2, 18),
    ) -> None:
        self.heads, self.spt = geometry
        self.data, self.edd, self.broken_from, self.chs_failures = data, edd, broken_from, chs_failures

    def calls(self) -> dict[int, Callable[[Pc], bool]]:
        """Return the functions as a Pc wants them."""
        return {0x1341: self.check, 0x1342: self.read, 0x1308: self.geometry, 0x1302: self.read_chs,
                0x1300: lambda pc: True}  # fmt: skip

    def check(self, pc: Pc) -> bool:
        """41h: are there extensions?"""
        if self.edd:
            pc.put(bx=0xAA55, cx=1)
        return self.edd

    def read(self, pc: Pc) -> bool:
        """42h: read by packet."""
        assert pc.get("dl") == 0x80
        size, count, offset, segment, lba = struct.unpack("<HHHHQ", pc.cpu.mem_read(pc.get("si"), 16))
        assert size == 16
        assert count <= 127
        if lba + count > self.broken_from:
            return False
        pc.cpu.mem_write(segment * 16 + offset, self.data[lba * 512 : (lba + count) * 512])
        return True

    def geometry(self, pc: Pc) -> bool:
        """08h: heads and sectors; ES:DI is overwritten as for a floppy."""
        pc.put(cx=0xFFC0 | self.spt, dx=(self.heads - 1) << 8 | 1, es=0xF000, di=0x1234)
        return True

    def read_chs(self, pc: Pc) -> bool:
        """02h: one sector."""
        assert pc.get("al") == 1
        assert pc.get("dl") == 0x80
        if self.chs_failures:
            self.chs_failures -= 1
            return False
        cylinder = pc.get("ch") | (pc.get("cl") & 0xC0) << 2
        lba = (cylinder * self.heads + pc.get("dh")) * self.spt + (pc.get("cl") & 63) - 1
        pc.cpu.mem_write(pc.get("es") * 16 + pc.get("bx"), self.data[lba * 512 : lba * 512 + 512])
        return True


def boot(guest: Path, drive: Drive) -> Pc:
    """Run the boot sector of `drive` until it jumps to the boot image or halts."""
    pc = Pc("open")
    pc.cpu.mem_write(0x7C00, drive.data[:512])
    pc.bios = drive.calls()
    pc.run(0x7C00, IMAGE)
    return pc


@pytest.mark.parametrize(
    "options",
    [{}, {"edd": False}, {"broken_from": 40}, {"edd": False, "chs_failures": 2}],
    ids=["extensions", "chs", "extensions fail half-way", "chs with retries"],
)
def test_boot_sector_reads_the_image(guest: Path, options: dict[str, Any]) -> None:
    """All sectors of the boot image arrive, whatever the BIOS offers."""
    data = (guest / "builtin.raw").read_bytes()
    pc = boot(guest, Drive(data, **options))
    (sectors,) = struct.unpack_from("<H", data, 0x1B0)
    assert (pc.get("cs"), pc.get("ip")) == (0x1000, 0), bytes(pc.printed)
    assert bytes(pc.cpu.mem_read(IMAGE, sectors * 512)) == data[512 : 512 + sectors * 512]
    assert pc.get("dl") == 0x80


def test_boot_sector_reads_many_cylinders(guest: Path) -> None:
    """Cylinder numbers above 255 have their high bits in CL (a boot image of 700 sectors on 2 per cylinder)."""
    data = bytearray((guest / "builtin.raw").read_bytes())
    struct.pack_into("<H", data, 0x1B0, 700)
    data[200 * 512 : 701 * 512] = b"".join(struct.pack("<I", lba) * 128 for lba in range(200, 701))
    pc = boot(guest, Drive(bytes(data), edd=False, geometry=(1, 2)))
    assert (pc.get("cs"), pc.get("ip")) == (0x1000, 0), bytes(pc.printed)
    assert bytes(pc.cpu.mem_read(IMAGE, 700 * 512)) == data[512 : 701 * 512]


def test_boot_sector_reports_a_broken_disk(guest: Path) -> None:
    """Three tries, then a message."""
    pc = boot(guest, Drive((guest / "builtin.raw").read_bytes(), edd=False, chs_failures=3))
    assert b"disk read error" in pc.printed
    assert b"disk read error" in pc.serial
    assert pc.calls.count(0x1302) == 3


def test_boot_sector_wants_its_image(guest: Path) -> None:
    """An MBR copied to another disk says what is missing."""
    data = bytearray((guest / "builtin.raw").read_bytes())
    data[512:1024] = bytes(512)
    assert b"no boot image after the MBR" in boot(guest, Drive(bytes(data))).printed
