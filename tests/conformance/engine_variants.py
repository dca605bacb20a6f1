"""The engines that the suite runs on, by the name that a test's id shows.

``translator`` and ``kvm`` are as they come. ``translator-slow`` is the translator's other tier
(pyvmm.translator.engine). ``kvm+hand-over`` is KVM whose refused instructions the translator executes one by one
(csrc/engine/hand_over.c): a machine on each engine over one board, KVM's attached to it.
"""

from __future__ import annotations

import os
from functools import cache
from unittest import mock

from pyvmm.board import Board
from pyvmm.engine import Availability, Engine, EngineVm, Vcpu
from pyvmm.kvm.engine import KvmEngine
from pyvmm.machine.engines import translator
from pyvmm.native import check, ffi, lib
from pyvmm.translator import TranslatorEngine
from pyvmm.translator.engine import TIER_VARIABLE

VARIANTS = ("translator", "translator-slow", "kvm", "kvm+hand-over")


class _HandOverVm(EngineVm):
    """KVM's machine, with another engine's beside it."""

    def __init__(self, vm: EngineVm, other: EngineVm) -> None:
        super().__init__(vm.pointer, vm.name, (vm, other), vm.board)
        self._other = other

    def create_vcpu(self, index: int) -> Vcpu:
        vcpu = super().create_vcpu(index)
        check(lib.vcpu_set_fallback(vcpu.pointer, self._other.create_vcpu(index).pointer), what="fallback")
        return vcpu

    def close(self) -> None:
        for vcpu in self.vcpus:
            lib.vcpu_set_fallback(vcpu.pointer, ffi.NULL)
        super().close()
        self._other.close()


class KvmWithHandOver:
    """KVM, and the translator for what it refuses."""

    name = "kvm+hand-over"

    def __init__(self) -> None:
        self.kvm, self._translator = KvmEngine(), translator()

    def availability(self) -> Availability:
        """Both must be usable."""
        for engine in (self.kvm, self._translator):
            found = engine.availability()
            if not found.usable:
                return found
        return found

    def create_vm(self, board: Board) -> EngineVm:
        """The first one that is made is attached to the board."""
        vm = self.kvm.create_vm(board)
        return _HandOverVm(vm, self._translator.create_vm(board))


@cache
def variant(name: str) -> Engine:
    """The engine of that name."""
    match name:
        case "translator-slow":
            slow = TranslatorEngine(remember=False)
            with mock.patch.dict(os.environ, {TIER_VARIABLE: "slow"}):
                slow.availability()
            return slow
        case "kvm":
            return KvmEngine()
        case "kvm+hand-over":
            return KvmWithHandOver()
    return translator()


@cache
def availability(name: str) -> Availability:
    """Whether it can run here, asked once."""
    return variant(name).availability()


@cache
def interprets(name: str) -> bool:
    """Whether it is a KVM without hardware below it, measured (pyvmm.kvm.probe): such a one may refuse instructions."""
    from pyvmm.kvm.probe import probe

    return name.startswith("kvm") and not probe().ring0_native
