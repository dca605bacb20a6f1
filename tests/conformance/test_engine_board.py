"""The board's HPET and IDE as a guest program has them: interrupts, a message and the main counter; a sector by PIO and
by the bus master, each way (HPET 1.0a; ATA/ATAPI-6; "Programming Interface for Bus Master IDE Controller")."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyvmm.block import open_image
from pyvmm.devices.hpet import Hpet
from pyvmm.devices.ide import Ide, IdeDrive
from pyvmm.devices.pci import IsaBridge, PciBus
from tests.conformance.engine_rig import CONTINUE, DATA, EOI, IRQ_BASE, Rig

MakeRig = Callable[..., Rig]
HPET, APIC = 0xFED00000, 0xFEE00000
MESSAGE = 0x32
SECTORS = 64


def with_hpet(rig: Rig) -> Hpet:
    """In the place of the PIT and the RTC, whose lines are quiet here."""
    rig.interrupts()
    hpet = Hpet(rig.board, rig.board.irq_line(0), rig.board.irq_line(8))
    rig.devices.append(hpet)
    rig.board.mmio.add(HPET, 0x400, hpet)
    return hpet


def start(rig: Rig, program: str, *pages: int) -> None:
    """64-bit code that sees these pages of devices."""
    rig.start("long", program)
    for page in pages:
        rig.tables.map(page, page, 0x1000, "PW")
    rig.board.start_io()


def test_hpet_one_shot(rig: Rig) -> None:
    """Timer 0 in legacy replacement mode is IRQ 0, not before its time and once; the counter counts and halts."""
    with_hpet(rig)
    rig.on(IRQ_BASE, action=EOI)
    start(
        rig,
        f"""mov ebx, {HPET}; mov r8, [rbx]
        mov qword ptr [rbx + 0x10], 0; mov qword ptr [rbx + 0xf0], 0
        mov qword ptr [rbx + 0x100], 4; mov eax, 200000; mov [rbx + 0x108], rax
        mov qword ptr [rbx + 0x10], 3
        sti; hlt; cli
        mov r9, [rbx + 0xf0]; mov qword ptr [rbx + 0x10], 0
        mov r10, [rbx + 0xf0]; mov ecx, 20000; l: dec ecx; jnz l; mov r11, [rbx + 0xf0]; hlt""",
        HPET,
    )
    rig.run()
    state = rig.vcpu.state
    assert rig.vectors == [IRQ_BASE]
    assert (state.r8 & 0xFFFFFFFF, state.r8 >> 32) == (0x8086A201, 10_000_000)  # 10 ns, in femtoseconds
    assert 200_000 <= state.r9 <= state.r10
    assert state.r10 == state.r11, "it is halted"


def test_hpet_periodic(rig: Rig) -> None:
    """Each period interrupts, timer 1 as IRQ 8; the accumulator goes on by the period."""
    with_hpet(rig)
    rig.on(IRQ_BASE + 8, action=EOI)
    start(
        rig,
        f"""mov ebx, {HPET}
        mov qword ptr [rbx + 0x10], 0; mov qword ptr [rbx + 0xf0], 0
        mov qword ptr [rbx + 0x120], 0x4c; mov eax, 300000; mov [rbx + 0x128], rax
        mov r8, [rbx + 0x120]; mov qword ptr [rbx + 0x10], 3
        mov esi, 4; l: sti; hlt; cli; dec esi; jnz l
        mov qword ptr [rbx + 0x10], 0; mov r9, [rbx + 0x128]; mov r10, [rbx + 0xf0]; hlt""",
        HPET,
    )
    rig.run()
    state = rig.vcpu.state
    assert rig.vectors == [IRQ_BASE + 8] * 4
    if not state.r8 & 0x10:
        pytest.fail("timer 1 is not periodic")
    assert state.r10 >= 4 * 300_000
    assert state.r9 % 300_000 == 0
    assert state.r9 > state.r10 - 300_000


def test_hpet_message(make_rig: MakeRig) -> None:
    """By FSB: the local APIC's vector, with no wire between them."""
    rig = make_rig(apic=True)
    hpet = Hpet(rig.board, rig.board.irq_line(0), rig.board.irq_line(8))
    rig.devices.append(hpet)
    rig.board.mmio.add(HPET, 0x400, hpet)
    rig.on(MESSAGE, action=CONTINUE)
    start(
        rig,
        f"""mov ebp, {APIC}; mov dword ptr [rbp + 0xf0], 0x1ff
        mov ebx, {HPET}; mov r8, [rbx + 0x140]
        mov dword ptr [rbx + 0x150], {MESSAGE}; mov dword ptr [rbx + 0x154], {APIC}
        mov qword ptr [rbx + 0x140], 0x4004; mov eax, 200000; mov [rbx + 0x148], rax
        mov qword ptr [rbx + 0x10], 1
        sti; hlt; cli; mov dword ptr [rbp + 0xb0], 0; hlt""",
        HPET,
        APIC,
    )
    rig.run()
    assert rig.vectors == [MESSAGE]
    assert rig.vcpu.state.r8 & 0x8000, "FSB_INT_DEL_CAP"


def content(sector: int) -> bytes:
    """What a sector holds at first."""
    return bytes((sector * 7 + n * 3 + n // 256) & 0xFF for n in range(512))


def with_ide(rig: Rig, image: Path) -> Ide:
    """The primary channel with a disk, configured as firmware does; both wires of the port are as on a PC."""
    image.write_bytes(b"".join(map(content, range(SECTORS))))
    rig.interrupts()
    board = rig.board
    disk = open_image(image, "raw", cache="unsafe")
    pci = PciBus(board)
    isa = IsaBridge(board, pci, 1)
    ide = Ide(board, pci, 1, (board.irq_line(14), board.irq_line(15)), [IdeDrive("disk", disk)])
    closing: list[Any] = [ide, isa, pci, disk]
    rig.devices += closing
    board.pio.add(0xCF8, 1, pci, PciBus.ADDRESS)
    board.pio.add(0xCFC, 4, pci, PciBus.DATA)
    board.pio.add(0x1F0, 8, ide, Ide.COMMAND[0])
    board.pio.add(0x3F6, 1, ide, Ide.CONTROL[0])
    rig.on(IRQ_BASE + 14, action=EOI)
    return ide


def configure(register: int, value: int, part: str) -> str:
    """A write to configuration space of slot 1, function 1, by mechanism 1."""
    where = 0x80000000 | 9 << 8 | register & ~3
    data = 0xCFC + register % 4
    return f"""mov eax, {where}; mov dx, 0xcf8; out dx, eax
        mov eax, {value}; mov dx, {data}; out dx, {part}
        """


CONFIGURE = configure(0x40, 0x8000, "ax") + configure(0x20, 0xC001, "eax") + configure(0x04, 5, "ax")
BUS_MASTER = 0xC000
TABLE, BUFFER = DATA + 0x1000, DATA + 0x2000


def command(code: int, lba: int, count: int = 1) -> str:
    """The task file for an LBA28 command."""
    values = (count, lba & 0xFF, lba >> 8 & 0xFF, lba >> 16 & 0xFF, 0xE0 | lba >> 24, code)
    return (
        "; ".join(f"mov al, {value}; mov dx, {0x1F2 + n}; out dx, al" for n, value in enumerate(values))
        + "\n"
    )


WAIT = "w{0}: mov dx, 0x3f6; in al, dx; test al, 0x80; jnz w{0}\n"


def test_ide_pio(rig: Rig, tmp_path: Path) -> None:
    """READ SECTORS interrupts when the data is there; WRITE SECTORS when it was taken. INS and OUTS move it."""
    image = tmp_path / "disk.raw"
    ide = with_ide(rig, image)
    start(
        rig,
        f"""{CONFIGURE}{command(0x20, 5)}
        sti; hlt; cli
        mov dx, 0x1f7; in al, dx; movzx r8d, al
        mov edi, {DATA}; mov ecx, 256; mov dx, 0x1f0; cld; rep insw
        mov dx, 0x1f7; in al, dx; movzx r9d, al
        {command(0x30, 9)}{WAIT.format(1)}
        movzx r10d, al
        mov esi, {DATA}; mov ecx, 256; mov dx, 0x1f0; rep outsw
        sti; hlt; cli
        mov dx, 0x1f7; in al, dx; movzx r11d, al; hlt""",
    )
    rig.run()
    state = rig.vcpu.state
    assert rig.vectors == [IRQ_BASE + 14] * 2
    assert (state.r8, state.r9, state.r10, state.r11) == (0x58, 0x50, 0x58, 0x50)
    assert rig.memory.read(DATA, 512) == content(5)
    assert image.read_bytes()[9 * 512 : 10 * 512] == content(5)
    assert ide.counters(0).errors == 0


def test_ide_dma(rig: Rig, tmp_path: Path) -> None:
    """READ DMA and WRITE DMA of two sectors by a table of two regions; the interrupt's bit is the bus master's too."""
    image = tmp_path / "disk.raw"
    ide = with_ide(rig, image)

    def transfer(code: int, lba: int, direction: int) -> str:
        return f"""mov dx, {BUS_MASTER + 4}; mov eax, {TABLE}; out dx, eax
        mov dx, {BUS_MASTER + 2}; mov al, 0x66; out dx, al
        mov dx, {BUS_MASTER}; mov al, {direction}; out dx, al
        {command(code, lba, 2)}
        mov dx, {BUS_MASTER}; mov al, {direction | 1}; out dx, al
        sti; hlt; cli
        mov dx, {BUS_MASTER + 2}; in al, dx; movzx r8d, al; mov dx, {BUS_MASTER}; mov al, 0; out dx, al
        mov dx, 0x1f7; in al, dx; movzx r9d, al
        """

    start(
        rig,
        f"""{CONFIGURE}
        mov dword ptr [{TABLE}], {BUFFER}; mov dword ptr [{TABLE + 4}], 512
        mov dword ptr [{TABLE + 8}], {BUFFER + 0x800}; mov dword ptr [{TABLE + 12}], {0x80000000 | 512}
        {transfer(0xC8, 17, 8)}
        mov r10, r8; mov r11, r9
        {transfer(0xCA, 40, 0)}hlt""",
    )
    rig.run()
    state = rig.vcpu.state
    assert rig.vectors == [IRQ_BASE + 14] * 2
    assert (state.r10 & 7, state.r11) == (4, 0x50), "an interrupt, no error, not active"
    assert (state.r8 & 7, state.r9) == (4, 0x50)
    assert rig.memory.read(BUFFER, 512) == content(17)
    assert rig.memory.read(BUFFER + 0x800, 512) == content(18)
    assert image.read_bytes()[40 * 512 : 42 * 512] == content(17) + content(18)
    assert ide.counters(0).dma_transfers == 2
