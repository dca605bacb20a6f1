"""A virtio device of your own: the device is a Python class, its driver a guest program of some thirty instructions.

A virtio device and its driver share memory: the driver puts the addresses of its buffers into a ring, says so by one
write to a register, and finds what the device made of them in another ring (virtio 1.2 §2.7). Here the device's
registers are at an address of memory (§4.2), the request is a text, and the answer is the same text, louder.
"""

from __future__ import annotations

from pyvmm import Machine, MachineConfig, assemble
from pyvmm.devices.virtio import MmioPlace, PythonVirtioDevice

REGISTERS = 0xFEB00000
DESCRIPTORS, AVAILABLE, USED = 0x8000, 0x8100, 0x8200  # the three parts of a ring, for the driver to choose
TEXT, ANSWER = 0x9000, 0x9100
GREETING = b"hello from the guest"


class Shout(PythonVirtioDevice):
    """Answers each request in capital letters."""

    device_id = 42  # a kind that virtio has no driver for: ours has

    def request(self, queue: int, data: bytes, room: int) -> bytes:
        """`data` is what the driver wrote; what is returned goes to the buffer that it left for the answer."""
        print(f"the device was asked {data!r}, with room for {room} bytes")
        return data.upper()


def store(register: int, value: int) -> str:
    """One write to a register of the device."""
    return f"mov dword ptr [{REGISTERS + register:#x}], {value:#x}\n"


def descriptor(number: int, address: int, size: int, flags: int, following: int) -> str:
    """One entry of the descriptor table: flag 1, another one follows; flag 2, the device writes."""
    at = DESCRIPTORS + 16 * number
    return f"""
        mov dword ptr [{at}], {address}
        mov dword ptr [{at + 8}], {size}
        mov dword ptr [{at + 12}], {following << 16 | flags}
    """


DRIVER = "".join(
    [
        store(0x70, 1),  # Status: ACKNOWLEDGE
        store(0x70, 3),  # and DRIVER
        store(0x24, 1) + store(0x20, 1),  # DriverFeatures, high word: VERSION_1
        store(0x70, 11),  # and FEATURES_OK
        store(0x38, 4),  # QueueSize
        store(0x80, DESCRIPTORS) + store(0x90, AVAILABLE) + store(0xA0, USED),
        store(0x44, 1),  # QueueReady
        store(0x70, 15),  # and DRIVER_OK: it can be used now
        descriptor(0, TEXT, len(GREETING), 1, 1),
        descriptor(1, ANSWER, 64, 2, 0),
        f"mov word ptr [{AVAILABLE + 4}], 0\n",  # the chain that begins with descriptor 0
        f"mov word ptr [{AVAILABLE + 2}], 1\n",  # is available
        store(0x50, 0),  # QueueNotify
        f"wait: pause; cmp word ptr [{USED + 2}], 1; jne wait\n",
        f"mov eax, dword ptr [{USED + 8}]\n",  # how many bytes the device wrote
        "mov dx, 0x501; out dx, al\n",  # the exit port: ends the machine with (eax << 1) | 1
    ]
)


def main() -> None:
    """Put the device on a PC, and let the driver use it."""
    with Machine(MachineConfig(memory=16 << 20, serial="null")) as machine:
        device = Shout(machine.board, MmioPlace(REGISTERS, gsi=10))
        machine.devices["shout"] = device  # the machine frees it with the others
        machine.mmio.add(REGISTERS, MmioPlace.SIZE, device)

        machine.memory.load(0x7C00, assemble(DRIVER, bits=32, address=0x7C00))
        machine.memory.load(TEXT, GREETING)
        state = machine.vcpu.state
        state.set_flat_protected_mode(0x7C00)
        machine.vcpu.state = state
        result = machine.run(timeout=60)

        size = result.code >> 1
        print(f"the driver got {machine.memory.read(ANSWER, size)!r}")
        print("status:", *device.status)
        assert machine.memory.read(ANSWER, size) == GREETING.upper()


if __name__ == "__main__":
    main()
