"""Where everything is on the PC: the only file with guest addresses, ports and IRQ numbers.

Sources: the PC/AT's I/O map (IBM PC/AT Technical Reference, 1984, section 1), PIIX (Intel 290562, chapters 4 and 7) for
the chip set, and what firmware and kernels expect of them.
"""

from __future__ import annotations

from pyvmm.units import GIB, KIB, MIB, Gpa, Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Memory ------------------------------------------------------------------------------------------------------------
LOW_RAM_END: Final = Gpa(640 * KIB)
BOOT_DATA_BASE: Final = Gpa(0x7000)
"""From here on a directly loaded kernel finds what its boot protocol gives it (boot_params, GDT, page tables, ...)."""
EBDA_BASE: Final = Gpa(639 * KIB)
VGA_WINDOW: Final = Gpa(0xA0000)
VGA_WINDOW_SIZE: Final = 128 * KIB
OPTION_ROM_BASE: Final = Gpa(0xC0000)
ACPI_RSDP: Final = Gpa(0xE0000)
"""Start of the area that is searched for the RSDP (ACPI 6.5 §5.2.5.1); the tables are at the end of low RAM."""
MP_TABLE: Final = Gpa(0xE0100)
"""The MP configuration table, up to 255 processors and 150 other entries; its pointer is in the BIOS segment."""
SMBIOS_TABLE: Final = Gpa(0xE8000)
"""The SMBIOS structures, up to 255 processors' (24 KiB); their entry point is in the BIOS segment."""
BIOS_BASE: Final = Gpa(0xF0000)
MP_POINTER: Final = BIOS_BASE
"""In `pyvmm.firmware.post.TABLE_AREA`; searched for here on 16-byte boundaries (MP specification 1.4, chapter 4)."""
SMBIOS_ENTRY: Final = Gpa(0xF0020)
"""In the same area, and searched for in the same way (DSP0134 §5.2.1)."""
BIOS_SIZE: Final = 64 * KIB
HIGH_MEMORY_BASE: Final = Gpa(1 * MIB)
PCI_HOLE_BASE: Final = Gpa(3 * GIB)
"""RAM below 4 GiB ends here at the latest; the rest continues at 4 GiB."""
PCI_MMIO_BASE: Final = Gpa(0xE0000000)
PCI_MMIO_END: Final = Gpa(0xFEC00000)
VIRTIO_MMIO_BASE: Final = Gpa(0xFEB00000)
"""The microvm's virtio devices, 512 bytes each."""
IO_APIC_BASE: Final = Gpa(0xFEC00000)
IO_APIC_SIZE: Final = 4 * KIB
HPET_BASE: Final = Gpa(0xFED00000)
HPET_SIZE: Final = 1 * KIB
"""The first block's address on every PC; the ACPI table HPET says so."""
LOCAL_APIC_BASE: Final = Gpa(0xFEE00000)
"""Where the local APIC puts itself (Intel SDM 3A section 11.4.1); the ACPI tables say so."""
KVM_RESERVED: Final = Gpa(0xFEFFC000)
"""Four pages without memory, between the local APIC and the largest ROM, for KVM on older VT-x (csrc/kvm/kvm.h)."""
BIOS_HIGH_BASE: Final = Gpa(4 * GIB - BIOS_SIZE)
ABOVE_4G_BASE: Final = Gpa(4 * GIB)
PCI_MMIO64_BASE: Final = Gpa(1 << 39)
PCI_MMIO64_SIZE: Final = 1 << 38
ADDRESS_BITS: Final = 40
"""Physical address bits told to the guest (CPUID 0x80000008)."""
MAX_MEMORY: Final = 256 * GIB
MIN_MEMORY: Final = 1 * MIB

# Ports -------------------------------------------------------------------------------------------------------------
DMA_MASTER: Final = Port(0x00)
DMA_SLAVE: Final = Port(0xC0)
DMA_PAGES: Final = Port(0x81)
"""Page registers up to 0x8F; 0x92 is not theirs."""
PIC_MASTER: Final = Port(0x20)
PIC_SLAVE: Final = Port(0xA0)
PIC_ELCR: Final = Port(0x4D0)
PIT: Final = Port(0x40)
I8042_DATA: Final = Port(0x60)
NMI_AND_SPEAKER: Final = Port(0x61)
I8042_COMMAND: Final = Port(0x64)
RTC: Final = Port(0x70)
POST_CODE: Final = Port(0x80)
VGA_DISPI: Final = Port(0x1CE)
VGA_PORTS: Final = Port(0x3B0)
SYSTEM_CONTROL_A: Final = Port(0x92)
DEBUG_CONSOLE: Final = Port(0xE9)
FW_CFG: Final = Port(0x510)
FIRMWARE_DEBUG: Final = Port(0x402)
"""SeaBIOS's messages."""
EXIT: Final = Port(0x501)
"""A write of N ends the machine with exit code (N << 1) | 1, as the isa-debug-exit device of the field does."""
FIRMWARE_SERVICE: Final = Port(0x540)
"""The BIOS's stubs write a service number here (16 bits)."""
ACPI_PM: Final = Port(0x600)
"""PM1a event (4 bytes), PM1a control at +4 (2 bytes), PM timer at +8 (4 bytes): PIIX4's PMBASE layout."""
ACPI_SLEEP_TYPE_S5: Final = 0
"""SLP_TYP that powers off, as PIIX4's SUS_TYP (290562 §7.1.2); the DSDT's \\_S5 says the same."""
ACPI_ENABLE: Final = 0xF1
ACPI_DISABLE: Final = 0xF0
"""Written to the SMI command port to set and clear SCI_EN."""
ACPI_PM_TIMER_BITS: Final = 24
"""Width of the PM timer, PIIX4's."""
SMBUS: Final = Port(0x700)
"""Where the own BIOS and direct boot put PIIX4's SMBus host controller (16 ports), as SeaBIOS does."""
ACPI_SMI_COMMAND: Final = Port(0xB2)
IDE_COMMAND: Final = (Port(0x1F0), Port(0x170))
IDE_CONTROL: Final = (Port(0x3F6), Port(0x376))
"""Command and control block of the primary and the secondary channel: compatibility mode (PIIX3 §2.3)."""
FDC: Final = Port(0x3F0)
FDC_RATE: Final = Port(0x3F7)
"""Six ports, and the data rate's: the one between them is the IDE controller's."""
PCI_CONFIG_ADDRESS: Final = Port(0xCF8)
RESET_CONTROL: Final = Port(0xCF9)
PCI_CONFIG_DATA: Final = Port(0xCFC)
COM_PORTS: Final = (Port(0x3F8), Port(0x2F8), Port(0x3E8), Port(0x2E8))
PCI_IO_BASE: Final = Port(0xC000)
PCI_IO_END: Final = Port(0xFFFF)

# IRQ lines (GSI numbers) ---------------------------------------------------------------------------------------------
IRQ_PIT: Final = 0
IRQ_KEYBOARD: Final = 1
IRQ_COM: Final = (4, 3, 4, 3)
IRQ_FDC: Final = 6
IRQ_RTC: Final = 8
IRQ_ACPI: Final = 9
IRQ_MOUSE: Final = 12
IRQ_IDE: Final = (14, 15)
DMA_FDC: Final = 2
IO_APIC_ID: Final = 0
IO_APIC_TIMER_INPUT: Final = 2
"""ISA IRQ 0 is on the I/O APIC's input 2, as on every PC since the MP specification 1.4 (section 5.3); other lines are
on the input of their number."""
VIRTIO_MMIO_GSIS: Final = (16, 17, 18, 19, 20, 21, 22, 23)
"""Lines of the microvm's virtio devices, in turn, where ACPI says so; eight devices at most share none of them."""
VIRTIO_MMIO_ISA_IRQS: Final = (5, 6, 7, 10, 11, 12, 14, 15)
"""And where the command line says so: lines that a system knows without being told."""
PCI_LINKS: Final = (10, 11, 10, 11)
"""What INTA# to INTD# of the root bus's links (LNKA to LNKD) are routed to; see PIIX3 PIRQRC, 0x60..0x63."""
PCI_LINK_CHOICES: Final = (5, 10, 11)
"""Where a guest may route them."""

# PCI device numbers on bus 0 -----------------------------------------------------------------------------------------
PCI_HOST_BRIDGE: Final = 0
PCI_ISA_BRIDGE: Final = 1
PCI_VGA: Final = 2
PCI_IDE_FUNCTION: Final = 1
"""Of the ISA bridge's slot (PIIX3: function 1)."""
PCI_POWER_FUNCTION: Final = 3
"""Of the same slot (PIIX4: function 3)."""
PCI_FIRST_FREE_SLOT: Final = 3


def pci_link(slot: int, pin: int) -> int:
    """Link (0 = A) that a slot's pin (0 = INTA#) is soldered to.

    As csrc/devices/pci.c: the order of the 440FX boards that SeaBIOS knows, in which slot 1's INTA# is link A.
    """
    return (slot + pin - 1) % 4


def split_memory(size: int) -> list[tuple[Gpa, int]]:
    """RAM above 1 MiB and below the PCI hole, then the rest above 4 GiB, as (start, bytes) pairs.

    The first megabyte is laid out by the machine itself.
    """
    low = min(size, PCI_HOLE_BASE)
    ranges = [(HIGH_MEMORY_BASE, low - HIGH_MEMORY_BASE)] if low > HIGH_MEMORY_BASE else []
    if size > low:
        ranges.append((ABOVE_4G_BASE, size - low))
    return ranges
