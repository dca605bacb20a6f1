"""What an exit's address means: devices' registers, MSRs, and what a paravirtual guest does instead.

A table by device, as the buses name them. Registers are called as in their datasheets (docs/references.md). Left out:
registers of network cards and of Python devices, which are named by their offset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pyvmm.bus import BusRange


@dataclass(frozen=True, slots=True)
class Hardware:
    """A device that guests have to leave for.

    Attributes
    ----------
    title
        What people call it.
    section
        Its specification.
    instead
        What a paravirtual guest does in its place.
    registers
        Name by address (ports that never move) or by offset.
    written
        Where a store means another register than a load.
    """

    title: str
    section: str
    instead: str
    registers: Mapping[int, str] = field(default_factory=dict)
    written: Mapping[int, str] = field(default_factory=dict)

    def register(self, address: int, offset: int, *, write: bool) -> str:
        """Name of a register, or nothing."""
        for table in (self.written if write else {}, self.registers):
            for key in (address, offset):
                if key in table:
                    return table[key]
        return ""


_LAPIC = {
    0x20: "ID", 0x30: "version", 0x80: "task priority (TPR)", 0xA0: "processor priority (PPR)",
    0xB0: "end of interrupt (EOI)", 0xD0: "logical destination", 0xE0: "destination format",
    0xF0: "spurious interrupt vector", 0x280: "error status", 0x2F0: "LVT CMCI",
    0x300: "interrupt command, low (ICR)", 0x310: "interrupt command, high (ICR)", 0x320: "LVT timer",
    0x330: "LVT thermal", 0x340: "LVT performance counters", 0x350: "LVT LINT0", 0x360: "LVT LINT1",
    0x370: "LVT error", 0x380: "timer initial count", 0x390: "timer current count", 0x3E0: "timer divide configuration",
    **{0x100 + 16 * i: f"in-service {i}" for i in range(8)},
    **{0x180 + 16 * i: f"trigger mode {i}" for i in range(8)},
    **{0x200 + 16 * i: f"interrupt request {i}" for i in range(8)},
}  # fmt: skip
_HPET = {
    0x0: "capabilities", 0x4: "counter period", 0x10: "configuration", 0x20: "interrupt status", 0xF0: "main counter",
    0xF4: "main counter, high half",
    **{0x100 + 32 * i: f"timer {i} configuration" for i in range(3)},
    **{0x108 + 32 * i: f"timer {i} comparator" for i in range(3)},
    **{0x10C + 32 * i: f"timer {i} comparator, high half" for i in range(3)},
}  # fmt: skip
_IDE = {
    0: "data",
    1: "error",
    2: "sector count",
    3: "LBA low",
    4: "LBA mid",
    5: "LBA high",
    6: "device",
    7: "status",
}
_IDE_PORTS = {base + n: name for base in (0x1F0, 0x170) for n, name in _IDE.items()}
_VIRTIO = (
    "nothing better: virtio is what a paravirtual guest has. A notification can leave by ioeventfd without a return to"
    " the monitor, and event indices save most of them (virtio 1.2 §2.7.10)"
)
_BLOCK = "virtio-blk: one notification for a batch of requests in shared memory, where each sector here is many exits"
_TIMER = (
    "a virtual timer: the TSC-deadline timer or a hypercall with the next deadline; time itself from kvmclock"
)
_EOI = (
    "paravirtual end of interrupt: a bit in memory that both sides see says that nothing else waits (KVM's"
    " MSR_KVM_PV_EOI_EN), or x2APIC registers by MSR, or an APIC in the processor (APICv)"
)
_CONSOLE = (
    "a virtio console or a console hypercall: a whole buffer for one exit, not one exit for each character"
)
_INTERRUPTS = "event channels or message signalled interrupts: nothing to mask or acknowledge by a register"

HARDWARE: Mapping[str, Hardware] = {
    "uart16550": Hardware(
        "16550 UART",
        "16550D §8",
        _CONSOLE,
        {
            0: "receiver buffer (RBR)",
            1: "interrupt enable (IER)",
            2: "interrupt identification (IIR)",
            3: "line control (LCR)",
            4: "modem control (MCR)",
            5: "line status (LSR)",
            6: "modem status (MSR)",
            7: "scratch (SCR)",
        },
        {0: "transmitter holding (THR)", 2: "FIFO control (FCR)"},
    ),
    "i8259": Hardware(
        "8259A",
        "8259A datasheet, Programming the 8259A",
        _INTERRUPTS,
        {
            0x20: "master status (IRR or ISR)",
            0x21: "master mask register (IMR)",
            0xA0: "slave status (IRR or ISR)",
            0xA1: "slave mask register (IMR)",
            0x4D0: "master edge/level (ELCR)",
            0x4D1: "slave edge/level (ELCR)",
        },
        {
            0x20: "master command (ICW1, OCW2, OCW3)",
            0x21: "mask register (OCW1), master",
            0xA0: "slave command (ICW1, OCW2, OCW3)",
            0xA1: "mask register (OCW1), slave",
        },
    ),
    "i8254": Hardware(
        "8254 timer (PIT)",
        "8254 datasheet, Programming the 82C54",
        _TIMER,
        {0x40: "counter 0", 0x41: "counter 1", 0x42: "counter 2", 0x43: "control word"},
    ),
    "port61": Hardware(
        "system control port B", "PIIX3 §2.5", _TIMER, {0x61: "NMI status, speaker and PIT gate 2"}
    ),
    "lapic": Hardware("local APIC", "Intel SDM 3A §11.4", _EOI, _LAPIC),
    "ioapic": Hardware(
        "I/O APIC", "82093AA §3", _INTERRUPTS, {0: "register select (IOREGSEL)", 0x10: "window (IOWIN)"}
    ),
    "hpet": Hardware("HPET", "HPET §2.3", _TIMER, _HPET),
    "mc146818": Hardware(
        "real-time clock",
        "MC146818A, Register description",
        "wall clock time from kvmclock, or a hypercall: one shared page and no index and data ports",
        {0x70: "index", 0x71: "data", 0x72: "index, bank 1", 0x73: "data, bank 1"},
    ),
    "piix3-ide": Hardware(
        "IDE controller",
        "ATA-6 §7",
        _BLOCK,
        {**_IDE_PORTS, 0x3F6: "alternate status", 0x376: "alternate status"},
        {
            0x1F1: "features",
            0x1F7: "command",
            0x171: "features",
            0x177: "command",
            0x3F6: "device control",
            0x376: "device control",
        },
    ),
    "fdc": Hardware(
        "82077AA floppy controller",
        "82077AA §2",
        _BLOCK,
        {0x3F2: "digital output", 0x3F4: "main status", 0x3F5: "FIFO", 0x3F7: "digital input"},
        {0x3F7: "data rate"},
    ),
    "i8237": Hardware(
        "8237A DMA",
        "8237A, Register description",
        "nothing: virtio devices read and write memory by themselves",
    ),
    "i8042": Hardware(
        "keyboard controller",
        "8042",
        "virtio-input: events in a queue, one interrupt for several keys",
        {0x60: "data", 0x64: "status"},
        {0x64: "command"},
    ),
    "vga": Hardware(
        "VGA",
        "FreeVGA; VBE DISPI",
        "a frame buffer in shared memory (virtio-gpu): stores need no exit, one request shows what changed",
        {
            0x3C4: "sequencer index",
            0x3C5: "sequencer data",
            0x3CE: "graphics index",
            0x3CF: "graphics data",
            0x3C0: "attribute index",
            0x3D4: "CRTC index",
            0x3D5: "CRTC data",
            0x3DA: "input status 1",
            0x3C2: "miscellaneous output",
            0x3C8: "DAC index",
            0x3C9: "DAC data",
            0x1CE: "DISPI index",
            0x1CF: "DISPI data",
        },
    ),
    "pci": Hardware(
        "PCI configuration",
        "PCI 3.0 §3.2.2.3.2",
        "few devices on virtio-mmio, whose places are on the command line or in a table (a microvm)",
        {0xCF8: "CONFIG_ADDRESS", **{0xCFC + i: "CONFIG_DATA" for i in range(4)}},
    ),
    "acpi-pm": Hardware(
        "ACPI power management",
        "ACPI 6.4 §4.8.3",
        "time from kvmclock in place of the PM timer; power off by a hypercall",
        {
            0x600: "PM1 status",
            0x602: "PM1 enable",
            0x604: "PM1 control",
            0x608: "PM timer",
            0xB2: "SMI command",
        },
    ),
    "piix4-smbus": Hardware("PIIX4 SMBus", "PIIX4 §7.3", "nothing: a virtual machine has no sensors to ask"),
    "post-code": Hardware(
        "POST code port",
        "PC/AT",
        "nothing: Linux writes here only for the delay that a real bus makes (io_delay=none leaves it out)",
        {0x80: "POST code, and the delay of a slow bus"},
    ),
    "port92": Hardware(
        "system control port A",
        "PIIX3 §2.5",
        "nothing: there is no A20 gate to open",
        {0x92: "A20 and fast reset"},
    ),
    "reset-control": Hardware("reset control", "PIIX3 §2.5.5", "a hypercall", {0xCF9: "reset control"}),
    "debug-console": Hardware("debug console", "the emulators' port 0xE9", _CONSOLE, {0xE9: "character"}),
    "exit-port": Hardware(
        "exit port", "docs/cli.md", "this is a paravirtual device already", {0x501: "exit code"}
    ),
    "firmware-port": Hardware(
        "BIOS service port", "docs/bios.md", "this is a paravirtual device already", {0x540: "service number"}
    ),
    "fw_cfg": Hardware(
        "fw_cfg",
        "docs/bios.md",
        "this is a paravirtual device already",
        {0x510: "selector", 0x511: "data", 0x514: "DMA address"},
    ),
    "virtio": Hardware("virtio device", "virtio 1.2 §4", _VIRTIO),
    "e1000": Hardware(
        "Intel 82540EM network card",
        "8254x §13",
        "virtio-net: descriptors in shared memory, notified once for many packets",
    ),
    "monitor": Hardware(
        "the lab's monitor", "docs/techniques.md", "the same act as a hypercall, or none: see `pyvmm.lab`"
    ),
    "pflash": Hardware("flash", "CFI", "nothing: only firmware writes its variables there"),
}

_MSR_NAMES = {
    0x10: "IA32_TIME_STAMP_COUNTER", 0x1B: "IA32_APIC_BASE", 0x3A: "IA32_FEATURE_CONTROL", 0x48: "IA32_SPEC_CTRL",
    0x49: "IA32_PRED_CMD", 0x8B: "IA32_BIOS_SIGN_ID", 0xFE: "IA32_MTRRCAP", 0x10A: "IA32_ARCH_CAPABILITIES",
    0x174: "IA32_SYSENTER_CS", 0x175: "IA32_SYSENTER_ESP", 0x176: "IA32_SYSENTER_EIP", 0x179: "IA32_MCG_CAP",
    0x17A: "IA32_MCG_STATUS", 0x1A0: "IA32_MISC_ENABLE", 0x277: "IA32_PAT", 0x2FF: "IA32_MTRR_DEF_TYPE",
    0x6E0: "IA32_TSC_DEADLINE", 0x802: "x2APIC ID", 0x803: "x2APIC version", 0x808: "x2APIC TPR", 0x80B: "x2APIC EOI",
    0x80F: "x2APIC spurious interrupt vector", 0x830: "x2APIC interrupt command (ICR)", 0x832: "x2APIC LVT timer",
    0x838: "x2APIC timer initial count", 0x839: "x2APIC timer current count",
    0x83E: "x2APIC timer divide configuration",
    0x83F: "x2APIC self IPI", 0xC0000080: "IA32_EFER", 0xC0000081: "IA32_STAR", 0xC0000082: "IA32_LSTAR",
    0xC0000083: "IA32_CSTAR", 0xC0000084: "IA32_FMASK", 0xC0000100: "IA32_FS_BASE", 0xC0000101: "IA32_GS_BASE",
    0xC0000102: "IA32_KERNEL_GS_BASE", 0xC0000103: "IA32_TSC_AUX", 0xC0010015: "AMD HWCR", 0xC001001F: "AMD NB_CFG",
    0xC0010064: "AMD P-state 0", 0xC0011029: "AMD DE_CFG", 0x4B564D00: "MSR_KVM_WALL_CLOCK_NEW",
    0x4B564D01: "MSR_KVM_SYSTEM_TIME_NEW", 0x4B564D02: "MSR_KVM_ASYNC_PF_EN", 0x4B564D03: "MSR_KVM_STEAL_TIME",
    0x4B564D04: "MSR_KVM_PV_EOI_EN", 0x11: "MSR_KVM_WALL_CLOCK", 0x12: "MSR_KVM_SYSTEM_TIME",
}  # fmt: skip


def msr_name(index: int) -> str:
    """``"IA32_TSC_DEADLINE"``, or nothing."""
    if index in _MSR_NAMES:
        return _MSR_NAMES[index]
    if 0x200 <= index <= 0x20F:
        return f"IA32_MTRR_PHYS{'MASK' if index & 1 else 'BASE'}{(index - 0x200) // 2}"
    if 0x800 <= index <= 0x83F and (register := _LAPIC.get((index & 0x3F) << 4)):
        return f"x2APIC {register}"
    return ""


def msr_section(index: int) -> str:
    """Where an MSR is described."""
    if 0x800 <= index <= 0x83F:
        return "Intel SDM 3A §11.12"
    if index >> 8 == 0x4B564D or index in (0x11, 0x12):
        return "pvclock"
    return "AMD APM vol. 2 §3.2" if index >> 16 == 0xC001 else "Intel SDM 4 §2.1"


def msr_instead(index: int) -> str:
    """What a paravirtual guest does in place of reading or writing an MSR."""
    if index in (0x6E0, 0x832, 0x838, 0x839):
        return "a one-shot virtual timer; under hardware assist the processor's own preemption timer takes the deadline"
    if 0x800 <= index <= 0x83F:
        return (
            _EOI
            if index == 0x80B
            else "a hypercall that sends interrupts to many vCPUs at once (KVM_HC_SEND_IPI)"
        )
    if index >> 8 == 0x4B564D or index in (0x11, 0x12):
        return "this is paravirtual already: it is written once, and then memory is shared"
    if index in (0xC0000100, 0xC0000101, 0xC0000102):
        return "FSGSBASE instructions, or a hypercall that sets it with the switch of the address space"
    if index == 0x10:
        return "RDTSC with an offset, or kvmclock"
    return "nothing in most runs: it is set once; what stays is a copy that the guest keeps in memory"


def hardware_of(name: str) -> Hardware | None:
    """The table's row for a device as the bus names it (``"virtio-blk"``, ``"ide-bm"``...)."""
    if name in HARDWARE:
        return HARDWARE[name]
    return next((row for key, row in HARDWARE.items() if name.startswith(key)), None)


def range_at(ranges: Iterable[BusRange], address: int) -> BusRange | None:
    """The device's claim that an address is in."""
    return next((row for row in ranges if row.base <= address < row.base + row.size), None)


def place_of(ranges: Iterable[BusRange], address: int, *, write: bool) -> tuple[str, str, Hardware | None]:
    """(device as the bus names it, text for people, the table's row) of a port or device address."""
    found = range_at(ranges, address)
    if found is None:
        return "", "nobody", None
    row = hardware_of(found.name)
    if row is None:
        return found.name, f"{found.name}, offset {address - found.base:#x}", None
    register = row.register(address, address - found.base, write=write)
    if not register and found.name == "vga" and found.base == 0xA0000:
        register = "display memory"
    title = found.name if row.title.startswith("virtio") else row.title
    return found.name, f"{title}, {register or f'offset {address - found.base:#x}'}", row
