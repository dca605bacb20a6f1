"""``pyvmm lab``: one small kernel under several techniques of virtualisation, and what each of them costs.

Exit codes: 0; 1 when a workload did not come to its end, or a check went wrong where none may.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pyvmm.cli import exit_codes

if TYPE_CHECKING:
    from pyvmm.lab.results import Comparison, Result

EPILOG = """\
examples:
  pyvmm lab                                           everything, on the translator
  pyvmm lab --workload syscall --workload ptemod --count 100000
  pyvmm lab --engine kvm --technique paravirtual
  pyvmm lab --checks                                  which sensitive instructions deceive the kernel

docs/techniques.md explains the techniques and the figures.
"""


LEGEND = """exits: how often the guest was left, for the engine (bare, hardware) or for its monitor (the others)
emulated: instructions that the monitor did on the virtual CPU; us: CPU time of the host
<: less than can be told, a larger --count tells it; -: paced by a clock, or not run; --details: each by its reason"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add ``pyvmm lab``."""
    from pyvmm.lab.runner import TECHNIQUES, WORKLOADS

    parser = subparsers.add_parser(
        "lab",
        help="one kernel under four techniques of virtualisation, measured",
        description="Run the lab's kernel under each technique, and print what each operation takes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--technique", action="append", choices=TECHNIQUES, metavar="NAME", help=", ".join(TECHNIQUES)
    )
    parser.add_argument(
        "--workload", action="append", choices=tuple(WORKLOADS), metavar="NAME", help=", ".join(WORKLOADS)
    )
    parser.add_argument(
        "--engine",
        action="append",
        choices=("translator", "kvm", "all"),
        help="default translator; all: those that can run here",
    )
    parser.add_argument(
        "--count",
        type=_count,
        default=10_000,
        metavar="N",
        help="operations of each workload (default 10000)",
    )
    parser.add_argument("--checks", action="store_true", help="only the checks of sensitive instructions")
    parser.add_argument("--details", action="store_true", help="each counter by its reason too")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**9:
        raise argparse.ArgumentTypeError(f"{text!r}: a number from 1 to 1000000000")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Print the table, or the checks."""
    from pyvmm.lab.runner import usable_engines

    asked = list(dict.fromkeys(options.engine or ["translator"]))
    engines = usable_engines() if "all" in asked else tuple(asked)
    if options.checks:
        return _checks(options, engines)
    from pyvmm.lab.runner import compare

    def tell(line: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    try:
        found = compare(
            options.technique or (), options.workload or (), options.count, engines, progress=tell
        )
    finally:
        tell("")
    if options.json:
        _print_json(found.results)
    else:
        print(f"{found}\n\n{LEGEND}")
        if options.details:
            print()
            print("\n".join(map(str, found.results)))
    return _verdict(found)


def _verdict(found: Comparison) -> int:
    failed = [result for result in found.results if not result.ok]
    for result in failed:
        why = f"{result.status}: {result.end}" if result.end else result.status
        print(f"pyvmm: {result.workload} under {result.technique} on {result.engine}: {why}", file=sys.stderr)
    return exit_codes.ERROR if failed else exit_codes.OK


def _checks(options: argparse.Namespace, engines: tuple[str, ...]) -> int:
    from pyvmm.lab.results import as_columns
    from pyvmm.lab.runner import run as run_kernel
    from pyvmm.lab.runner import usable

    results = [
        run_kernel(technique, "checks", engine=engine)  # type: ignore[arg-type]
        for engine in engines
        for technique in dict.fromkeys(options.technique or usable(engine))
    ]
    if options.json:
        _print_json(results)
    else:
        for engine in engines:
            columns = [result for result in results if result.engine == engine]
            names = list(dict.fromkeys(check.name for result in columns for check in result.checks))
            rows = [[engine, *("" for _ in columns)], ["check", *(result.technique for result in columns)]]
            for name in names:
                words = {check.name: check for result in columns for check in result.checks}
                rows.append([name, *(_word(result, name) for result in columns)] if name in words else [])
            print("\n".join([*as_columns(rows), ""]))
    code = exit_codes.OK
    for result in results:
        if result.end or (result.wrong and result.technique != "trap-and-emulate"):
            code = exit_codes.ERROR
            print(f"pyvmm: checks under {result.technique} on {result.engine}: "
                  f"{result.end or 'wrong: ' + ', '.join(result.wrong)}", file=sys.stderr)  # fmt: skip
    return code


def _word(result: Result, name: str) -> str:
    """A cell: right, or what was seen instead; a paravirtual kernel has few of the checks."""
    for check in result.checks:
        if check.name == name:
            seen = f"{check.seen:#x}" if check.fault is None else f"exception {check.fault}"
            return "right" if check.right else f"{seen}, not {check.expected:#x}"
    return "-"


def _print_json(results: Any) -> None:
    import json
    from dataclasses import asdict

    print(json.dumps([asdict(result) for result in results], indent=2))
