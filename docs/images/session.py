"""Make session.svg, the picture in README.md: the real command in a real terminal (tmux), drawn by rich.

Run it from anywhere with the environment's Python: ``.venv/bin/python docs/images/session.py``. Needs tmux.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS, LINES = 100, 40
PROMPT = "guest>"
COMMANDS = ["pci", "ring3 none", "ticks"]
TARGET = Path(__file__).with_name("session.svg")


def main() -> None:
    """Drive the session and draw its last screen."""
    name = f"pyvmm-{uuid.uuid4().hex[:8]}"

    def tmux(*words: str) -> str:
        return subprocess.run(["tmux", "-L", name, *words], check=True, capture_output=True, text=True).stdout

    def screen(*options: str) -> str:
        return tmux("capture-pane", "-p", *options, "-t", name)

    def wait(prompts: int) -> None:
        """Until the prompt was printed that often, the history included."""
        for _ in range(600):
            if screen("-S", "-").count(PROMPT) >= prompts and screen().rstrip().endswith(PROMPT):
                return
            time.sleep(0.1)
        sys.exit(f"session.py: no prompt {prompts}; the screen is:\n{screen()}")

    command = f"{sys.executable} -m pyvmm.cli.main run"
    tmux("new-session", "-d", "-s", name, "-x", str(COLUMNS), "-y", str(LINES), command)
    try:
        wait(1)
        for number, line in enumerate(COMMANDS, 2):
            tmux("send-keys", "-t", name, line, "Enter")
            wait(number)
        picture = Text.from_ansi(screen("-e").rstrip())
    finally:
        tmux("kill-server")
    console = Console(record=True, width=COLUMNS, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    console.print(picture)
    svg = console.export_svg(title="pyvmm run")
    # Nothing is fetched to show the picture: no fonts from elsewhere.
    TARGET.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))
    print(TARGET)


if __name__ == "__main__":
    main()
