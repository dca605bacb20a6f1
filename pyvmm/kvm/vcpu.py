"""The third level: a vCPU, its registers, and KVM_RUN with the exits that it returns (api.rst 4, "vcpu ioctls", and 5).

Each property reads by one ioctl and is assigned by another; what it returns is a copy.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyvmm.errors import EngineError
from pyvmm.kvm import ioctl, tables
from pyvmm.kvm.constants import Capability, GuestDebug, KvmExitReason, MpState, SyncRegs
from pyvmm.kvm.ioctl import KvmError, Record
from pyvmm.kvm.tables import CpuidEntry
from pyvmm.native import check, ffi, lib, new_error

if TYPE_CHECKING:
    from pyvmm.kvm.vm import Vm

PAGE_SIZE = 4096


@dataclass(frozen=True, slots=True)
class KvmExit:
    """Why KVM_RUN returned; reasons with more to say have classes of their own."""

    reason: KvmExitReason


@dataclass(frozen=True, slots=True)
class IoExit(KvmExit):
    """A port access. `data` is what was written, or the place for what is read: see `Vcpu.answer`."""

    port: int
    size: int
    is_write: bool
    data: bytes

    @property
    def count(self) -> int:
        """Elements: more than one for INS and OUTS."""
        return len(self.data) // self.size


@dataclass(frozen=True, slots=True)
class MmioExit(KvmExit):
    """An access to memory that no slot has, or a store to a read-only slot."""

    gpa: int
    is_write: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class DebugExit(KvmExit):
    """A single step or a breakpoint."""

    exception: int
    pc: int
    dr6: int
    dr7: int


@dataclass(frozen=True, slots=True)
class MsrAccessExit(KvmExit):
    """An MSR access that KVM leaves to user space: see `Vcpu.answer_msr`."""

    index: int
    is_write: bool
    data: int
    cause: int


@dataclass(frozen=True, slots=True)
class InternalErrorExit(KvmExit):
    """KVM itself cannot go on; suberror 1 is an instruction that its emulator does not know."""

    suberror: int
    data: tuple[int, ...]

    @property
    def instruction(self) -> bytes:
        """For suberror 1: the instruction's bytes, if KVM tells (KVM_CAP_EXIT_ON_EMULATION_FAILURE); else empty."""
        if self.suberror != 1 or len(self.data) < 3 or not self.data[0] & 1:
            return b""
        raw = b"".join(word.to_bytes(8, "little") for word in self.data[1:3])
        return raw[1 : 1 + min(raw[0], 15)]


@dataclass(frozen=True, slots=True)
class FailEntryExit(KvmExit):
    """The processor refused the guest's state."""

    hardware_reason: int
    cpu: int


class Vcpu:
    """One vCPU; made by `Vm.create_vcpu`.

    Attributes
    ----------
    fd
        Its file descriptor.
    kvm_run
        The structure shared with the kernel (api.rst 5), by its fields; live.
    """

    def __init__(self, fd: int, index: int, vm: Vm) -> None:
        self.fd = fd
        self.index = index
        self.vm = vm
        self._thread = 0
        error = new_error()
        check(lib.kvm_kick_signal(error), error, exception=EngineError)
        self._shared = mmap.mmap(fd, vm.system.vcpu_mmap_size)
        self._base: Any = ffi.from_buffer(self._shared)
        self.kvm_run: Any = ffi.cast("struct kvm_run *", self._base)

    # Running --------------------------------------------------------------------------------------------------

    def run(self) -> KvmExit:
        """KVM_RUN (api.rst 4.10) without the GIL: until an exit, or a `kick` (reason INTR).

        Raises
        ------
        KvmError
            Anything but EINTR, or EAGAIN of a vCPU that waits to be started.
        """
        self._thread = lib.kvm_kick_accept(self._thread)
        result: int = lib.kvm_run(self.fd)
        if result == -errno.EINTR:
            return KvmExit(KvmExitReason.INTR)
        if result < 0:
            raise KvmError(ioctl.RUN, -result, f"vCPU {self.index}")
        return self.exit

    @property
    def exit(self) -> KvmExit:
        """The last exit, decoded from `kvm_run`."""
        run = self.kvm_run
        reason = KvmExitReason(run.exit_reason)
        match reason:
            case KvmExitReason.IO:
                data = bytes(self._io_data())
                return IoExit(reason, run.io.port, run.io.size, bool(run.io.direction), data)
            case KvmExitReason.MMIO:
                data = bytes(ffi.buffer(run.mmio.data, min(run.mmio.len, 8)))
                return MmioExit(reason, run.mmio.phys_addr, bool(run.mmio.is_write), data)
            case KvmExitReason.DEBUG:
                arch = run.debug.arch
                return DebugExit(reason, arch.exception, arch.pc, arch.dr6, arch.dr7)
            case KvmExitReason.X86_RDMSR | KvmExitReason.X86_WRMSR:
                is_write = reason is KvmExitReason.X86_WRMSR
                return MsrAccessExit(reason, run.msr.index, is_write, run.msr.data, run.msr.reason)
            case KvmExitReason.INTERNAL_ERROR:
                data_words = tuple(run.internal.data[i] for i in range(min(run.internal.ndata, 16)))
                return InternalErrorExit(reason, run.internal.suberror, data_words)
            case KvmExitReason.FAIL_ENTRY:
                return FailEntryExit(reason, run.fail_entry.hardware_entry_failure_reason, run.fail_entry.cpu)
        return KvmExit(reason)

    def _io_data(self) -> Any:
        io = self.kvm_run.io
        if io.data_offset + io.size * io.count > len(self._shared):
            raise EngineError(
                f"KVM: port data at offset {io.data_offset:#x} lies outside of the shared pages"
            )
        return ffi.buffer(self._base + io.data_offset, io.size * io.count)

    def answer(self, data: bytes | int) -> None:
        """What the guest's load or IN is to get; taken by the next `run`."""
        run = self.kvm_run
        if run.exit_reason == KvmExitReason.IO:
            place = self._io_data()
        elif run.exit_reason == KvmExitReason.MMIO:
            place = ffi.buffer(run.mmio.data, min(run.mmio.len, 8))
        else:
            raise EngineError("only a port or memory access can be answered")
        place[:] = data.to_bytes(len(place), "little") if isinstance(data, int) else data

    def answer_msr(self, value: int | None) -> None:
        """The value for RDMSR, or anything for an accepted WRMSR; None is #GP."""
        self.kvm_run.msr.error = value is None
        if value is not None:
            self.kvm_run.msr.data = value

    def kick(self) -> None:
        """Make `run` return INTR, from any thread; one given before `run` counts for it (api.rst 5, immediate_exit).

        The next `run` returns at once as well, until `immediate_exit` is set to False.
        """
        self.kvm_run.immediate_exit = 1
        if self._thread:
            lib.kvm_kick_thread(self._thread)

    @property
    def immediate_exit(self) -> bool:
        """kvm_run.immediate_exit: KVM_RUN only completes the last access, and returns INTR (api.rst 5)."""
        return bool(self.kvm_run.immediate_exit)

    @immediate_exit.setter
    def immediate_exit(self, value: bool) -> None:
        self.kvm_run.immediate_exit = value

    def complete(self) -> None:
        """Let KVM take the answer of the last access, so that the registers are those after the instruction."""
        self.immediate_exit = True
        try:
            self.run()
        finally:
            self.immediate_exit = False

    # Events ---------------------------------------------------------------------------------------------------

    def interrupt(self, vector: int) -> None:
        """KVM_INTERRUPT (api.rst 4.16): queue an external interrupt; only without an in-kernel irqchip."""
        ioctl.call(
            self.fd, ioctl.INTERRUPT, ffi.new("struct kvm_interrupt *", (vector,)), f"vector {vector:#x}"
        )

    def nmi(self) -> None:
        """KVM_NMI (api.rst 4.64)."""
        ioctl.call(self.fd, ioctl.NMI)

    @property
    def ready_for_interrupt(self) -> bool:
        """kvm_run.ready_for_interrupt_injection, as of the last exit."""
        return bool(self.kvm_run.ready_for_interrupt_injection)

    def guest_debug(self, control: GuestDebug, debugreg: Mapping[int, int] | None = None) -> None:
        """KVM_SET_GUEST_DEBUG (api.rst 4.87): `debugreg` numbers 0 to 3 and 7, used with USE_HW_BP."""
        request = ffi.new("struct kvm_guest_debug *", {"control": int(control)})
        for number, value in (debugreg or {}).items():
            request.arch.debugreg[number] = value
        ioctl.call(self.fd, ioctl.SET_GUEST_DEBUG, request, f"{control!r}")

    def translate(self, gva: int) -> Record:
        """KVM_TRANSLATE (api.rst 4.15): linear to physical address by the guest's page tables."""
        record = Record(ffi.new("struct kvm_translation *", {"linear_address": gva}))
        ioctl.call(self.fd, ioctl.TRANSLATE, record, f"{gva:#x}")
        return record

    def kvmclock_ctrl(self) -> None:
        """KVM_KVMCLOCK_CTRL (api.rst 4.70): tell the guest's watchdogs that it was paused."""
        ioctl.call(self.fd, ioctl.KVMCLOCK_CTRL)

    # Registers ------------------------------------------------------------------------------------------------

    def _get(self, request: ioctl.Ioctl, kind: str) -> Record:
        pointer = ffi.new(f"struct {kind} *")
        ioctl.call(self.fd, request, pointer)
        return Record(pointer)

    @property
    def regs(self) -> Record:
        """KVM_GET_REGS, KVM_SET_REGS (api.rst 4.11, 4.12): general registers, RIP, RFLAGS."""
        return self._get(ioctl.GET_REGS, "kvm_regs")

    @regs.setter
    def regs(self, value: Record) -> None:
        ioctl.call(self.fd, ioctl.SET_REGS, value)

    def set_regs(self, **values: int) -> None:
        """Some of them: ``set_regs(rip=0x1000, rax=5)``."""
        regs = self.regs
        for name, value in values.items():
            setattr(regs, name, value)
        self.regs = regs

    @property
    def sregs(self) -> Record:
        """KVM_GET_SREGS, KVM_SET_SREGS (api.rst 4.13, 4.14): segments, tables, control registers, EFER, APIC base."""
        return self._get(ioctl.GET_SREGS, "kvm_sregs")

    @sregs.setter
    def sregs(self, value: Record) -> None:
        ioctl.call(self.fd, ioctl.SET_SREGS, value)

    @property
    def sregs2(self) -> Record:
        """KVM_GET_SREGS2, KVM_SET_SREGS2 (api.rst 4.131, 4.132): the same with PDPTRs, without pending interrupts."""
        return self._get(ioctl.GET_SREGS2, "kvm_sregs2")

    @sregs2.setter
    def sregs2(self, value: Record) -> None:
        ioctl.call(self.fd, ioctl.SET_SREGS2, value)

    def set_real_mode(self, ip: int, *, cs: int = 0) -> None:
        """Real mode at CS:IP, with the reset state's other segments at 0 and flags 2."""
        sregs = self.sregs
        sregs.cs.selector, sregs.cs.base = cs, cs << 4
        self.sregs = sregs
        self.set_regs(rip=ip, rflags=2)

    @property
    def fpu(self) -> Record:
        """KVM_GET_FPU, KVM_SET_FPU (api.rst 4.22, 4.23): x87 and SSE; `xsave` holds more."""
        return self._get(ioctl.GET_FPU, "kvm_fpu")

    @fpu.setter
    def fpu(self, value: Record) -> None:
        ioctl.call(self.fd, ioctl.SET_FPU, value)

    @property
    def xsave(self) -> bytes:
        """KVM_GET_XSAVE, KVM_SET_XSAVE (api.rst 4.42, 4.43): 4096 bytes in standard format (Intel SDM 1 §13.4)."""
        pointer = ffi.new("struct kvm_xsave *")
        ioctl.call(self.fd, ioctl.GET_XSAVE, pointer)
        return bytes(ffi.buffer(pointer, PAGE_SIZE))

    @xsave.setter
    def xsave(self, value: bytes) -> None:
        if len(value) != PAGE_SIZE:
            raise EngineError(f"an XSAVE image has {PAGE_SIZE} bytes, not {len(value)}")
        pointer = ffi.new("struct kvm_xsave *")
        ffi.memmove(pointer, value, PAGE_SIZE)
        ioctl.call(self.fd, ioctl.SET_XSAVE, pointer)

    @property
    def xcrs(self) -> dict[int, int]:
        """KVM_GET_XCRS, KVM_SET_XCRS (api.rst 4.44, 4.45): extended control registers by number."""
        record = self._get(ioctl.GET_XCRS, "kvm_xcrs")
        return {record.xcrs[i].xcr: record.xcrs[i].value for i in range(min(record.nr_xcrs, 16))}

    @xcrs.setter
    def xcrs(self, values: Mapping[int, int]) -> None:
        pointer = ffi.new("struct kvm_xcrs *", {"nr_xcrs": len(values)})
        for i, (number, value) in enumerate(values.items()):
            pointer.xcrs[i].xcr, pointer.xcrs[i].value = number, value
        ioctl.call(self.fd, ioctl.SET_XCRS, pointer, ", ".join(f"XCR{n}={v:#x}" for n, v in values.items()))

    @property
    def debugregs(self) -> Record:
        """KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS (api.rst 4.33, 4.34): the guest's own."""
        return self._get(ioctl.GET_DEBUGREGS, "kvm_debugregs")

    @debugregs.setter
    def debugregs(self, value: Record) -> None:
        ioctl.call(self.fd, ioctl.SET_DEBUGREGS, value)

    @property
    def events(self) -> Record:
        """KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS (api.rst 4.31, 4.32): what is pending, and what blocks it."""
        return self._get(ioctl.GET_VCPU_EVENTS, "kvm_vcpu_events")

    @events.setter
    def events(self, value: Record) -> None:
        ioctl.call(self.fd, ioctl.SET_VCPU_EVENTS, value)

    @property
    def mp_state(self) -> MpState:
        """KVM_GET_MP_STATE, KVM_SET_MP_STATE (api.rst 4.38, 4.39)."""
        return MpState(self._get(ioctl.GET_MP_STATE, "kvm_mp_state").mp_state)

    @mp_state.setter
    def mp_state(self, value: MpState) -> None:
        ioctl.call(self.fd, ioctl.SET_MP_STATE, ffi.new("struct kvm_mp_state *", (int(value),)), value.name)

    @property
    def lapic(self) -> bytes:
        """KVM_GET_LAPIC, KVM_SET_LAPIC (api.rst 4.57, 4.58): the register page's first 1024 bytes."""
        return bytes(ffi.buffer(self._get(ioctl.GET_LAPIC, "kvm_lapic_state").regs))

    @lapic.setter
    def lapic(self, value: bytes) -> None:
        if len(value) != 1024:
            raise EngineError(f"a local APIC's state has 1024 bytes, not {len(value)}")
        pointer = ffi.new("struct kvm_lapic_state *")
        ffi.memmove(pointer, value, 1024)
        ioctl.call(self.fd, ioctl.SET_LAPIC, pointer)

    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """KVM_GET_MSRS (api.rst 4.18): up to the first that KVM does not have."""
        return tables.read_msrs(self.fd, indices)

    def set_msrs(self, values: Mapping[int, int]) -> int:
        """KVM_SET_MSRS (api.rst 4.19): how many were set before the first that KVM refused."""
        return tables.write_msrs(self.fd, values)

    @property
    def cpuid2(self) -> list[CpuidEntry]:
        """KVM_GET_CPUID2, KVM_SET_CPUID2 (api.rst 4.20): what the guest's CPUID says; before the first run."""
        return tables.read_cpuid(self.fd, ioctl.GET_CPUID2)

    @cpuid2.setter
    def cpuid2(self, entries: Iterable[CpuidEntry]) -> None:
        tables.write_cpuid(self.fd, entries)

    @property
    def tsc_khz(self) -> int:
        """KVM_GET_TSC_KHZ, KVM_SET_TSC_KHZ (api.rst 4.56, 4.55)."""
        return ioctl.call(self.fd, ioctl.GET_TSC_KHZ)

    @tsc_khz.setter
    def tsc_khz(self, value: int) -> None:
        ioctl.call(self.fd, ioctl.SET_TSC_KHZ, value, f"{value} kHz")

    # KVM_CAP_SYNC_REGS ----------------------------------------------------------------------------------------

    def sync_on_exit(self, sets: SyncRegs) -> None:
        """Have these in `sync_regs` after every exit (api.rst 5, kvm_valid_regs): saves an ioctl each."""
        self.kvm_run.kvm_valid_regs = int(sets)

    @property
    def sync_regs(self) -> Record:
        """kvm_run.s.regs, live: `regs`, `sregs`, `events`. What was changed is loaded after `sync_changed`."""
        return Record(ffi.cast("struct kvm_sync_regs *", self.kvm_run.s.padding), self)

    def sync_changed(self, sets: SyncRegs) -> None:
        """Load these from `sync_regs` with the next `run` (api.rst 5, kvm_dirty_regs)."""
        self.kvm_run.kvm_dirty_regs = int(sets)

    # Coalesced I/O --------------------------------------------------------------------------------------------

    def take_coalesced(self) -> list[tuple[int, bytes, bool]]:
        """Stores kept since the last call (api.rst 4.116), oldest first: (address, data, is a port)."""
        page = self.vm.system.check_extension(Capability.COALESCED_MMIO)
        if not page or (page + 1) * PAGE_SIZE > len(self._shared):
            raise EngineError("this KVM does not coalesce MMIO")
        start = self._base + page * PAGE_SIZE
        ring = ffi.cast("struct kvm_coalesced_mmio_ring *", start)
        size = ffi.sizeof("struct kvm_coalesced_mmio")
        entries = ffi.cast("struct kvm_coalesced_mmio *", start + 8)
        capacity = (PAGE_SIZE - 8) // size
        stores = []
        while ring.first != ring.last:
            entry = entries[ring.first % capacity]
            data = bytes(ffi.buffer(entry.data, min(entry.len, 8)))
            stores.append((entry.phys_addr, data, bool(entry.pio)))
            ring.first = (ring.first + 1) % capacity
        return stores

    def close(self) -> None:
        """Unmap and close."""
        if self.fd >= 0:
            self.kvm_run = None
            ffi.release(self._base)
            self._shared.close()
            os.close(self.fd)
            self.fd = -1
