"""virtio's smaller devices under stock Linux's own drivers, driven from Python as a user does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyvmm import Machine
from pyvmm.config import RngConfig
from pyvmm.devices.virtio import VirtioRng
from pyvmm.guests.cached import cached_initramfs
from tests.conftest import RecordExercised

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

APPEND = "console=ttyS0 quiet"
TIMEOUT = 60


class Shell:
    """Linux's shell on COM1."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run(self, command: str) -> str:
        """What a command prints."""
        self.machine.serial.send(f"echo '<<''<'; {command}; echo '>>''>'\n")
        said = self.machine.serial.expect(r"<<<\r\n[\s\S]*>>>\r\n", TIMEOUT).decode(errors="replace")
        return said.rpartition("<<<\r\n")[2].removesuffix(">>>\r\n").replace("\r", "").strip()


@contextmanager
def linux(kernel: Path, *modules: str, append: str = APPEND, **fields: Any) -> Iterator[Shell]:
    """A machine whose Linux has loaded these drivers."""
    initrd = cached_initramfs(modules=("virtio_pci", *modules))
    with Machine(
        kernel=kernel, initrd=initrd, append=append, serial="buffer", memory=256 << 20, vga="none", **fields
    ) as machine:
        machine.serial.expect(r"\nUP\r+\n", TIMEOUT)
        machine.serial.expect(r"# ", TIMEOUT)
        machine.serial.send("PS1=; stty -echo\n")
        shell = Shell(machine)
        yield shell
        assert not [line for line in machine.messages() if "must reset" in line]


def test_entropy(cloud_kernel: Path, record_exercised: RecordExercised) -> None:
    """Linux's hwrng reads the host's bytes, and no faster than it may."""
    with linux(cloud_kernel, "virtio_rng", rng=RngConfig(bytes_per_second=20000)) as shell:
        assert shell.run("cat /sys/class/misc/hw_random/rng_current") == "virtio_rng.0"
        first, second = (shell.run("dd if=/dev/hwrng bs=512 count=4 2>/dev/null | md5sum") for _ in range(2))
        assert len(first.split()[0]) == 32
        assert first != second
        assert shell.run("dd if=/dev/hwrng bs=512 count=4 2>/dev/null | wc -c") == "2048"
        rng = shell.machine.devices["rng"]
        assert isinstance(rng, VirtioRng)
        counters = rng.counters
        assert counters.bytes >= 6144
        assert counters.bytes <= 20000 * (shell.machine.clock.now / 1e9 + 1)
        record_exercised(engine=shell.machine.engine_name, guest="Debian cloud kernel, virtio-rng")
