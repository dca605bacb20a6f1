"""KVM's ioctls as a table: name, number, section of api.rst, what its errors mean; and the one call that makes them.

Source: Documentation/virt/kvm/api.rst of Linux 6.18; request numbers as include/uapi/asm-generic/ioctl.h composes them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyvmm.errors import EngineError
from pyvmm.native import ffi, lib

KVMIO = 0xAE
_NONE, _WRITE, _READ = 0, 1, 2


@dataclass(frozen=True)
class Ioctl:
    """One request.

    Attributes
    ----------
    name
        As in linux/kvm.h.
    request
        What ioctl(2) takes.
    section
        Of Documentation/virt/kvm/api.rst.
    errors
        errno: what it means here.
    """

    name: str
    request: int
    section: str
    errors: Mapping[int, str] = field(default_factory=dict)


class KvmError(EngineError):
    """An ioctl that failed: which one, on what, and what the error number means there.

    Attributes
    ----------
    ioctl
        The request.
    errno
        Positive error number.
    argument
        What it was given, in words.
    """

    def __init__(self, ioctl: Ioctl, number: int, argument: str = "") -> None:
        self.ioctl = ioctl
        self.errno = number
        self.argument = argument
        name = errno.errorcode.get(number, str(number))
        meaning = ioctl.errors.get(number, os.strerror(number))
        super().__init__(f"{ioctl.name}({argument}): {name}: {meaning} (KVM api.rst {ioctl.section})")


class Record:
    """A structure of the kernel's by its fields: ``regs.rax``, ``sregs.cs.base``; assigning changes this copy only."""

    __slots__ = ("_owner", "pointer")

    def __init__(self, pointer: Any, owner: object = None) -> None:
        object.__setattr__(self, "pointer", pointer)
        object.__setattr__(self, "_owner", owner if owner is not None else pointer)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.pointer, name)
        if isinstance(value, ffi.CData) and ffi.typeof(value).kind == "struct":
            return Record(ffi.addressof(value), self._owner)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.pointer, name, value)

    def fields(self) -> Iterator[tuple[str, Any]]:
        """Names and values; arrays as lists, structures as records."""
        for name, _ in ffi.typeof(self.pointer).item.fields:
            if not name.startswith(("pad", "reserved")):
                value = getattr(self, name)
                yield name, list(value) if isinstance(value, ffi.CData) else value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and dict(self.fields()) == dict(other.fields())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        parts = (
            f"{name}={value:#x}" if isinstance(value, int) else f"{name}={value!r}"
            for name, value in self.fields()
        )
        name = ffi.typeof(self.pointer).item.cname.removeprefix("struct ")
        return f"{name if name.isidentifier() else ''}({', '.join(parts)})"


def _io(
    name: str,
    number: int,
    direction: int,
    argument: str | None,
    section: str,
    errors: dict[int, str] | None = None,
) -> Ioctl:
    size = ffi.sizeof(argument) if argument else 0
    return Ioctl(name, direction << 30 | size << 16 | KVMIO << 8 | number, section, errors or {})


def call(fd: int, ioctl: Ioctl, argument: Any = 0, what: str = "") -> int:
    """Make the request and return its result.

    Parameters
    ----------
    argument
        A C pointer, a `Record`, or a number.
    what
        The argument in words, for the error.

    Raises
    ------
    KvmError
        It failed.
    """
    if isinstance(argument, Record):
        argument = argument.pointer
    pointer = ffi.cast("void *", argument)
    result: int = lib.kvm_ioctl(fd, ioctl.request, pointer)
    if result < 0:
        raise KvmError(ioctl, -result, what)
    return result


_NO_IRQCHIP = {
    errno.ENXIO: "the VM has no in-kernel irqchip",
    errno.EINVAL: "the VM has no in-kernel local APIC",
}
_TOO_MANY = {errno.E2BIG: "the table is too small for all entries"}
_IRQCHIP = {
    errno.EEXIST: "the VM has an irqchip already",
    errno.EINVAL: "a vCPU exists already: the irqchip comes first",
    errno.ENOTTY: "this KVM has no in-kernel irqchip",
}

# System
GET_API_VERSION = _io(
    "KVM_GET_API_VERSION", 0x00, _NONE, None, "4.1", {errno.ENOTTY: "the file is not the KVM device"}
)
CREATE_VM = _io(
    "KVM_CREATE_VM", 0x01, _NONE, None, "4.2",
    {errno.EINVAL: "this KVM has no such VM type", errno.EBUSY: "another hypervisor has the processor"},
)  # fmt: skip
GET_MSR_INDEX_LIST = _io(
    "KVM_GET_MSR_INDEX_LIST", 0x02, _READ | _WRITE, "struct kvm_msr_list", "4.3", _TOO_MANY
)
GET_MSR_FEATURE_INDEX_LIST = _io(
    "KVM_GET_MSR_FEATURE_INDEX_LIST", 0x0A, _READ | _WRITE, "struct kvm_msr_list", "4.3", _TOO_MANY
)
CHECK_EXTENSION = _io("KVM_CHECK_EXTENSION", 0x03, _NONE, None, "4.4")
GET_VCPU_MMAP_SIZE = _io("KVM_GET_VCPU_MMAP_SIZE", 0x04, _NONE, None, "4.5")
GET_SUPPORTED_CPUID = _io(
    "KVM_GET_SUPPORTED_CPUID", 0x05, _READ | _WRITE, "struct kvm_cpuid2", "4.46", _TOO_MANY
)
GET_EMULATED_CPUID = _io(
    "KVM_GET_EMULATED_CPUID", 0x09, _READ | _WRITE, "struct kvm_cpuid2", "4.88", _TOO_MANY
)

# VM
CREATE_VCPU = _io(
    "KVM_CREATE_VCPU", 0x41, _NONE, None, "4.7",
    {errno.EEXIST: "the VM has a vCPU of this number", errno.EINVAL: "beyond KVM_CAP_MAX_VCPU_ID or KVM_CAP_MAX_VCPUS"},
)  # fmt: skip
SET_USER_MEMORY_REGION = _io(
    "KVM_SET_USER_MEMORY_REGION", 0x46, _WRITE, "struct kvm_userspace_memory_region", "4.35",
    {
        errno.EEXIST: "it overlaps another slot",
        errno.EINVAL: "unaligned, a flag that this KVM lacks, or a change of an existing slot that is not allowed",
        errno.ENOENT: "there is no such slot to delete",
        errno.ENOMEM: "the kernel has no memory for its tables",
    },
)  # fmt: skip
GET_DIRTY_LOG = _io(
    "KVM_GET_DIRTY_LOG",
    0x42,
    _WRITE,
    "struct kvm_dirty_log",
    "4.8",
    {errno.ENOENT: "the slot does not log dirty pages"},
)
CLEAR_DIRTY_LOG = _io(
    "KVM_CLEAR_DIRTY_LOG", 0xC0, _READ | _WRITE, "struct kvm_clear_dirty_log", "4.117",
    {errno.EINVAL: "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is not enabled, or the first page is not a multiple of 64"},
)  # fmt: skip
SET_TSS_ADDR = _io("KVM_SET_TSS_ADDR", 0x47, _NONE, None, "4.36")
SET_IDENTITY_MAP_ADDR = _io(
    "KVM_SET_IDENTITY_MAP_ADDR", 0x48, _WRITE, "uint64_t", "4.40", {errno.EINVAL: "a vCPU exists already"}
)
CREATE_IRQCHIP = _io("KVM_CREATE_IRQCHIP", 0x60, _NONE, None, "4.24", _IRQCHIP)
IRQ_LINE = _io("KVM_IRQ_LINE", 0x61, _WRITE, "struct kvm_irq_level", "4.25", _NO_IRQCHIP)
GET_IRQCHIP = _io("KVM_GET_IRQCHIP", 0x62, _READ | _WRITE, "struct kvm_irqchip", "4.26", _NO_IRQCHIP)
SET_IRQCHIP = _io("KVM_SET_IRQCHIP", 0x63, _READ, "struct kvm_irqchip", "4.27", _NO_IRQCHIP)
REGISTER_COALESCED_MMIO = _io(
    "KVM_REGISTER_COALESCED_MMIO", 0x67, _WRITE, "struct kvm_coalesced_mmio_zone", "4.116"
)
UNREGISTER_COALESCED_MMIO = _io(
    "KVM_UNREGISTER_COALESCED_MMIO", 0x68, _WRITE, "struct kvm_coalesced_mmio_zone", "4.116"
)
SET_GSI_ROUTING = _io(
    "KVM_SET_GSI_ROUTING", 0x6A, _WRITE, "struct kvm_irq_routing", "4.52",
    {errno.EINVAL: "no in-kernel irqchip, a GSI or pin that does not exist, or one routed twice to the same chip"},
)  # fmt: skip
IRQFD = _io(
    "KVM_IRQFD", 0x76, _WRITE, "struct kvm_irqfd", "4.75",
    {errno.EINVAL: "no in-kernel irqchip, or no such GSI", errno.EBUSY: "the eventfd is bound already"},
)  # fmt: skip
CREATE_PIT2 = _io(
    "KVM_CREATE_PIT2", 0x77, _WRITE, "struct kvm_pit_config", "4.71",
    {errno.EEXIST: "the VM has a PIT already", errno.ENOENT: "the VM has no in-kernel irqchip"},
)  # fmt: skip
SET_BOOT_CPU_ID = _io(
    "KVM_SET_BOOT_CPU_ID", 0x78, _NONE, None, "4.41", {errno.EBUSY: "a vCPU exists already"}
)
IOEVENTFD = _io(
    "KVM_IOEVENTFD", 0x79, _WRITE, "struct kvm_ioeventfd", "4.59",
    {
        errno.EEXIST: "another ioeventfd matches the same access",
        errno.ENOENT: "no ioeventfd matches what is to be removed",
        errno.EINVAL: "the length is not 0, 1, 2, 4 or 8, or the range wraps around",
    },
)  # fmt: skip
SET_CLOCK = _io("KVM_SET_CLOCK", 0x7B, _WRITE, "struct kvm_clock_data", "4.30")
GET_CLOCK = _io("KVM_GET_CLOCK", 0x7C, _READ, "struct kvm_clock_data", "4.29")
GET_PIT2 = _io(
    "KVM_GET_PIT2", 0x9F, _READ, "struct kvm_pit_state2", "4.72", {errno.ENXIO: "the VM has no PIT"}
)
SET_PIT2 = _io(
    "KVM_SET_PIT2", 0xA0, _WRITE, "struct kvm_pit_state2", "4.73", {errno.ENXIO: "the VM has no PIT"}
)
ENABLE_CAP = _io(
    "KVM_ENABLE_CAP", 0xA3, _WRITE, "struct kvm_enable_cap", "4.37",
    {errno.EINVAL: "this KVM lacks the capability, it cannot be enabled, or not with these arguments or at this time"},
)  # fmt: skip
SIGNAL_MSI = _io("KVM_SIGNAL_MSI", 0xA5, _WRITE, "struct kvm_msi", "4.71", _NO_IRQCHIP)
X86_SET_MSR_FILTER = _io(
    "KVM_X86_SET_MSR_FILTER", 0xC6, _WRITE, "struct kvm_msr_filter", "4.97",
    {errno.EINVAL: "more than 16 ranges, a bitmap above 0x600 bytes, or a denying default without ranges"},
)  # fmt: skip

# vCPU
RUN = _io(
    "KVM_RUN", 0x80, _NONE, None, "4.10",
    {
        errno.EINTR: "a signal is pending",
        errno.EAGAIN: "the vCPU waits for INIT or SIPI",
        errno.EFAULT: "the guest used memory that its memslot's host mapping does not have",
        errno.EINVAL: "kvm_run asks for what this KVM lacks, or CR8 is not valid",
    },
)  # fmt: skip
GET_REGS = _io("KVM_GET_REGS", 0x81, _READ, "struct kvm_regs", "4.11")
SET_REGS = _io("KVM_SET_REGS", 0x82, _WRITE, "struct kvm_regs", "4.12")
GET_SREGS = _io("KVM_GET_SREGS", 0x83, _READ, "struct kvm_sregs", "4.13")
_BAD_SREGS = {errno.EINVAL: "reserved bits in CR0, CR4 or EFER, paging against long mode, or a bad APIC base"}
SET_SREGS = _io("KVM_SET_SREGS", 0x84, _WRITE, "struct kvm_sregs", "4.14", _BAD_SREGS)
GET_SREGS2 = _io("KVM_GET_SREGS2", 0xCC, _READ, "struct kvm_sregs2", "4.131")
SET_SREGS2 = _io("KVM_SET_SREGS2", 0xCD, _WRITE, "struct kvm_sregs2", "4.132", _BAD_SREGS)
TRANSLATE = _io("KVM_TRANSLATE", 0x85, _READ | _WRITE, "struct kvm_translation", "4.15")
INTERRUPT = _io(
    "KVM_INTERRUPT", 0x86, _WRITE, "struct kvm_interrupt", "4.16",
    {errno.ENXIO: "the VM has an in-kernel irqchip: use KVM_IRQ_LINE", errno.EEXIST: "an interrupt is queued already",
     errno.EINVAL: "the vector is above 255"},
)  # fmt: skip
GET_MSRS = _io("KVM_GET_MSRS", 0x88, _READ | _WRITE, "struct kvm_msrs", "4.18")
SET_MSRS = _io("KVM_SET_MSRS", 0x89, _WRITE, "struct kvm_msrs", "4.19")
GET_FPU = _io("KVM_GET_FPU", 0x8C, _READ, "struct kvm_fpu", "4.22")
SET_FPU = _io("KVM_SET_FPU", 0x8D, _WRITE, "struct kvm_fpu", "4.23")
GET_LAPIC = _io("KVM_GET_LAPIC", 0x8E, _READ, "struct kvm_lapic_state", "4.57", _NO_IRQCHIP)
SET_LAPIC = _io("KVM_SET_LAPIC", 0x8F, _WRITE, "struct kvm_lapic_state", "4.58", _NO_IRQCHIP)
SET_CPUID2 = _io(
    "KVM_SET_CPUID2", 0x90, _WRITE, "struct kvm_cpuid2", "4.20",
    {errno.EINVAL: "the table is not acceptable, or the vCPU has run and this would change it",
     errno.E2BIG: "more than KVM's limit of entries"},
)  # fmt: skip
GET_CPUID2 = _io("KVM_GET_CPUID2", 0x91, _READ | _WRITE, "struct kvm_cpuid2", "4.20", _TOO_MANY)
GET_MP_STATE = _io("KVM_GET_MP_STATE", 0x98, _READ, "struct kvm_mp_state", "4.38")
SET_MP_STATE = _io(
    "KVM_SET_MP_STATE", 0x99, _WRITE, "struct kvm_mp_state", "4.39",
    {errno.EINVAL: "without an in-kernel local APIC a vCPU is RUNNABLE and nothing else"},
)  # fmt: skip
NMI = _io("KVM_NMI", 0x9A, _NONE, None, "4.64")
SET_GUEST_DEBUG = _io(
    "KVM_SET_GUEST_DEBUG", 0x9B, _WRITE, "struct kvm_guest_debug", "4.87",
    {errno.EBUSY: "an exception is pending", errno.EINVAL: "a control bit that KVM_CAP_SET_GUEST_DEBUG2 does not list"},
)  # fmt: skip
GET_VCPU_EVENTS = _io("KVM_GET_VCPU_EVENTS", 0x9F, _READ, "struct kvm_vcpu_events", "4.31")
SET_VCPU_EVENTS = _io("KVM_SET_VCPU_EVENTS", 0xA0, _WRITE, "struct kvm_vcpu_events", "4.32")
GET_DEBUGREGS = _io("KVM_GET_DEBUGREGS", 0xA1, _READ, "struct kvm_debugregs", "4.33")
SET_DEBUGREGS = _io("KVM_SET_DEBUGREGS", 0xA2, _WRITE, "struct kvm_debugregs", "4.34")
SET_TSC_KHZ = _io(
    "KVM_SET_TSC_KHZ",
    0xA2,
    _NONE,
    None,
    "4.55",
    {errno.EINVAL: "the host cannot scale the TSC (KVM_CAP_TSC_CONTROL)"},
)
GET_TSC_KHZ = _io("KVM_GET_TSC_KHZ", 0xA3, _NONE, None, "4.56", {errno.EIO: "the host's TSC is not stable"})
GET_XSAVE = _io("KVM_GET_XSAVE", 0xA4, _READ, "struct kvm_xsave", "4.42")
SET_XSAVE = _io(
    "KVM_SET_XSAVE", 0xA5, _WRITE, "struct kvm_xsave", "4.43",
    {errno.EINVAL: "a component that this processor lacks, or reserved bits in MXCSR"},
)  # fmt: skip
GET_XCRS = _io("KVM_GET_XCRS", 0xA6, _READ, "struct kvm_xcrs", "4.44")
SET_XCRS = _io(
    "KVM_SET_XCRS",
    0xA7,
    _WRITE,
    "struct kvm_xcrs",
    "4.45",
    {errno.EINVAL: "a component that this processor lacks"},
)
KVMCLOCK_CTRL = _io(
    "KVM_KVMCLOCK_CTRL",
    0xAD,
    _NONE,
    None,
    "4.70",
    {errno.EINVAL: "the guest's paravirtual clock is off"},
)
