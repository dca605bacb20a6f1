"""``pyvmm``: finds the command, imports its module only, and turns errors into one line and an exit code.

Exit codes are listed in `pyvmm.cli.exit_codes` and docs/cli.md. Nothing of the standard library is imported here that
Python has not imported by itself: it would be paid by every start of a guest (docs/adr/0006).
"""

from __future__ import annotations

import os
import sys

from pyvmm.cli import exit_codes

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pyvmm.cli.options import RunOptions

# Each module has `add_parser(subparsers)` and `run(arguments) -> exit code`.
COMMANDS = {
    "run": ("pyvmm.cli.run", "run a disk, a kernel, or the built-in guest"),
    "image": ("pyvmm.cli.image", "create, inspect, convert and check disk images"),
    "qemu-kvm": ("pyvmm.cli.qemu.command", "run a QEMU command line, or --explain it"),
    "trace": ("pyvmm.cli.trace", "run a guest and say why it left guest code, where, and what that cost"),
    "net": ("pyvmm.cli.net", "bridges, taps, VLANs and VXLANs of this host"),
    "lab": ("pyvmm.cli.lab", "one kernel under four techniques of virtualisation, measured"),
    "doctor": ("pyvmm.cli.doctor", "say what this host can run, and how fast"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["run"]:
        from pyvmm.cli.options import parse_quickly

        quick = parse_quickly(arguments[1:])
        if quick is not None:
            return run_command("run", quick)
    if arguments[:1] == ["qemu-kvm"]:  # reads its words by itself
        from pyvmm.cli.options import RunOptions

        return run_command("qemu-kvm", RunOptions({"words": arguments[1:]}))
    from pyvmm.cli.parser import build_parser

    parser = build_parser(arguments, COMMANDS)
    options = parser.parse_args(arguments)
    if options.version:
        from pyvmm import __version__

        print(f"pyvmm {__version__}")
        return exit_codes.OK
    if options.command is None:
        parser.print_help()
        return exit_codes.USAGE
    return run_command(options.command, options)


def run_command(command: str, options: RunOptions | argparse.Namespace) -> int:
    """Run the command that was named; an error of the user's or the host's becomes one line on standard error."""
    from pyvmm.errors import ConfigError, EngineError, PyvmmError

    try:
        return int(__import__(COMMANDS[command][0], fromlist=["run"]).run(options))
    except BrokenPipeError:
        # The reader of our output went away (`pyvmm image info x | head -1`): nobody is left to be told.
        try:  # noqa: SIM105 - contextlib is slow to import
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError:
            pass  # no standard output at all
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
