"""A guest's virtio-blk driver of a few lines, for `SmpMachine` programs: PCI, one queue, its MSI-X vector, reads.

The queue lies at QUEUE, filled beforehand: every entry of the available ring is the same read of sector 0. The driver
only moves the available index, notifies, and waits for the used index (virtio 1.2 §2.7, §4.1, §5.2).
"""

from __future__ import annotations

import struct

from pyvmm.devices.pci import PciBus
from pyvmm.devices.virtio import VirtioBlk
from tests.conformance.smp_rig import SmpMachine

QUEUE, AVAIL, USED, HEADER, STATUS, DATA = 0x100000, 0x101000, 0x102000, 0x103000, 0x103800, 0x104000
MODERN, MSIX = 0xE0000000, 0xE0010000
"""Where the driver puts BAR 4 and BAR 1."""
NOTIFY = MODERN + 0x3000
SIZE = 16
MSIX_CAPABILITY = 0x11


class Disk:
    """The disk of a machine, as its driver sees it: text for `SmpMachine.program`."""

    def __init__(self, machine: SmpMachine) -> None:
        disk, pci = machine.devices["disk0"], machine.devices["pci"]
        assert isinstance(disk, VirtioBlk)
        assert isinstance(pci, PciBus)
        self.device, self.slot = disk, disk.slot
        self.msix = next(at for number, at in pci[disk.slot].capabilities if number == MSIX_CAPABILITY)
        machine.memory.load(
            QUEUE,
            struct.pack("<QIHHQIHHQIHH", HEADER, 16, 1, 1, DATA, 512, 3, 2, STATUS, 1, 2, 0),
        )
        machine.memory.load(AVAIL, bytes(4 + 2 * SIZE))  # every entry is descriptor 0
        machine.memory.load(HEADER, struct.pack("<IIQ", 0, 0, 0))
        machine.memory.load(USED, bytes(4 + 8 * SIZE))

    def config(self, offset: int, value: int, size: int = 4) -> str:
        """A write to configuration space, mechanism #1."""
        register = {2: "ax", 4: "eax"}[size]
        return f"""
            mov eax, {0x80000000 | self.slot << 11 | offset & 0xFC:#x}; mov dx, 0xcf8; out dx, eax
            mov eax, {value:#x}; mov dx, {0xCFC + (offset & 3):#x}; out dx, {register}
        """

    def message_control(self, value: int) -> str:
        """MSI-X's enable (bit 15) and function mask (bit 14)."""
        return self.config(self.msix + 2, value, 2)

    @staticmethod
    def entry(vector: int, *, masked: bool = False, apic_id: int = 0) -> str:
        """Table entry 0: a message to a local APIC."""
        return f"""
            mov esi, {MSIX:#x}
            mov dword ptr [rsi+12], 1
            mov dword ptr [rsi], {0xFEE00000 | apic_id << 12:#x}; mov dword ptr [rsi+4], 0
            mov dword ptr [rsi+8], {vector}
            mov dword ptr [rsi+12], {int(masked)}
        """

    @staticmethod
    def mask(masked: bool) -> str:
        """Table entry 0's mask bit."""
        return f"mov esi, {MSIX:#x}; mov dword ptr [rsi+12], {int(masked)}"

    def places(self) -> str:
        """BARs, and the right to reach memory."""
        return (
            self.config(0x14, MSIX)
            + self.config(0x20, MODERN)
            + self.config(0x24, 0)
            + self.config(4, 0x406, 2)
        )

    @staticmethod
    def driver(vector: int = 0) -> str:
        """Reset to DRIVER_OK, with the queue's interrupts by a table entry; both indices start at 0."""
        return f"""
            mov esi, {MODERN:#x}
            mov byte ptr [rsi+20], 0
            mov dword ptr [{AVAIL}], 0; mov dword ptr [{USED}], 0
            mov byte ptr [rsi+20], 3
            mov dword ptr [rsi+8], 0; mov dword ptr [rsi+12], 0
            mov dword ptr [rsi+8], 1; mov dword ptr [rsi+12], 1
            mov byte ptr [rsi+20], 11
            mov word ptr [rsi+22], 0; mov word ptr [rsi+24], {SIZE}; mov word ptr [rsi+26], {vector}
            mov dword ptr [rsi+32], {QUEUE}; mov dword ptr [rsi+36], 0
            mov dword ptr [rsi+40], {AVAIL}; mov dword ptr [rsi+44], 0
            mov dword ptr [rsi+48], {USED}; mov dword ptr [rsi+52], 0
            mov word ptr [rsi+28], 1
            mov byte ptr [rsi+20], 15
        """

    @staticmethod
    def kick() -> str:
        """One more read, and a notification."""
        return f"inc word ptr [{AVAIL + 2}]; mov esi, {NOTIFY:#x}; mov word ptr [rsi], 0"

    @staticmethod
    def poll(label: str) -> str:
        """Wait until it is answered, without interrupts."""
        return f"{label}: pause; mov ax, word ptr [{AVAIL + 2}]; cmp ax, word ptr [{USED + 2}]; jne {label}"
