"""The only importer of the compiled module: `ffi`, `lib`, and the one place where a C error becomes an exception."""

from __future__ import annotations

import os
import sys

from pyvmm.errors import PyvmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    ffi: Any
    lib: Any
else:
    try:
        from pyvmm._native import ffi, lib
    except ImportError as error:
        raise ImportError(
            f"pyvmm's compiled part is missing or was built for another Python ({error}); "
            "reinstall it: pip install --force-reinstall pyvmm-lab, or ./dev build in a clone"
        ) from error

__all__ = ["check", "check_pointer", "extension_path", "ffi", "lib", "new_error"]


def extension_path() -> str:
    """File of the compiled module."""
    return str(sys.modules["pyvmm._native"].__file__)


def new_error() -> Any:
    """An empty C `Error` record to pass to a call that fills it."""
    return ffi.new("Error *")


def _message(code: int, error: Any, what: str) -> str:
    text = ffi.string(error.text).decode(errors="replace") if error is not None else ""
    if not text:
        text = os.strerror(code)
    return f"{what}: {text}" if what else text


def check(result: int, error: Any = None, what: str = "", exception: type[PyvmmError] = PyvmmError) -> int:
    """Return a C call's result, or raise what its negative value and its `Error` record say.

    Parameters
    ----------
    result
        0 or a count, or -errno.
    error
        The `Error` record given to the call, if it took one.
    what
        Put before the message: the file, option or register concerned.
    exception
        The class of the tree in `pyvmm.errors` to raise.
    """
    if result < 0:
        raise exception(_message(-result, error, what))
    return result


def check_pointer(
    pointer: Any, error: Any = None, what: str = "", exception: type[PyvmmError] = PyvmmError
) -> Any:
    """The same for a constructor: NULL raises."""
    if pointer == ffi.NULL:
        code = error.code if error is not None else 12
        raise exception(_message(code, error, what))
    return pointer
