"""A running Linux, looked at through `pyvmm.mmu`: its page tables are what the kernel itself says of them."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pyvmm import Machine, MachineConfig
from pyvmm.mmu import AddressSpace, Range, Shadow, walk

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "address-space.svg"
pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]
DIRECT_MAP, KERNEL_MAP = 0xFFFF888000000000, 0xFFFFFFFF80000000  # Documentation/arch/x86/x86_64/mm.rst
RAM, SHADOWS = 256 << 20, 16 << 20  # the guest's, and what it is not told of
ASKED = (
    "cat /proc/iomem; grep DirectMap /proc/meminfo; cat /proc/$$/maps; echo as''ked; while :; do :; done\n"
)


class Seen(NamedTuple):
    """A guest stopped while its shell, PID `$$`, counts to no end; and what it had printed before."""

    machine: Machine
    text: str
    found: AddressSpace

    @property
    def kernel(self) -> list[Range]:
        """The ranges of the upper half."""
        return [each for each in self.found.ranges if each.start >> 63]

    def resource(self, name: str) -> tuple[int, int]:
        """First and last address of a line of /proc/iomem."""
        line = re.search(rf"([0-9a-f]+)-([0-9a-f]+) : {name}", self.text)
        assert line, self.text[-3000:]
        return int(line[1], 16), int(line[2], 16)


@pytest.fixture(scope="module")
def linux(cloud_kernel: Path, initramfs: Path) -> Iterator[Seen]:
    config = MachineConfig(
        memory=RAM + SHADOWS, serial="buffer", kernel=cloud_kernel, initrd=initramfs,
        append=f"console=ttyS0 nokaslr mem={RAM}", engine="translator",
    )  # fmt: skip
    shown: list[str] = []
    with Machine(config) as machine:

        def says(word: str) -> Callable[[], bool]:
            def look() -> bool:
                shown.append(machine.serial.read_text())
                return word in "".join(shown)

            return look

        assert machine.wait_for(says("\nUP"), 120), "".join(shown)[-2000:]
        machine.serial.send(ASKED)
        assert machine.wait_for(says("\nasked"), 60), "".join(shown)[-2000:]
        machine.wait_for(lambda: machine.vcpu.state.cpl == 3, 20)
        yield Seen(machine, "".join(shown).replace("\r", ""), machine.vcpu.address_space())


def test_rings_and_rights(exercised: Callable[[str], None], linux: Seen) -> None:
    """Code is where RIP is; the kernel's half is no user's, and none of it is both writable and executable."""
    machine, found = linux.machine, linux.found
    state = machine.vcpu.state
    here = machine.vcpu.walk(state.linear_rip)
    assert here.kind == "4-level"
    assert here.access(state.cpl, fetch=True), str(here)
    assert not found.remarks, str(found)
    assert linux.kernel
    assert all(each.rights.endswith("kernel") for each in linux.kernel)
    assert not [each for each in linux.kernel if each.rights.startswith("rwx")]
    assert not machine.vcpu.walk(KERNEL_MAP + 0x1000000).access(3)
    assert machine.vcpu.tlb.fills["user"] > 100
    exercised("Debian cloud kernel")


def test_the_kernels_image(linux: Seen) -> None:
    """/proc/iomem says where code, constants and data are."""
    for name, rights in (("Kernel code", "r-x"), ("Kernel rodata", "r--"), ("Kernel data", "rw-")):
        first, last = (each + KERNEL_MAP for each in linux.resource(name))
        there = [each for each in linux.kernel if each.start <= last and first < each.end]
        assert there[0].start <= first
        assert there[-1].end > last
        assert {each.rights for each in there} == {f"{rights} kernel"}, "\n".join(map(str, there))
    first, _ = linux.resource("Kernel code")
    text = walk(linux.machine.memory, linux.machine.vcpu.state, KERNEL_MAP + first)
    assert (text.physical, text.page_size) == (first, 2 << 20)


def test_the_direct_map(linux: Seen) -> None:
    """Each physical address at its own offset; as many pages of each size as /proc/meminfo counts.

    Linux counts a 2 MiB page of the kernel's image that it splits there, too (__split_large_page()).
    """
    direct = [each for each in linux.kernel if DIRECT_MAP <= each.start < DIRECT_MAP + (1 << 46)]
    image = [each for each in linux.kernel if KERNEL_MAP <= each.start < KERNEL_MAP + (512 << 20)]
    assert all(each.physical == each.start - DIRECT_MAP for each in direct)

    def small(ranges: list[Range]) -> int:
        return sum(each.size for each in ranges if each.page == "4 KiB")

    def counted(page: str) -> int:
        line = re.search(rf"DirectMap{page}: +(\d+) kB", linux.text)
        assert line
        return int(line[1]) << 10

    assert counted("4k") + counted("2M") == sum(each.size for each in direct)
    assert counted("4k") == small(direct) + small(image)


def test_a_process(linux: Seen) -> None:
    """/proc/PID/maps allows each page that is there, and the shell's code is there."""
    areas = [
        (int(start, 16), int(end, 16), rights, name)
        for start, end, rights, name in re.findall(
            r"^([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-])p \S+ \S+ \d+ *(.*)$", linux.text, re.MULTILINE
        )
    ]
    user = [each for each in linux.found.ranges if each.rights.endswith("user")]
    assert {name for *_, name in areas} >= {"/bin/busybox", "[stack]", "[vdso]"}
    assert user
    for each in user:
        for start in range(each.start, each.end, 0x1000):
            allowed = next(rights for first, end, rights, _ in areas if first <= start < end)
            given = each.rights.split()[0]
            assert all(may != "-" for has, may in zip(given, allowed, strict=True) if has != "-")
    rip = linux.machine.vcpu.state.linear_rip
    if rip >> 63 == 0:
        assert next(rights for first, end, rights, _ in areas if first <= rip < end) == "r-x"


def test_its_tlb(linux: Seen) -> None:
    """What the translator remembers is what the tables say; the kernel may be late with its own pages."""
    held = linux.machine.vcpu.tlb_contents()
    assert sum(each.user for each in held.entries) >= 5
    assert len(held.entries) > 50
    assert not [each for each in held.stale if each.user], str(held)
    assert len(held.stale) < len(held.entries) / 10, str(held)


def test_shadow_of_a_linux(linux: Seen) -> None:
    """Every page of the program's and the kernel's is filled for the ring that may see it; the tables are traced."""
    vcpu = linux.machine.vcpu
    shadow = Shadow(
        linux.machine.memory,
        guest_end=RAM,
        pool=RAM,
        pool_size=SHADOWS,
        physical_bits=vcpu.physical_bits,
        monitor_slot=128,
    )
    program, kernel = vcpu.state, vcpu.state
    kernel.cs.attributes &= ~0x60
    kernel.ss.attributes &= ~0x60
    assert (program.cpl, kernel.cpl) == (3, 0)
    for state in (program, kernel):
        shadow.root(state)
        for area in linux.found.ranges:
            allowed = area.rights.endswith("user") or state is kernel
            for page in range(area.start, area.end, 0x1000 if area.page == "4 KiB" else 0x200000):
                fault = shadow.fault(state, page)
                if fault.result == "monitor":  # ACPI's tables, at the end of all RAM
                    assert "which is the monitor's memory" in fault.why
                    assert RAM <= vcpu.walk(page).physical < RAM + SHADOWS  # type: ignore[operator]
                else:
                    assert fault.result == ("filled" if allowed else "guest fault"), f"{area}: {fault}"
    beside = shadow.side_by_side(program, program.linear_rip)
    assert beside.shadow is not None
    assert beside.guest.physical == beside.shadow.physical
    assert not beside.remarks, str(beside)
    tables = DIRECT_MAP + (program.cr3 & ~0xFFF)
    assert shadow.fault(kernel, tables, write=True).result == "traced"
    assert "the page is traced" in str(shadow.side_by_side(kernel, tables))
    assert "ring 3 may not even read" in str(shadow.side_by_side(program, tables))


def test_its_picture(linux: Seen, tmp_path: Path) -> None:
    """Each kind of region has its bar and its name. ``PYVMM_WRITE_DOCS=1`` writes the picture of docs/mmu.md."""
    picture = linux.found.svg()
    (PICTURE if os.environ.get("PYVMM_WRITE_DOCS") else tmp_path / "linux.svg").write_text(picture)
    words = "".join(ElementTree.fromstring(picture).itertext())
    for name in ("a program", "all physical memory", "vmalloc", "the kernel: code", "fixed mappings"):
        assert name in words
    assert "more regions" not in words
