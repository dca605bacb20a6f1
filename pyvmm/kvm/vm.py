"""The second level: a virtual machine, its memory, interrupt controllers, eventfds (api.rst 4, "vm ioctls").

A memslot's host memory is a `mmap.mmap`, which the Vm keeps alive.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pyvmm.errors import EngineError
from pyvmm.kvm import ioctl
from pyvmm.kvm.constants import Capability, Irqchip, MemoryFlag, MsrExit, capability_number
from pyvmm.kvm.ioctl import Record
from pyvmm.kvm.vcpu import Vcpu
from pyvmm.native import ffi

if TYPE_CHECKING:
    from pyvmm.kvm.system import System

PAGE_SIZE = 4096
_IRQFD_DEASSIGN, _IRQFD_RESAMPLE = 1, 2
_IOEVENTFD_DATAMATCH, _IOEVENTFD_PIO, _IOEVENTFD_DEASSIGN = 1, 2, 4
_ROUTE_IRQCHIP, _ROUTE_MSI = 1, 2
_CHIP_BYTES = 512


@dataclass(frozen=True, slots=True)
class IrqchipRoute:
    """A GSI that is a pin of an in-kernel chip (api.rst 4.52)."""

    gsi: int
    chip: Irqchip
    pin: int


@dataclass(frozen=True, slots=True)
class MsiRoute:
    """A GSI that is a message-signalled interrupt (api.rst 4.52)."""

    gsi: int
    address: int
    data: int


@dataclass(frozen=True, slots=True)
class MsrRange:
    """Allowed (bit set) and refused MSRs of a filter: `bitmap` bit n is for index `base` + n (api.rst 4.97)."""

    base: int
    count: int
    bitmap: bytes
    read: bool = True
    write: bool = True


@dataclass
class _Slot:
    gpa: int
    size: int
    memory: mmap.mmap
    view: Any


class Vm:
    """One VM; made by `System.create_vm`.

    Attributes
    ----------
    fd
        The VM's file descriptor.
    vcpus
        By number.
    """

    def __init__(self, fd: int, system: System) -> None:
        self.fd = fd
        self.system = system
        self.vcpus: dict[int, Vcpu] = {}
        self._slots: dict[int, _Slot] = {}

    def check_extension(self, capability: Capability | str | int) -> int:
        """KVM_CHECK_EXTENSION on the VM (api.rst 4.4): may say less than the system does."""
        return ioctl.call(self.fd, ioctl.CHECK_EXTENSION, capability_number(capability), f"{capability!s}")

    def enable_cap(self, capability: Capability | str | int, *arguments: int, flags: int = 0) -> None:
        """KVM_ENABLE_CAP (api.rst 4.37; each capability's arguments are in section 7)."""
        request = ffi.new("struct kvm_enable_cap *", {"cap": capability_number(capability), "flags": flags})
        for i, value in enumerate(arguments):
            request.args[i] = value
        ioctl.call(self.fd, ioctl.ENABLE_CAP, request, f"{capability!s}, {', '.join(map(hex, arguments))}")

    # Memory ---------------------------------------------------------------------------------------------------

    def set_user_memory_region(
        self,
        slot: int,
        gpa: int,
        memory: mmap.mmap,
        flags: MemoryFlag = MemoryFlag.NONE,
        *,
        size: int | None = None,
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION (api.rst 4.35): a memslot, or new flags for one that exists.

        Parameters
        ----------
        gpa
            Guest physical address, a multiple of 4096.
        memory
            Host memory behind it, page-aligned as a mmap is.
        size
            Bytes, a multiple of 4096; all of `memory` if not given.
        """
        view = ffi.from_buffer(memory)
        size = len(view) if size is None else size
        if size > len(view):
            raise EngineError(
                f"memslot {slot}: {size} bytes are asked for and the host memory has {len(view)}"
            )
        region = ffi.new(
            "struct kvm_userspace_memory_region *",
            (slot, int(flags), gpa, size, int(ffi.cast("uintptr_t", view))),
        )
        ioctl.call(
            self.fd,
            ioctl.SET_USER_MEMORY_REGION,
            region,
            f"slot {slot}, {gpa:#x} + {size:#x}, flags {int(flags)}",
        )
        self._slots[slot] = _Slot(gpa, size, memory, view)

    def add_memory(
        self, gpa: int, size: int, flags: MemoryFlag = MemoryFlag.NONE, *, slot: int | None = None
    ) -> mmap.mmap:
        """New zeroed host memory as the next memslot; returned for reading and writing by offset from `gpa`."""
        memory = mmap.mmap(-1, size)
        number = max(self._slots, default=-1) + 1 if slot is None else slot
        self.set_user_memory_region(number, gpa, memory, flags)
        return memory

    def delete_memory(self, slot: int) -> None:
        """Delete a memslot: size 0 (api.rst 4.35)."""
        region = ffi.new("struct kvm_userspace_memory_region *", (slot, 0, 0, 0, 0))
        ioctl.call(self.fd, ioctl.SET_USER_MEMORY_REGION, region, f"slot {slot}, deletion")
        self._slots.pop(slot, None)

    def get_dirty_log(self, slot: int) -> list[int]:
        """KVM_GET_DIRTY_LOG (api.rst 4.8): pages (from the slot's start) written since the last call."""
        pages = self._slots[slot].size // PAGE_SIZE if slot in self._slots else 64
        bitmap = ffi.new("uint64_t[]", (pages + 63) // 64)
        request = ffi.new("struct kvm_dirty_log *", {"slot": slot, "dirty_bitmap": bitmap})
        ioctl.call(self.fd, ioctl.GET_DIRTY_LOG, request, f"slot {slot}")
        return [64 * i + bit for i, word in enumerate(bitmap) if word for bit in range(64) if word >> bit & 1]

    def clear_dirty_log(self, slot: int, first_page: int, num_pages: int, pages: Iterable[int]) -> None:
        """KVM_CLEAR_DIRTY_LOG (api.rst 4.117): forget these pages, with MANUAL_DIRTY_LOG_PROTECT2 enabled."""
        bitmap = ffi.new("uint64_t[]", (num_pages + 63) // 64)
        for page in pages:
            bitmap[(page - first_page) // 64] |= 1 << (page - first_page) % 64
        request = ffi.new(
            "struct kvm_clear_dirty_log *",
            {"slot": slot, "num_pages": num_pages, "first_page": first_page, "dirty_bitmap": bitmap},
        )
        ioctl.call(self.fd, ioctl.CLEAR_DIRTY_LOG, request, f"slot {slot}, pages {first_page} + {num_pages}")

    def set_tss_addr(self, gpa: int) -> None:
        """KVM_SET_TSS_ADDR (api.rst 4.36): three pages below 4 GiB that VT-x needs for real mode; in no memslot."""
        ioctl.call(self.fd, ioctl.SET_TSS_ADDR, gpa, f"{gpa:#x}")

    def set_identity_map_addr(self, gpa: int) -> None:
        """KVM_SET_IDENTITY_MAP_ADDR (api.rst 4.40): one page likewise; before the first vCPU."""
        ioctl.call(self.fd, ioctl.SET_IDENTITY_MAP_ADDR, ffi.new("uint64_t *", gpa), f"{gpa:#x}")

    # vCPUs ----------------------------------------------------------------------------------------------------

    def create_vcpu(self, index: int) -> Vcpu:
        """KVM_CREATE_VCPU (api.rst 4.7): in its reset state, with an empty CPUID."""
        fd = ioctl.call(self.fd, ioctl.CREATE_VCPU, index, f"{index}")
        vcpu = Vcpu(fd, index, self)
        self.vcpus[index] = vcpu
        return vcpu

    def set_boot_cpu_id(self, index: int) -> None:
        """KVM_SET_BOOT_CPU_ID (api.rst 4.41): which vCPU is the bootstrap processor; before the first vCPU."""
        ioctl.call(self.fd, ioctl.SET_BOOT_CPU_ID, index, f"{index}")

    # Interrupt controllers ------------------------------------------------------------------------------------

    def create_irqchip(self) -> None:
        """KVM_CREATE_IRQCHIP (api.rst 4.24): both 8259s, an I/O APIC, and a local APIC per vCPU, in the kernel."""
        ioctl.call(self.fd, ioctl.CREATE_IRQCHIP)

    def create_split_irqchip(self, ioapic_pins: int = 24) -> None:
        """KVM_CAP_SPLIT_IRQCHIP (api.rst 7.5): only the local APICs in the kernel; the I/O APIC is yours."""
        self.enable_cap(Capability.SPLIT_IRQCHIP, ioapic_pins)

    def create_pit2(self, *, speaker_dummy: bool = True) -> None:
        """KVM_CREATE_PIT2 (api.rst 4.71): an 8254 in the kernel, on GSI 0; `speaker_dummy`: and its port 0x61."""
        config = ffi.new("struct kvm_pit_config *", {"flags": int(speaker_dummy)})
        ioctl.call(self.fd, ioctl.CREATE_PIT2, config)

    def irq_line(self, gsi: int, level: bool) -> None:
        """KVM_IRQ_LINE (api.rst 4.25)."""
        request = ffi.new("struct kvm_irq_level *", {"irq": gsi, "level": int(level)})
        ioctl.call(self.fd, ioctl.IRQ_LINE, request, f"GSI {gsi}, level {int(level)}")

    def pulse(self, gsi: int) -> None:
        """Up and down: an edge."""
        self.irq_line(gsi, True)
        self.irq_line(gsi, False)

    def signal_msi(self, address: int, data: int) -> int:
        """KVM_SIGNAL_MSI (api.rst 4.71): above 0: a vCPU took it; 0: the guest blocked it."""
        request = ffi.new(
            "struct kvm_msi *",
            {"address_lo": address & 0xFFFFFFFF, "address_hi": address >> 32, "data": data},
        )
        return ioctl.call(self.fd, ioctl.SIGNAL_MSI, request, f"address {address:#x}, data {data:#x}")

    def set_gsi_routing(self, routes: Iterable[IrqchipRoute | MsiRoute]) -> None:
        """KVM_SET_GSI_ROUTING (api.rst 4.52): the whole table anew; what is not in it is not routed."""
        wanted = list(routes)
        body = b"".join(map(_route_bytes, wanted))
        table = ffi.from_buffer(bytearray(struct.pack("<II", len(wanted), 0) + body))
        ioctl.call(self.fd, ioctl.SET_GSI_ROUTING, table, f"{len(wanted)} routes")

    def get_irqchip(self, chip: Irqchip) -> Record | bytes:
        """KVM_GET_IRQCHIP (api.rst 4.26): an 8259 as a record, the I/O APIC as its 512 bytes."""
        request = ffi.new("struct kvm_irqchip *", {"chip_id": int(chip)})
        ioctl.call(self.fd, ioctl.GET_IRQCHIP, request, chip.name)
        start = ffi.cast("char *", request) + 8
        if chip is Irqchip.IOAPIC:
            return bytes(ffi.buffer(start, _CHIP_BYTES))
        return Record(ffi.cast("struct kvm_pic_state *", start), request)

    def set_irqchip(self, chip: Irqchip, state: Record | bytes) -> None:
        """KVM_SET_IRQCHIP (api.rst 4.27)."""
        request = ffi.new("struct kvm_irqchip *", {"chip_id": int(chip)})
        data = bytes(ffi.buffer(state.pointer)) if isinstance(state, Record) else state
        ffi.memmove(ffi.cast("char *", request) + 8, data[:_CHIP_BYTES], min(len(data), _CHIP_BYTES))
        ioctl.call(self.fd, ioctl.SET_IRQCHIP, request, chip.name)

    @property
    def pit2(self) -> Record:
        """KVM_GET_PIT2, KVM_SET_PIT2 (api.rst 4.72, 4.73)."""
        return self._get(ioctl.GET_PIT2, "struct kvm_pit_state2")

    @pit2.setter
    def pit2(self, state: Record) -> None:
        ioctl.call(self.fd, ioctl.SET_PIT2, state)

    # Event file descriptors -----------------------------------------------------------------------------------

    def irqfd(self, fd: int, gsi: int, *, resample_fd: int | None = None, remove: bool = False) -> None:
        """KVM_IRQFD (api.rst 4.75): a write to the eventfd `fd` pulls the GSI, with no system call of the VMM.

        `resample_fd`: for level-triggered lines, signalled at the guest's end of interrupt.
        """
        flags = (_IRQFD_DEASSIGN if remove else 0) | (_IRQFD_RESAMPLE if resample_fd is not None else 0)
        request = ffi.new(
            "struct kvm_irqfd *", {"fd": fd, "gsi": gsi, "flags": flags, "resamplefd": resample_fd or 0}
        )
        ioctl.call(self.fd, ioctl.IRQFD, request, f"fd {fd}, GSI {gsi}")

    def ioeventfd(
        self,
        fd: int,
        address: int,
        length: int,
        *,
        pio: bool = False,
        match: int | None = None,
        remove: bool = False,
    ) -> None:
        """KVM_IOEVENTFD (api.rst 4.59): the guest's store to `address` signals the eventfd `fd`, with no exit.

        Parameters
        ----------
        length
            Of the access: 1, 2, 4, 8, or 0 for any.
        match
            Only when this value is stored.
        """
        flags = (
            (_IOEVENTFD_DATAMATCH if match is not None else 0)
            | (_IOEVENTFD_PIO if pio else 0)
            | (_IOEVENTFD_DEASSIGN if remove else 0)
        )
        request = ffi.new(
            "struct kvm_ioeventfd *",
            {"datamatch": match or 0, "addr": address, "len": length, "fd": fd, "flags": flags},
        )
        kind = "port" if pio else "address"
        ioctl.call(self.fd, ioctl.IOEVENTFD, request, f"fd {fd}, {kind} {address:#x}, {length} bytes")

    def register_coalesced(self, address: int, size: int, *, pio: bool = False) -> None:
        """KVM_REGISTER_COALESCED_MMIO (api.rst 4.116): stores wait in a ring (`Vcpu.take_coalesced`)."""
        zone = ffi.new("struct kvm_coalesced_mmio_zone *", {"addr": address, "size": size, "pio": int(pio)})
        ioctl.call(self.fd, ioctl.REGISTER_COALESCED_MMIO, zone, f"{address:#x} + {size:#x}")

    def unregister_coalesced(self, address: int, size: int, *, pio: bool = False) -> None:
        """KVM_UNREGISTER_COALESCED_MMIO (api.rst 4.116)."""
        zone = ffi.new("struct kvm_coalesced_mmio_zone *", {"addr": address, "size": size, "pio": int(pio)})
        ioctl.call(self.fd, ioctl.UNREGISTER_COALESCED_MMIO, zone, f"{address:#x} + {size:#x}")

    # Clock and MSRs -------------------------------------------------------------------------------------------

    @property
    def clock(self) -> Record:
        """KVM_GET_CLOCK, KVM_SET_CLOCK (api.rst 4.29, 4.30): the paravirtual clock, nanoseconds.

        Assigning an int sets the time; a record that was read keeps its flags only where KVM accepts them.
        """
        return self._get(ioctl.GET_CLOCK, "struct kvm_clock_data")

    @clock.setter
    def clock(self, value: Record | int) -> None:
        nanoseconds = value if isinstance(value, int) else value.clock
        data = ffi.new("struct kvm_clock_data *", {"clock": nanoseconds})
        ioctl.call(self.fd, ioctl.SET_CLOCK, data, f"{nanoseconds} ns")

    def exit_on_msrs(self, kinds: MsrExit) -> None:
        """KVM_CAP_X86_USER_SPACE_MSR (api.rst 7.21): these refused accesses become exits instead of #GP."""
        self.enable_cap(Capability.X86_USER_SPACE_MSR, int(kinds))

    def set_msr_filter(self, ranges: Iterable[MsrRange] = (), *, default_deny: bool = False) -> None:
        """KVM_X86_SET_MSR_FILTER (api.rst 4.97): no ranges and no denial remove it."""
        wanted = list(ranges)
        if len(wanted) > 16:
            raise EngineError(f"an MSR filter has at most 16 ranges, not {len(wanted)}")
        request = ffi.new("struct kvm_msr_filter *", {"flags": int(default_deny)})
        keep = []
        for i, item in enumerate(wanted):
            if len(item.bitmap) * 8 < item.count:
                raise EngineError(
                    f"MSR filter range {i}: {item.count} registers need a bitmap of {(item.count + 7) // 8} bytes"
                )
            bitmap = ffi.new("uint8_t[]", item.bitmap)
            keep.append(bitmap)
            request.ranges[i].flags = int(item.read) | int(item.write) << 1
            request.ranges[i].nmsrs, request.ranges[i].base = item.count, item.base
            request.ranges[i].bitmap = bitmap
        ioctl.call(self.fd, ioctl.X86_SET_MSR_FILTER, request, f"{len(wanted)} ranges")

    def _get(self, request: ioctl.Ioctl, kind: str) -> Record:
        pointer = ffi.new(f"{kind} *")
        ioctl.call(self.fd, request, pointer)
        return Record(pointer)

    def close(self) -> None:
        """Close the vCPUs and the VM; its memory is the caller's to keep."""
        for vcpu in self.vcpus.values():
            vcpu.close()
        self.vcpus = {}
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self._slots = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _route_bytes(route: IrqchipRoute | MsiRoute) -> bytes:
    """struct kvm_irq_routing_entry: gsi, type, flags, pad, and a union of eight words."""
    if isinstance(route, IrqchipRoute):
        return struct.pack("<4I2I24x", route.gsi, _ROUTE_IRQCHIP, 0, 0, int(route.chip), route.pin)
    return struct.pack(
        "<4I3I20x", route.gsi, _ROUTE_MSI, 0, 0, route.address & 0xFFFFFFFF, route.address >> 32, route.data
    )
