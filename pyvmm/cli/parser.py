"""The command line by argparse: help, every message about a wrong option, and all commands but a plain ``run``.

Imported where it is needed only; `pyvmm.cli.options.parse_quickly` reads a plain ``pyvmm run`` (docs/adr/0006).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NoReturn

from pyvmm.cli import exit_codes

EPILOG = """\
examples:
  pyvmm run                           the built-in guest
  pyvmm run debian.qcow2 -m 1G        a disk, through BIOS and boot loader
  pyvmm run --kernel vmlinuz --initrd initrd.img --append console=ttyS0
  pyvmm image info debian.qcow2

Inside a guest: Ctrl-A H for help, Ctrl-A X to quit.
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where the options are listed; exit with code 2."""
        self.exit(exit_codes.USAGE, f"pyvmm: {message} (see {self.prog} --help)\n")


def build_parser(
    arguments: Sequence[str], commands: Mapping[str, tuple[str, str]]
) -> argparse.ArgumentParser:
    """Return the parser for this command line: only the command that it names brings its options, and its imports.

    Parameters
    ----------
    commands
        Module and summary by name.
    """
    parser = Parser(
        prog="pyvmm",
        description="A virtual machine monitor and full-system x86 emulator.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    named = next((word for word in arguments if not word.startswith("-")), None)
    for command, (module, summary) in commands.items():
        if command == named:
            import_module(module).add_parser(subparsers)
        else:
            subparsers.add_parser(command, help=summary)
    return parser
