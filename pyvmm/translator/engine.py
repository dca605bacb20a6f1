"""The translator as an engine: finding its library, testing it at start-up, choosing the tier, and saying why not."""

from __future__ import annotations

import os
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pyvmm.engine import Availability, EngineVm
from pyvmm.errors import EngineError
from pyvmm.native import check_pointer, ffi, lib, new_error

if TYPE_CHECKING:
    from pyvmm.board import Board

Tier = Literal["fast", "slow"]
TIER_VARIABLE = "PYVMM_TRANSLATOR_TIER"
"""``slow`` asks for the slow tier; anything else lets the self-tests decide."""


def find_library() -> Path:
    """The Unicorn library in its Python package, without importing that.

    Raises
    ------
    EngineError
        The package is not installed.
    """
    spec = find_spec("unicorn")
    if spec is None or not spec.submodule_search_locations:
        raise EngineError("the translator's library is missing: pip install unicorn==2.1.4")
    return Path(spec.submodule_search_locations[0]) / "lib" / "libunicorn.so.2"


class TranslatorEngine:
    """The engine. One object opens the library once; machines share it.

    The library is opened privately and some of its functions are replaced (docs/adr/0004). Self-tests then run small
    guests through every one of the defects that the replacements mend. When the fast tier fails one, the slow tier is
    tried; when that fails too, the engine refuses with the name of the test.
    """

    name = "translator"

    def __init__(self) -> None:
        self._library: Any = None
        self._lock = threading.Lock()
        self.tier: Tier | None = None
        self.warning: str | None = None

    def availability(self) -> Availability:
        """Open the library and run its self-tests."""
        try:
            self._open()
        except EngineError as error:
            return Availability(False, str(error))
        return Availability(True, self.warning or f"binary translation, {self.tier} tier, self-tests passed")

    def create_vm(self, board: Board) -> EngineVm:
        """A machine over the board.

        Raises
        ------
        EngineError
            The library is missing, another build, or fails its self-tests.
        """
        library = self._open()
        error = new_error()
        pointer = check_pointer(
            lib.translator_vm_new(library, board.pointer, error), error, exception=EngineError
        )
        return EngineVm(pointer, self.name, (self, board))

    def _open(self) -> Any:
        with self._lock:
            if self._library is None:
                self._library = self._open_tested()
        return self._library

    def _open_tested(self) -> Any:
        if os.uname().machine != "x86_64":
            raise EngineError(
                f"the translator drives an x86-64 build of its library; this host is {os.uname().machine}"
            )
        path = os.fsencode(find_library())
        tiers: tuple[Tier, ...] = ("slow",) if os.environ.get(TIER_VARIABLE) == "slow" else ("fast", "slow")
        failures: list[str] = []
        for tier in tiers:
            error = new_error()
            library = check_pointer(
                lib.unicorn_library_open(path, tier == "slow", error), error, exception=EngineError
            )
            if lib.translator_self_test(library, error) == 0:
                self.tier = tier
                if failures:
                    self.warning = f"translator runs in its slow tier (3-4 times slower): {failures[0]}"
                return library
            failures.append(ffi.string(error.text).decode())
            lib.unicorn_library_close(library)
        raise EngineError(f"the translator fails its self-tests here: {'; '.join(failures)}")
