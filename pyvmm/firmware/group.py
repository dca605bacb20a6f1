"""How an interrupt function is written: a method that `@function` marks with its interrupt, AH (or AX) and source.

`ServiceGroup.call` finds the method. What nobody wrote is answered as a BIOS does: CF set, AH = 86h ("unsupported
function", PS/2 and PC BIOS Interface Technical Reference, INT 15h), and logged once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pyvmm.firmware.frame import Frame
from pyvmm.firmware.platform import Platform

_Method = TypeVar("_Method", bound=Callable[..., None])
UNSUPPORTED = 0x86


@dataclass(frozen=True, slots=True)
class FunctionInfo:
    """Where a function is documented. `selector` is None for an interrupt without function numbers, AH, or AX if above
    0xff.
    """

    interrupt: int
    selector: int | None
    source: str


def function(interrupt: int, *selectors: int, source: str) -> Callable[[_Method], _Method]:
    """Mark a method as the answer to INT `interrupt` with AH (below 100h) or AX (above) in `selectors`."""

    def mark(method: _Method) -> _Method:
        infos = [FunctionInfo(interrupt, selector, source) for selector in selectors or (None,)]
        method.__dict__["bios_functions"] = infos
        return method

    return mark


class ServiceGroup:
    """Base of the service groups: a table from (interrupt, selector) to method, made from the marks."""

    functions: ClassVar[dict[tuple[int, int | None], tuple[str, FunctionInfo]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.functions = {}
        for name, method in vars(cls).items():
            for info in getattr(method, "bios_functions", ()):
                cls.functions[info.interrupt, info.selector] = (name, info)

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def reset(self) -> None:
        """The machine was reset."""

    def call(self, interrupt: int, frame: Frame) -> None:
        """Answer one call, changing `frame`."""
        found = (
            (self.functions.get((interrupt, frame.ax)) if frame.ax > 0xFF else None)
            or self.functions.get((interrupt, frame.ah))
            or self.functions.get((interrupt, None))
        )
        if found is None:
            self.unsupported(interrupt, frame)
        else:
            getattr(self, found[0])(frame)

    def unsupported(self, interrupt: int, frame: Frame) -> None:
        """CF set, AH = 86h."""
        self.platform.log_once(f"BIOS: INT {interrupt:02X}h AX={frame.ax:04X}h is not supported")
        frame.fail(UNSUPPORTED)
