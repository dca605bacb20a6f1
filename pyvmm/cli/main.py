"""``pyvmm``: finds the command, imports its module only, and turns errors into one line and an exit code.

Exit codes are listed in `pyvmm.cli.exit_codes` and docs/cli.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from pyvmm.cli import exit_codes

# Each module has `add_parser(subparsers)` and `run(arguments) -> exit code`.
COMMANDS = {
    "run": ("pyvmm.cli.run", "run a disk, a kernel, or the built-in guest"),
    "image": ("pyvmm.cli.image", "create, inspect, convert and check disk images"),
    "doctor": ("pyvmm.cli.doctor", "say what this host can run, and how fast"),
}

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


def build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser for this command line: only the command that it names brings its options, and its imports."""
    parser = Parser(
        prog="pyvmm",
        description="A virtual machine monitor and full-system x86 emulator.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    named = next((word for word in arguments if not word.startswith("-")), None)
    for command, (module, summary) in COMMANDS.items():
        if command == named:
            import_module(module).add_parser(subparsers)
        else:
            subparsers.add_parser(command, help=summary)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser(arguments)
    options = parser.parse_args(arguments)
    if options.version:
        from pyvmm import __version__

        print(f"pyvmm {__version__}")
        return exit_codes.OK
    if options.command is None:
        parser.print_help()
        return exit_codes.USAGE
    return run_command(options)


def run_command(options: argparse.Namespace) -> int:
    """Run the command that was named; an error of the user's or the host's becomes one line on standard error."""
    from pyvmm.errors import ConfigError, EngineError, PyvmmError

    try:
        return int(import_module(COMMANDS[options.command][0]).run(options))
    except BrokenPipeError:
        # The reader of our output went away (`pyvmm image info x | head -1`): nobody is left to be told.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.ERROR
    except ConfigError as error:
        return fail(str(error), exit_codes.USAGE)
    except EngineError as error:
        return fail(str(error), exit_codes.ENGINE)
    except PyvmmError as error:
        return fail(str(error), exit_codes.ERROR)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return fail(f"{name}{error.strerror or error}", exit_codes.ERROR)
    except MemoryError:
        return fail("out of memory on the host; give the guest less with -m", exit_codes.ERROR)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED


def fail(message: str, code: int) -> int:
    """Print `message` as one line on standard error and return `code`."""
    print(f"pyvmm: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
