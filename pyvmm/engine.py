"""Engines as the rest of the house sees them: availability, a VM, vCPUs, exits. Each engine is a sibling package."""

from __future__ import annotations

import errno

from pyvmm.errors import EngineError
from pyvmm.native import check, check_pointer, ffi, lib, new_error
from pyvmm.units import Gva

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, NamedTuple, Protocol

    from pyvmm.board import Board
    from pyvmm.config import Irqchip
    from pyvmm.cpu.state import CpuState
    from pyvmm.cpu.topology import Topology
    from pyvmm.exits import ALL_REASONS as ALL_REASONS
    from pyvmm.exits import EXCEPTION_NAMES as EXCEPTION_NAMES
    from pyvmm.exits import ExitReason as ExitReason
    from pyvmm.exits import SystemRequest as SystemRequest
    from pyvmm.exits import VmExit as VmExit
    from pyvmm.mmu import AddressSpace, TlbContents, TlbStatistics, Walk
else:
    Protocol = object

    def __getattr__(name):
        # What `pyvmm.exits` has, for whoever asks here: the start of a guest does not.
        if name not in ("ALL_REASONS", "EXCEPTION_NAMES", "ExitReason", "SystemRequest", "VmExit"):
            raise AttributeError(f"module 'pyvmm.engine' has no attribute {name!r}")
        from pyvmm import exits

        value = globals()[name] = getattr(exits, name)
        return value


def _exit_of(record: Any, vcpu: int) -> VmExit:
    global _exit_of  # from the first exit that is seen on: the module is not imported before
    from pyvmm.exits import exit_of as _exit_of

    return _exit_of(record, vcpu)


class Vcpu:
    """One virtual CPU of a machine."""

    def __init__(self, pointer: Any, index: int, owner: EngineVm) -> None:
        self.pointer = pointer
        self.index = index
        self._owner = owner
        self._exit = ffi.new("VmExit *")
        self._breakpoints: tuple[int, ...] = ()
        self._trace: Any = None

    def _check(self, result: int, what: str = "") -> None:
        if result == -errno.EBUSY:
            raise EngineError(f"vCPU {self.index} is running on another thread: stop the machine first")
        if result == -errno.EXDEV:
            raise EngineError(f"vCPU {self.index}: another engine has the machine (Machine.switch_engine)")
        check(result, what=f"vCPU {self.index}{what}", exception=EngineError)

    def run(self, surface: Iterable[ExitReason] = ()) -> VmExit:
        """Run guest code until an exit of one of these reasons, or one that always ends a run.

        SHUTDOWN, SYSTEM, KICK, DEBUG and FAIL always do. Blocks without holding the GIL; `kick` from another thread
        ends it.
        """
        mask = 0
        for reason in surface:
            mask |= 1 << reason
        self._check(lib.vcpu_run(self.pointer, mask, self._exit))
        return _exit_of(self._exit, self.index)

    def run_quick(self) -> tuple[int, int, int]:
        """The same with nothing surfaced, as (reason, request, code): what the machine's loop needs, and no more."""
        self._check(lib.vcpu_run(self.pointer, 0, self._exit))
        return self._exit.reason, self._exit.request, self._exit.code

    @property
    def last_exit(self) -> VmExit:
        """The exit of the last run."""
        return _exit_of(self._exit, self.index)

    def step(self) -> VmExit:
        """Execute one instruction: an exit of reason DEBUG, or what the instruction did (HLT, SHUTDOWN...)."""
        self._check(lib.vcpu_step(self.pointer, self._exit))
        return _exit_of(self._exit, self.index)

    def reset(self) -> None:
        """After RESET#. Any but the first vCPU then waits for a startup IPI. Only while the vCPU does not run."""
        self._check(lib.vcpu_reset(self.pointer))

    def name_thread(self) -> None:
        """Call this thread ``vcpu-N``, for `top -H` and debuggers."""
        lib.vcpu_name_thread(self.pointer)

    def kick(self) -> None:
        """Make `run` return an exit of reason KICK, from any thread; not lost when given before `run`."""
        lib.vcpu_kick(self.pointer)

    @property
    def state(self) -> CpuState:
        """A copy of all registers. Only while the vCPU does not run."""
        from pyvmm.cpu.state import CpuState

        state = CpuState()
        self._check(lib.vcpu_get_state(self.pointer, state.pointer))
        return state

    @state.setter
    def state(self, state: CpuState) -> None:
        self._check(lib.vcpu_set_state(self.pointer, state.pointer))

    @property
    def registers(self) -> Registers:
        """Registers that can be read and assigned one by one: ``vcpu.registers.rax = 5``."""
        return Registers(self)

    @property
    def physical_bits(self) -> int:
        """MAXPHYADDR: how many bits a physical address has (CPUID 0x80000008). Only while it does not run."""
        entries = ffi.new("CpuidEntry[]", 256)
        count = lib.vcpu_get_cpuid(self.pointer, entries, 256)
        self._check(min(count, 0), ": CPUID")
        told = (each.eax & 0xFF for each in entries[0:count] if each.leaf == 0x80000008)
        return min(max(next(told, 36), 32), 52)  # 36 without that leaf (Intel SDM 3A §4.1.4)

    def walk(self, address: int, *, physical_bits: int | None = None) -> Walk:
        """How its page tables translate a linear address, level by level. Only while it does not run.

        `physical_bits` is its own unless given: an entry with an address beyond it has reserved bits set.
        """
        from pyvmm.mmu import walk

        bits = self.physical_bits if physical_bits is None else physical_bits
        return walk(self._owner.board.memory, self.state, address, physical_bits=bits)

    def address_space(self, *, tables_limit: int = 8192) -> AddressSpace:
        """All that its page tables map. Only while it does not run."""
        from pyvmm.mmu import address_space

        memory, bits = self._owner.board.memory, self.physical_bits
        return address_space(memory, self.state, tables_limit=tables_limit, physical_bits=bits)

    @property
    def breakpoints(self) -> tuple[int, ...]:
        """Linear addresses at which execution stops, before the instruction, with an exit of reason DEBUG."""
        return self._breakpoints

    @breakpoints.setter
    def breakpoints(self, addresses: Iterable[int]) -> None:
        wanted = tuple(Gva(address) for address in addresses)
        table = ffi.new("uint64_t[]", wanted)
        result = lib.vcpu_set_breakpoints(self.pointer, table, len(wanted))
        self._check(result, f": {len(wanted)} breakpoints")
        self._breakpoints = wanted

    @property
    def trace(self) -> Any:
        """Where exits are recorded (`pyvmm.trace.Recorder`), or None. Only while the vCPU does not run."""
        return self._trace

    @trace.setter
    def trace(self, trace: Any) -> None:
        self._check(lib.vcpu_set_trace(self.pointer, ffi.NULL if trace is None else trace))
        self._trace = trace  # alive as long as C writes there

    @property
    def handed_over(self) -> int:
        """Instructions that KVM refused and the translator executed, since the machine was made."""
        return int(self._hand_over_counters().total)

    @property
    def handed_over_kinds(self) -> dict[bytes, int]:
        """The same by opcode, most frequent first; the key is the first one of its kind (and what followed it)."""
        kinds = [kind for kind in self._hand_over_counters().kinds if kind.count]
        kinds.sort(key=lambda kind: -kind.count)
        return {bytes(kind.instruction)[: kind.size]: kind.count for kind in kinds}

    @property
    def handed_over_summary(self) -> str:
        """``"12 instructions handed to the translator: popcnt 8, int 4"``, or nothing when there were none."""
        kinds = self.handed_over_kinds
        if not kinds:
            return ""
        from pyvmm.asm import disassemble

        bits = 64 if self.state.mode == "long" else 32
        names: dict[str, int] = {}
        for code, count in kinds.items():
            name = next((found.mnemonic for found in disassemble(code, bits=bits)), "?")  # type: ignore[arg-type]
            names[name] = names.get(name, 0) + count
        text = ", ".join(f"{name} {count}" for name, count in list(names.items())[:8])
        return f"{self.handed_over} instructions handed to the translator: {text}"

    def _hand_over_counters(self) -> Any:
        counters = ffi.new("HandOverCounters *")
        lib.vcpu_hand_over_counters(self.pointer, counters)
        return counters

    def exchange(self, other: Vcpu) -> None:
        """Be the other engine's vCPU from now on, and the other one this one's (`pyvmm.machine.switch`)."""
        self.pointer, other.pointer = other.pointer, self.pointer
        self._owner, other._owner = other._owner, self._owner
        other._breakpoints = ()

    @property
    def exit_counts(self) -> dict[ExitReason, int]:
        """Exits since the vCPU was made, by reason, whether surfaced or not; reasons that never came are left out."""
        from pyvmm.exits import ExitReason

        counters = ffi.new("ExitCounters *")
        lib.vcpu_counters(self.pointer, counters)
        return {reason: counters.exits[reason] for reason in ExitReason if counters.exits[reason]}

    @property
    def statistics(self) -> dict[str, int]:
        """What the engine counts by itself, by its own names: `tlb` has what both engines know. Any thread."""
        table = ffi.new("EngineStatistic[]", 256)
        count = lib.vcpu_statistics(self.pointer, table, len(table))
        self._check(min(count, 0), ": the engine's statistics")
        return {ffi.string(each.name).decode(): int(each.value) for each in table[0 : min(count, len(table))]}

    @property
    def tlb(self) -> TlbStatistics:
        """What the TLB did since the vCPU was made, as far as the engine sees it. Any thread."""
        from pyvmm.mmu.tlb import TlbStatistics

        return TlbStatistics.of(self.statistics)

    def tlb_contents(self) -> TlbContents:
        """What the TLB holds now, each entry beside the page tables. Only while it does not run.

        Raises
        ------
        EngineError
            It is the processor's own (KVM).
        """
        from pyvmm.mmu.tlb import TlbContents

        count = lib.vcpu_tlb(self.pointer, ffi.NULL, 0)
        if count == -errno.ENOTSUP:
            raise EngineError("the TLB is the processor's own, which nobody can read: use the translator")
        self._check(min(count, 0), ": the TLB")
        table = ffi.new("TlbTranslation[]", max(count, 1))
        lib.vcpu_tlb(self.pointer, table, count)
        return TlbContents.of(table[0:count], self._owner.board.memory, self.state)

    def __repr__(self) -> str:
        return f"Vcpu({self.index})"


class Registers:
    """A vCPU's registers, live: each read loads the state, each assignment stores it."""

    def __init__(self, vcpu: Vcpu) -> None:
        self.__dict__["_vcpu"] = vcpu

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vcpu.state, name)

    def __setattr__(self, name: str, value: int) -> None:
        state = self._vcpu.state
        setattr(state, name, value)
        self._vcpu.state = state

    def __repr__(self) -> str:
        return repr(self._vcpu.state)


class EngineVm:
    """A machine in an engine: makes vCPUs."""

    def __init__(self, pointer: Any, name: str, owner: object, board: Board) -> None:
        self.pointer = pointer
        self.name = name
        self.board = board
        self._owner = owner
        self.vcpus: list[Vcpu] = []
        self.warning: str | None = None
        """One line on what was asked for and is unwise."""

    def create_vcpu(self, index: int) -> Vcpu:
        """A vCPU in its reset state.

        Raises
        ------
        EngineError
            The engine has no more, or cannot take the machine's memory.
        """
        error = new_error()
        pointer = check_pointer(lib.vcpu_new(self.pointer, index, error), error, exception=EngineError)
        vcpu = Vcpu(pointer, index, self)
        self.vcpus.append(vcpu)
        return vcpu

    def reset(self) -> None:
        """Every vCPU after RESET#, the first one to run and the others to wait for a startup IPI; no vCPU may run.

        Also what the engine holds of the board's devices. Reset these first.
        """
        check(lib.engine_vm_reset(self.pointer), what="reset", exception=EngineError)

    def pause(self) -> None:
        """The guest's own clocks (TSC, kvmclock) stand still until a vCPU runs again; no vCPU may run."""
        lib.engine_vm_pause(self.pointer)

    def call_in(self) -> None:
        """Every vCPU's `run` returns an exit of reason KICK, now and until `let_go`; from any thread."""
        lib.engine_vm_call_in(self.pointer)

    def let_go(self) -> None:
        """The end of `call_in`."""
        lib.engine_vm_let_go(self.pointer)

    def __iter__(self) -> Iterator[Vcpu]:
        return iter(self.vcpus)

    def close(self) -> None:
        """Free the engine's side, vCPUs included."""
        if self.pointer is not None:
            lib.engine_vm_free(self.pointer)
            self.pointer = None
            for vcpu in self.vcpus:
                vcpu.pointer = None
            self.vcpus = []


if TYPE_CHECKING:

    class Availability(NamedTuple):
        """Whether an engine can run here, and why, in one line."""

        usable: bool
        reason: str

else:

    class Availability(tuple):  # as NamedTuple makes it, without what that imports
        """Whether an engine can run here, and why, in one line."""

        __slots__ = ()
        _fields = ("usable", "reason")
        usable = property(lambda self: self[0], doc="It can.")
        reason = property(lambda self: self[1], doc="Why, or why not.")

        def __new__(cls, usable, reason):
            return super().__new__(cls, (usable, reason))

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            return f"Availability(usable={self.usable!r}, reason={self.reason!r})"


class Engine(Protocol):
    """What each engine package offers."""

    name: str

    def availability(self) -> Availability:
        """Try it, and say."""

    def create_vm(
        self, board: Board, *, cpus: int = 1, irqchip: Irqchip = "auto", topology: Topology | None = None
    ) -> EngineVm:
        """A machine over the board's memory and devices, for so many vCPUs; memory must be complete.

        `topology` arranges them, as many as `cpus`; None: cores of one package.
        """
