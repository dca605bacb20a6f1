"""A guest that calls the BIOS with nonsense gets an answer; the host never gets an exception other than BootError."""

from __future__ import annotations

import contextlib
import random

import pytest
from bios_machine import Caller, FakeImage, FakePci

from pyvmm.errors import BootError
from pyvmm.firmware.bios import Bios
from pyvmm.firmware.frame import FRAME_SIZE
from pyvmm.firmware.platform import Drive
from pyvmm.units import KIB, MIB

REGISTERS = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp")
SEGMENTS = ("ds", "es")
SELECTORS = sorted({(info.interrupt, info.selector or 0) for info, _ in Bios.functions()})


@pytest.mark.parametrize("seed", range(3))
def test_random_registers(seed: int) -> None:
    random_ = random.Random(seed)
    images = [FakeImage(bytearray(random_.randbytes(64 * KIB)) * 16) for _ in range(2)]
    drives = [Drive("hd", images[0]), Drive("cd", images[1], "cdrom")]
    drives.append(Drive("fd", FakeImage(bytearray(random_.randbytes(720 * KIB))), "floppy"))
    guest = Caller(drives, pci=[FakePci(3, {0: 0xFFFFFFE1, 1: 0xFFFFF000})], memory_size=2 * MIB)
    for _ in range(600):
        interrupt, selector = random_.choice(SELECTORS)
        values = {
            name: random_.choice((0, 0xFFFFFFFF, random_.getrandbits(32), random_.getrandbits(16)))
            for name in REGISTERS
        }
        values |= {name: random_.choice((0, 0xA000, 0xFFFF, random_.getrandbits(16))) for name in SEGMENTS}
        low = selector if selector > 0xFF else selector << 8 | random_.getrandbits(8)
        values["eax"] = values["eax"] & 0xFFFF0000 | low
        if interrupt == 0x13:
            values["edx"] = values["edx"] & 0xFFFFFF00 | random_.choice((0, 0x80, 0xE0, 0x7F, 0x81))
        if random_.random() < 0.02:  # the guest owns the BIOS data area, too
            guest.memory.write(0x400, random_.randbytes(256))
        guest.now += random_.choice((0, 1000, 10**9))
        with contextlib.suppress(BootError):
            guest.service(interrupt, **values)
    assert sum(guest.bios.calls.values()) > 300


def test_stack_outside_of_ram(caplog: pytest.LogCaptureFixture) -> None:
    from types import SimpleNamespace

    guest = Caller()
    with caplog.at_level("INFO", "pyvmm.firmware"):
        for _ in range(2):
            guest.bios.service(0x10, SimpleNamespace(rsp=0x10 + FRAME_SIZE, ss=SimpleNamespace(base=0xA0000)))
    assert caplog.text.count("the stack is not in RAM") == 1


def test_unhandled_exception_is_named_and_sleeps(caplog: pytest.LogCaptureFixture) -> None:
    guest = Caller()
    with caplog.at_level("INFO", "pyvmm.firmware"):
        frame = guest.service(0x06, cs=0x1234, ip=0x5678)
    assert frame.waits
    assert "#UD, invalid opcode at 1234:5678" in caplog.text


def test_random_images_boot_or_say_why() -> None:
    random_ = random.Random(1)
    for _ in range(50):
        data = bytearray(random_.randbytes(64 * KIB))
        data[17 * 2048 : 17 * 2048 + 39] = b"\0CD001\1EL TORITO SPECIFICATION".ljust(39, b"\0")
        data[17 * 2048 + 0x47] = random_.choice((1, 18, 31, 32))
        data[17 * 2048 + 0x48 : 17 * 2048 + 0x4B] = bytes((0, 0, random_.choice((0, 0xFF))))
        guest = Caller([Drive("cd", FakeImage(data, True), "cdrom")], order="d", memory_size=2 * MIB)
        with contextlib.suppress(BootError):
            guest.service(0x19)


def test_service_numbers_that_nobody_has() -> None:
    guest = Caller()
    for number in (0x01, 0x42, 0x99, 0x101, 0xFFFF):
        guest.service(number)
