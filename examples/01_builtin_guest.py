"""Boot the built-in guest and talk to its shell from Python: a whole machine as an object.

The guest boots from its own disk through the BIOS, and its shell is on COM1. With ``serial="buffer"`` COM1 is
`machine.serial`: `send()` types, `expect()` runs the machine until the guest has answered.
"""

from __future__ import annotations

from pyvmm import Machine, MachineConfig
from pyvmm.cli.run import builtin_disk

PROMPT = b"> "


def main() -> None:
    """Ask the guest for three things, then power it off."""
    config = MachineConfig(memory=64 << 20, serial="buffer", disks=[builtin_disk()])
    with Machine(config) as machine:
        greeting = machine.serial.expect(PROMPT, timeout=60)
        print(greeting.decode(errors="replace"), end="")
        for command in ("help", "mem", "pci"):
            machine.serial.send(command.encode() + b"\r")
            print(machine.serial.expect(PROMPT, timeout=60).decode(errors="replace"), end="")
        machine.serial.send(b"poweroff\r")
        result = machine.run(timeout=60)
        print(f"\nthe guest ended: {result.reason}")
        assert result.reason == "poweroff"


if __name__ == "__main__":
    main()
