"""A machine's second engine: changing to it in mid-run, and instructions that KVM refuses handed to the translator.

Both EngineVms stand over one board and are kept once they were made, so that a change costs a transfer of the vCPUs'
state, no more. What the guest was told by CPUID does not change under its feet: the second engine shows the first
one's table, and is refused, by name of the feature, when it cannot. `cpu="common"` makes both engines at the start and
shows the guest what they have in common, at the TSC rate of the one that cannot scale it.

Left out: an in-kernel interrupt controller's state (refused where there is one), and more than one vCPU, of which the
translator has one.
"""

from __future__ import annotations

import errno

from pyvmm.cpu.cpuid import CpuidRow, CpuidTable, common_table, missing_features, table_of
from pyvmm.errors import ConfigError, EngineError
from pyvmm.machine.engines import choose_engine
from pyvmm.native import check, ffi, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.engine import EngineVm, Vcpu
    from pyvmm.machine.pc import Pc

ENGINES = ("translator", "kvm")
_MAX_ROWS = 256  # csrc/engine/engine.h, CPUID_MAX_ENTRIES


def cpuid_of(vcpu: Vcpu) -> CpuidTable:
    """What CPUID tells this vCPU's guest."""
    entries = ffi.new("CpuidEntry[]", _MAX_ROWS)
    count = lib.vcpu_get_cpuid(vcpu.pointer, entries, _MAX_ROWS)
    check(count, what=f"vCPU {vcpu.index}: reading CPUID", exception=EngineError)
    return table_of(
        CpuidRow(e.leaf, e.subleaf, bool(e.indexed), e.eax, e.ebx, e.ecx, e.edx) for e in entries[0:count]
    )


def set_cpuid(vcpu: Vcpu, table: CpuidTable) -> None:
    """Show this to the guest. Before the vCPU first runs."""
    rows = list(table.values())
    entries = ffi.new("CpuidEntry[]", len(rows))
    for entry, row in zip(entries, rows, strict=True):
        entry.leaf, entry.subleaf, entry.indexed = row.leaf, row.subleaf, row.indexed
        entry.eax, entry.ebx, entry.ecx, entry.edx = row.eax, row.ebx, row.ecx, row.edx
    result = lib.vcpu_set_cpuid(vcpu.pointer, entries, len(rows))
    check(result, what=f"vCPU {vcpu.index}: setting CPUID", exception=EngineError)


def build_common(pc: Pc) -> None:
    """Both engines, showing one processor; the chosen one has the machine. For `pyvmm.machine.pc.build`.

    Raises
    ------
    ConfigError, EngineError
        There is no KVM here, or the clock is virtual.
    """
    config = pc.config
    if config.cpus != 1:
        raise ConfigError(f"--cpu common: the translator runs one vCPU, not {config.cpus}; use --cpus 1")
    if config.irqchip in ("split", "kernel"):
        raise ConfigError(
            "--cpu common: the translator has no interrupt controllers in the kernel; use --irqchip user"
        )
    if config.clock == "virtual":
        raise ConfigError("--cpu common: KVM has no virtual clock; use --clock realtime")
    machines = {}
    for name in ("kvm", "translator"):  # KVM first: the board takes its TSC rate where it cannot be scaled
        engine = pc.choice.engine if pc.choice.engine.name == name else choose_engine(name)
        machines[name] = engine.create_vm(pc.board, cpus=1, irqchip="user")
        pc.vms.append(machines[name])
        machines[name].create_vcpu(0)
    tables = {name: cpuid_of(vm.vcpus[0]) for name, vm in machines.items()}
    table = common_table(tables["kvm"], tables["translator"])
    for vm in machines.values():
        set_cpuid(vm.vcpus[0], table)
    pc.vm = machines[pc.choice.engine.name]
    if pc.vm is not machines["kvm"]:
        error = new_error()
        check(lib.engine_vm_detach(machines["kvm"].pointer, error), error, exception=EngineError)
        check(lib.engine_vm_attach(pc.vm.pointer, error), error, exception=EngineError)


class SecondEngine:
    """What `Machine` has of another engine. Its methods run on the thread that has the vCPU.

    Parameters
    ----------
    pc
        The machine's parts; `pc.vm` is the EngineVm that has the board.
    """

    def __init__(self, pc: Pc) -> None:
        self._pc = pc
        self._lends: bool | None = None
        self._own: dict[str, CpuidTable] = {}
        self._shows = {vm.name for vm in pc.vms}

    def switch(self, name: str) -> None:
        """Go on on the engine of that name. The machine's `Vcpu` objects stay, with all that was set on them.

        Raises
        ------
        ConfigError
            There is no such engine.
        EngineError
            It cannot run here, or not this guest, and why; the machine is as before.
        """
        if name not in ENGINES:
            raise ConfigError(f"engine {name}: choose one of: {', '.join(ENGINES)}")
        old = self._pc.vm
        if old.name == name:
            return
        if len(old.vcpus) > 1:
            raise EngineError(
                f"the translator runs one vCPU, and this machine has {len(old.vcpus)}: make it with --cpus 1"
            )
        if name == "translator" and self._pc.config.irqchip in ("split", "kernel"):
            raise EngineError(
                "this machine's interrupt controllers are in the kernel, which the translator has not:"
                " make it with --irqchip user"
            )
        new = self._vm(name)
        self._check_features(new)
        self._adopt(new)
        for theirs, ours in zip(new.vcpus, old.vcpus, strict=True):
            _copy_breakpoints(ours, theirs, name)
        error = new_error()
        result = lib.engine_vm_switch(_pointers(old), _pointers(new), len(old.vcpus), error)
        check(result, error, exception=EngineError)
        for theirs, ours in zip(new.vcpus, old.vcpus, strict=True):
            ours.exchange(theirs)
        old.vcpus, new.vcpus = new.vcpus, old.vcpus
        self._pc.vm = new

    def lend(self, vcpu: Vcpu) -> bool:
        """After an exit of reason FAIL: whether the translator now executes what KVM refuses, and `vcpu` can go on."""
        pc = self._pc
        if (
            pc.vm.name != "kvm"
            or len(pc.vm.vcpus) > 1
            or pc.config.hand_over == "off"
            or lib.vcpu_has_fallback(vcpu.pointer)
        ):
            return False
        if not _refused(vcpu) or not self._may_lend():
            return False
        try:
            helper = self._vm("translator")
        except (ConfigError, EngineError):
            self._lends = False
            return False
        self._adopt(helper)
        result = lib.vcpu_set_fallback(vcpu.pointer, helper.vcpus[vcpu.index].pointer)
        check(result, exception=EngineError)
        return True

    def _may_lend(self) -> bool:
        """``auto``: only where KVM interprets ring 0; elsewhere a refusal is news, and its report is wanted."""
        if self._lends is None:
            self._lends = self._pc.config.hand_over == "on"
            if not self._lends:
                from pyvmm.kvm.probe import NATIVE_NS_PER_INSTRUCTION, probe

                speed = probe().ring0_ns
                self._lends = speed is None or speed > NATIVE_NS_PER_INSTRUCTION
        return self._lends

    def _vm(self, name: str) -> EngineVm:
        """The EngineVm of that name; made when there is none."""
        pc = self._pc
        for vm in pc.vms:
            if vm.name == name:
                return vm
        vm = choose_engine(name).create_vm(pc.board, cpus=len(pc.vm.vcpus), irqchip="user")
        try:
            for vcpu in pc.vm.vcpus:
                vm.create_vcpu(vcpu.index)
        except BaseException:
            vm.close()
            raise
        pc.vms.append(vm)
        return vm

    def _check_features(self, vm: EngineVm) -> None:
        missing = missing_features(cpuid_of(self._pc.vm.vcpus[0]), self._own_cpuid(vm))
        if missing:
            names = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
            raise EngineError(
                f"the {vm.name} engine has not all of the processor that the guest was shown ({names}):"
                ' make the machine with cpu="common" (--cpu common)'
            )

    def _own_cpuid(self, vm: EngineVm) -> CpuidTable:
        """What the engine would show a guest by itself; of those that the machine began with, what they do show."""
        if vm.name not in self._own:
            self._own[vm.name] = cpuid_of(vm.vcpus[0])
        return self._own[vm.name]

    def _adopt(self, vm: EngineVm) -> None:
        """Show the guest what it was shown before. Once: KVM refuses changes when the vCPU has run."""
        if vm.name in self._shows:
            return
        self._own_cpuid(vm)
        for vcpu in vm.vcpus:
            set_cpuid(vcpu, cpuid_of(self._pc.vm.vcpus[vcpu.index]))
        self._shows.add(vm.name)


def _pointers(vm: EngineVm) -> object:
    return ffi.new("Vcpu *[]", [vcpu.pointer for vcpu in vm.vcpus])


def _refused(vcpu: Vcpu) -> bool:
    """Whether KVM stopped at an instruction that it cannot emulate (api.rst 5, KVM_INTERNAL_ERROR_EMULATION)."""
    from pyvmm.kvm.constants import KvmExitReason

    failure = ffi.new("KvmFailure *")
    return bool(
        lib.kvm_vcpu_failure(vcpu.pointer, failure)
        and failure.exit_reason == KvmExitReason.INTERNAL_ERROR
        and failure.suberror == 1
    )


def _copy_breakpoints(ours: Vcpu, theirs: Vcpu, name: str) -> None:
    addresses = ours.breakpoints
    table = ffi.new("uint64_t[]", addresses)
    result = lib.vcpu_set_breakpoints(theirs.pointer, table, len(addresses))
    if result == -errno.ENOSPC:
        raise EngineError(f"the {name} engine has no room for {len(addresses)} breakpoints: take some back")
    check(result, what=f"the {name} engine: breakpoints", exception=EngineError)
