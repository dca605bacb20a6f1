"""Teaching mode: every exit of the built-in guest's start, one by one, as a `for` loop sees it.

An exit is the guest leaving its own code because it did something that it may not do by itself. Here each of them comes
to Python; without the loop they are answered in C and nobody sees them.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice

from pyvmm import Machine, MachineConfig
from pyvmm.cli.run import builtin_disk
from pyvmm.engine import ExitReason

SHOWN = 12
COUNTED = 2000


def main() -> None:
    """Print the first exits in full, then count."""
    reasons: Counter[str] = Counter()
    ports: Counter[int] = Counter()
    config = MachineConfig(memory=64 << 20, serial="buffer", disks=[builtin_disk()])
    with Machine(config) as machine:
        for number, exit_ in enumerate(islice(machine.exits(), COUNTED)):
            if number < SHOWN:
                print(f"{number:4}  {exit_}")
            reasons[exit_.reason.name] += 1
            if exit_.reason is ExitReason.IO:
                ports[exit_.address] += 1
    print(f"\nexits by reason, of the first {sum(reasons.values())}:")
    for reason, count in reasons.most_common():
        print(f"  {reason:<12} {count:6}")
    print("ports used most:")
    for port, count in ports.most_common(8):
        print(f"  {port:#06x}       {count:6}")


if __name__ == "__main__":
    main()
