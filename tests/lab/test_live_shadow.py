"""Shadow page tables under a real kernel: stopped again and again, they never say more than the guest's tables do."""

from __future__ import annotations

import pytest

from pyvmm import Machine
from pyvmm.errors import PyvmmError
from pyvmm.lab.boot import LabKernel
from pyvmm.lab.monitor import Monitor
from pyvmm.mmu import address_space
from tests.unit.mmu import python_walker

WORK = "workload=all count=400"
STOPS = 10
MONITOR_SLOT = 511  # of every real PML4: docs/adr/0010


def lab_machine(engine: str) -> Machine:
    try:
        return Machine(memory=64 << 20, engine=engine, irqchip="user", serial="buffer", vga="none")
    except PyvmmError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("technique", ["trap-and-emulate", "translation", "paravirtual"])
@pytest.mark.parametrize("engine", ["translator", "kvm"])
def test_never_more_than_the_guests(engine: str, technique: str) -> None:
    """Each page of the real address space, by a walk (in Python) of the guest's tables; kernel and programs both."""
    stops, traced = 0, 0
    with lab_machine(engine) as machine:
        monitor = Monitor(machine, technique)
        monitor.prepare(LabKernel.open(paravirt=technique == "paravirtual"), command_line=WORK)
        for _ in range(50 * STOPS):
            ended = machine.run(timeout=0.005 * (min(stops, STOPS) + 1))
            if ended.reason == "exit" or (stops >= STOPS and traced):
                break
            state, real = monitor.paging_state, machine.vcpu.state
            if real.cpl == 0:  # the monitor's turn: the real CR3 may still be of before a change
                continue
            stops += 1
            slot = monitor.shadow.side_by_side(state, MONITOR_SLOT << 39 | 0xFFFF << 48)
            assert slot.remarks == ("the guest maps nothing here: this is the monitor's own slot",)
            for area in address_space(machine.memory, real).ranges:
                if area.start >> 39 & 511 == MONITOR_SLOT:
                    continue
                step = 0x1000 if area.page == "4 KiB" else 0x200000
                for page in range(area.start, area.end, step):
                    guest = python_walker.walk(machine.memory, state, page, physical_bits=40)
                    assert (
                        guest.physical
                        == python_walker.walk(machine.memory, real, page, physical_bits=40).physical
                    )
                    assert guest.access(state.cpl), f"{area}\n{guest}"
                    if "w" in area.rights:
                        assert guest.access(state.cpl, write=True), f"{area}\n{guest}"
                        assert not monitor.shadow.is_traced(guest.physical)
                    traced += monitor.shadow.is_traced(guest.physical)
        assert monitor.end is None, str(monitor.end)
    if stops < STOPS:
        pytest.skip(
            f"this engine had done all the work after {stops} stops, which is too few to meet a page table"
        )
    assert traced
