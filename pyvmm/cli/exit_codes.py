"""Exit codes of the `pyvmm` command (docs/cli.md has the same table).

A guest that writes N to the exit port ends the command with (N << 1) | 1, cut to 8 bits, as the field's
isa-debug-exit device does: such a guest chooses N so that its codes do not meet those below.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


OK: Final = 0
"""The guest powered off."""
ERROR: Final = 1
"""Setting up failed: a file, an image, a kernel. One line says which."""
USAGE: Final = 2
"""The command line is wrong."""
GUEST_STOPPED: Final = 3
"""The guest reset or triple-faulted under --no-reboot, or halted for good."""
ENGINE: Final = 4
"""The engine could not start or could not go on."""
TIMEOUT: Final = 124
"""--timeout was over (the code of timeout(1))."""
INTERRUPTED: Final = 130
"""Ctrl-A X, or SIGINT. Other signals: 128 + their number (SIGTERM 143, SIGHUP 129)."""
