"""The two tables that KVM's ioctls pass as arrays behind a count: CPUID entries and MSRs."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyvmm.kvm import ioctl
from pyvmm.kvm.ioctl import Ioctl, KvmError
from pyvmm.native import ffi

MAX_ENTRIES = 4096


@dataclass(frozen=True, slots=True)
class CpuidEntry:
    """One line of a CPUID table (struct kvm_cpuid_entry2, api.rst 4.20).

    `flags` bit 0: the subleaf `index` matters.
    """

    function: int
    index: int = 0
    flags: int = 0
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0

    def __repr__(self) -> str:
        subleaf = f".{self.index}" if self.flags & 1 else ""
        return f"{self.function:#010x}{subleaf}: {self.eax:08x} {self.ebx:08x} {self.ecx:08x} {self.edx:08x}"


def _allocate(header: str, entry: str, count: int) -> tuple[Any, Any, Any]:
    """(memory, header pointer, entries pointer) of a counted table."""
    start = ffi.sizeof(header)
    memory = ffi.new("char[]", start + count * ffi.sizeof(entry))
    return memory, ffi.cast(f"{header} *", memory), ffi.cast(f"{entry} *", memory + start)


def _grown(read: Callable[[int], tuple[Any, Any, Any]]) -> tuple[Any, Any, Any]:
    """Read with a larger table each time that it was too small."""
    count = 64
    while True:
        try:
            return read(count)
        except KvmError as error:
            if error.errno != errno.E2BIG or count >= MAX_ENTRIES:
                raise
            count *= 2


def read_cpuid(fd: int, request: Ioctl) -> list[CpuidEntry]:
    """The entries that KVM_GET_SUPPORTED_CPUID, KVM_GET_EMULATED_CPUID or KVM_GET_CPUID2 returns."""

    def read(count: int) -> tuple[Any, Any, Any]:
        table = _allocate("struct kvm_cpuid2", "struct kvm_cpuid_entry2", count)
        table[1].nent = count
        ioctl.call(fd, request, table[1], f"{count} entries")
        return table

    _memory, header, entries = _grown(read)
    names = ("function", "index", "flags", "eax", "ebx", "ecx", "edx")
    return [CpuidEntry(*(getattr(entries[i], name) for name in names)) for i in range(header.nent)]


def write_cpuid(fd: int, table: Iterable[CpuidEntry]) -> None:
    """KVM_SET_CPUID2."""
    wanted = list(table)
    _memory, header, entries = _allocate("struct kvm_cpuid2", "struct kvm_cpuid_entry2", len(wanted))
    header.nent = len(wanted)
    for i, entry in enumerate(wanted):
        for name in ("function", "index", "flags", "eax", "ebx", "ecx", "edx"):
            setattr(entries[i], name, getattr(entry, name))
    ioctl.call(fd, ioctl.SET_CPUID2, header, f"{len(wanted)} entries")


def read_msr_list(fd: int, request: Ioctl) -> list[int]:
    """The indices that KVM_GET_MSR_INDEX_LIST or KVM_GET_MSR_FEATURE_INDEX_LIST returns."""

    def read(count: int) -> tuple[Any, Any, Any]:
        table = _allocate("struct kvm_msr_list", "uint32_t", count)
        table[1].nmsrs = count
        ioctl.call(fd, request, table[1], f"{count} entries")
        return table

    _memory, header, indices = _grown(read)
    return [indices[i] for i in range(header.nmsrs)]


def read_msrs(fd: int, indices: Iterable[int]) -> dict[int, int]:
    """KVM_GET_MSRS: those up to the first that KVM does not have (its rule: api.rst 4.18)."""
    wanted = list(indices)
    _memory, header, entries = _allocate("struct kvm_msrs", "struct kvm_msr_entry", len(wanted))
    header.nmsrs = len(wanted)
    for i, index in enumerate(wanted):
        entries[i].index = index
    done = ioctl.call(fd, ioctl.GET_MSRS, header, f"{len(wanted)} registers")
    return {entries[i].index: entries[i].data for i in range(done)}


def write_msrs(fd: int, values: Mapping[int, int]) -> int:
    """KVM_SET_MSRS: returns how many were set; it stops at the first that KVM refuses (api.rst 4.19)."""
    _memory, header, entries = _allocate("struct kvm_msrs", "struct kvm_msr_entry", len(values))
    header.nmsrs = len(values)
    for i, (index, value) in enumerate(values.items()):
        entries[i].index, entries[i].data = index, value
    return ioctl.call(fd, ioctl.SET_MSRS, header, f"{len(values)} registers")
