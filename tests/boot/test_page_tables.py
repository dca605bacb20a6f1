"""A running Linux, looked at through `pyvmm.mmu`: its page tables are where it runs and what it promised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import Machine, MachineConfig
from pyvmm.mmu import address_space, walk

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]


def test_linux_address_space(exercised: Callable[[str], None], cloud_kernel: Path, initramfs: Path) -> None:
    """Stopped at its shell: code is where RIP is, the kernel's half is no user's, its text cannot be written."""
    config = MachineConfig(
        memory=256 << 20, serial="buffer", kernel=cloud_kernel, initrd=initramfs,
        append="console=ttyS0 nokaslr", engine="translator",
    )  # fmt: skip
    with Machine(config) as machine:
        shown: list[str] = []

        def is_up() -> bool:
            shown.append(machine.serial.read_text())
            return "\nUP" in "".join(shown)

        assert machine.wait_for(is_up, 120), "".join(shown)[-2000:]
        state = machine.vcpu.state
        here = walk(machine.memory, state, state.linear_rip)
        assert here.kind == "4-level"
        assert here.access(state.cpl, fetch=True), str(here)
        found = address_space(machine.memory, state)
        assert not found.remarks, str(found)
        kernel = [each for each in found.ranges if each.start >> 63]
        assert kernel
        assert all(each.rights.endswith("kernel") for each in kernel)
        text = next(each for each in kernel if each.start <= 0xFFFFFFFF81000000 < each.end)
        assert (text.rights, text.page) == ("r-x kernel", "2 MiB")
        assert (
            walk(machine.memory, state, 0xFFFFFFFF81000000).physical
            == text.physical + 0xFFFFFFFF81000000 - text.start
        )
        assert not walk(machine.memory, state, 0xFFFFFFFF81000000).access(3)
    exercised("Debian cloud kernel")
