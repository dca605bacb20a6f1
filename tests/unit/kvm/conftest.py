"""KVM for the tests of this folder; where there is none, they are skipped with its reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.errors import EngineError
from pyvmm.kvm import KvmEngine
from pyvmm.kvm.system import System
from pyvmm.kvm.vcpu import Vcpu
from pyvmm.kvm.vm import Vm


@pytest.fixture
def system() -> Iterator[System]:
    """An open /dev/kvm."""
    try:
        opened = System()
    except EngineError as error:
        pytest.skip(f"no KVM here: {error}")
    with opened:
        yield opened


@pytest.fixture
def vm(system: System) -> Iterator[Vm]:
    """An empty VM."""
    with system.create_vm() as made:
        yield made


@pytest.fixture
def vcpu(vm: Vm) -> Vcpu:
    """A vCPU in real mode at 0x1000, in a VM with 64 KiB of memory (``vm.memory`` is its mmap)."""
    vm.memory = vm.add_memory(0, 0x10000)  # type: ignore[attr-defined]
    made = vm.create_vcpu(0)
    made.cpuid2 = vm.system.supported_cpuid
    made.set_real_mode(0x1000)
    return made


@pytest.fixture
def engine() -> KvmEngine:
    """The engine."""
    made = KvmEngine()
    usable, reason = made.availability()
    if not usable:
        pytest.skip(f"no KVM here: {reason}")
    return made
