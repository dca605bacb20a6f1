"""The translator as an engine: testing it at start-up, choosing the tier, and saying why not."""

from __future__ import annotations

import _thread
import os

from pyvmm.engine import Availability, EngineVm
from pyvmm.errors import EngineError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.translator import tested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from pyvmm.board import Board
    from pyvmm.config import Irqchip
    from pyvmm.cpu.topology import Topology

    Tier = Literal["fast", "slow"]

TIER_VARIABLE = "PYVMM_TRANSLATOR_TIER"
"""``slow`` asks for the slow tier; anything else lets the self-tests decide."""


class TranslatorEngine:
    """The engine. One object tests the translator at most once; machines share it.

    The library is linked into the extension with some of its functions replaced (docs/adr/0004). Self-tests run small
    guests through every one of the defects that the replacements mend. When the fast tier fails one, the slow tier is
    tried; when that fails too, the engine refuses with the name of the test.

    That the fast tier passed is remembered in the user's cache folder (`pyvmm.translator.tested`), for this
    installation and this boot of the host.

    Parameters
    ----------
    remember
        False: test whatever is remembered, as ``pyvmm doctor`` does.
    """

    name = "translator"

    def __init__(self, *, remember: bool = True) -> None:
        self._remember = remember
        self._lock = _thread.allocate_lock()
        self.tier: Tier | None = None
        self.warning: str | None = None

    def availability(self) -> Availability:
        """Run the self-tests, once."""
        try:
            self._tested_tier()
        except EngineError as error:
            return Availability(False, str(error))
        return Availability(True, self.warning or f"binary translation, {self.tier} tier, self-tests passed")

    def create_vm(
        self, board: Board, *, cpus: int = 1, irqchip: Irqchip = "auto", topology: Topology | None = None
    ) -> EngineVm:
        """A machine over the board.

        Raises
        ------
        EngineError
            The translator fails its self-tests; or more than one vCPU is asked for, or an irqchip not pyvmm's own.
        """
        if cpus > 1:
            raise EngineError(
                f"--cpus {cpus}: the translator runs one vCPU; use --cpus 1, or --engine kvm on a host that has it"
            )
        if irqchip not in ("auto", "user"):
            raise EngineError(
                f"--irqchip {irqchip}: the translator has pyvmm's own interrupt controllers; use --irqchip user, or"
                " --engine kvm"
            )
        slow = self._tested_tier() == "slow"
        error = new_error()
        pointer = check_pointer(
            lib.translator_vm_new(board.pointer, slow, error), error, exception=EngineError
        )
        return EngineVm(pointer, self.name, self, board)

    def _tested_tier(self) -> Tier:
        with self._lock:
            if self.tier is None:
                self.tier = self._choose_tier()
        return self.tier

    def _choose_tier(self) -> Tier:
        tiers: tuple[Tier, ...] = ("slow",) if os.environ.get(TIER_VARIABLE) == "slow" else ("fast", "slow")
        if tiers[0] == "fast" and self._remember and tested.is_remembered():
            return "fast"
        failures: list[str] = []
        for tier in tiers:
            error = new_error()
            if lib.translator_self_test(tier == "slow", error) == 0:
                if tier == "fast":
                    tested.remember()
                if failures:
                    self.warning = f"translator runs in its slow tier (3-4 times slower): {failures[0]}"
                return tier
            failures.append(ffi.string(error.text).decode())
        raise EngineError(f"the translator fails its self-tests here: {'; '.join(failures)}")
