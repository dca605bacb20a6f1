"""A device in ten lines of Python, seen by a guest of a dozen instructions.

The device gives the next square number at each read of port 0x300. The guest, assembled here, reads it five times,
stores what it read at 0x8000 and ends the machine by the exit port.
"""

from __future__ import annotations

from pyvmm import Device, Machine, MachineConfig, assemble

PORT = 0x300
RESULTS = 0x8000


class Squares(Device):
    """Every read gives the next square number."""

    name = "squares"
    count = 0

    def pio_read(self, region: int, offset: int, size: int) -> int:
        """Answer one read: `offset` counts from the first port of the device, `size` is 1, 2 or 4 bytes."""
        self.count += 1
        return self.count**2


GUEST = assemble(
    f"""
        cli
        xor ax, ax
        mov es, ax
        mov di, {RESULTS:#x}
        mov dx, {PORT:#x}
        mov cx, 5
        rep insb                # five reads of the port, to ES:DI
        mov dx, 0x501           # the exit port: ends with (0x10 << 1) | 1
        mov al, 0x10
        out dx, al
    """,
    bits=16,
    address=0x7C00,
)


def main() -> None:
    """Run the guest on a PC with our device in it."""
    with Machine(MachineConfig(memory=16 << 20, serial="null")) as machine:
        machine.pio.add(PORT, 1, Squares())
        machine.memory.load(0x7C00, GUEST)
        state = machine.vcpu.state
        state.set_real_mode(cs=0, ip=0x7C00)
        machine.vcpu.state = state
        result = machine.run(timeout=60)
        numbers = machine.memory.read(RESULTS, 5)
        print("the guest read", *numbers)
        print(f"it ended by {result.reason}, exit code {result.code}")
        assert list(numbers) == [1, 4, 9, 16, 25]


if __name__ == "__main__":
    main()
