"""The lab's guest kernel: its file, the protocol by which it is started, and the report that it leaves.

Source: csrc/guest/lab/lab.h, the contract for both sides. The kernel is entered in 64-bit mode with an identity map, so
that a monitor which owns ring 0 can start it as well as a bare processor does; `prepare` does the latter.
Its image is package data, in two builds of one source: the plain one, and the paravirtual one, which needs a
monitor that knows docs/paravirt.md.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pyvmm.boot.e820 import e820_map
from pyvmm.boot.elf import ElfFile, parse_elf
from pyvmm.boot.entry import (
    CODE_64,
    DATA_32,
    EntrySegment,
    EntryState,
    KernelInfo,
    build_gdt,
    build_identity_tables,
)
from pyvmm.boot.image import KernelImage
from pyvmm.boot.ram import RamMap
from pyvmm.errors import BootError
from pyvmm.units import Gpa

if TYPE_CHECKING:
    from pyvmm.boot.ram import LoadTarget
    from pyvmm.machine.machine import Machine
    from pyvmm.memory import GuestMemory
    from pyvmm.trace import Symbols

BOOT: Final = struct.Struct("<QIIQQ")
BOOT_MAGIC: Final = 0x544F4F4242414C
REPORT_MAGIC: Final = 0x54504552424C
VERSION: Final = 1
TABLES: Final = Gpa(0x70000)
"""Page tables, LabBoot, command line and GDT: below 0x80000, in RAM that the kernel does not allocate from."""
BOOT_AT: Final = Gpa(0x78000)
GDT_AT: Final = Gpa(0x79000)
COMMAND_LINE_MAX: Final = 255

_HEAD = struct.Struct("<QIIIIIIIIQQQQQ")
_RESULT = struct.Struct("<16sQQQQ")
_CHECK = struct.Struct("<24sQQ")
_RESULTS, _CHECKS = 24, 40
_REPORT_SIZE = _HEAD.size + _RESULTS * _RESULT.size + _CHECKS * _CHECK.size
_CHECK_FAULT = 0xFA17 << 48
_STATES = {1: "running", 2: "done", 3: "failed"}
_STATUS = ("ok", "absent", "stuck", "fault", "no memory")
_DOORS = {1: "syscall", 2: "int80", 4: "int3"}
_SHT_SYMTAB = 2
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_MINIMUM_RAM = 4 << 20
_MAPPED = 1 << 30


@dataclass(frozen=True, slots=True)
class WorkloadResult:
    """One workload that ran.

    Attributes
    ----------
    name
        As ``workload=`` names it.
    operations
        How many were done.
    cycles
        TSC cycles that they took.
    value
        What was computed: a checksum, or what csrc/guest/lab/workloads.c says.
    status
        ``"ok"``, ``"absent"`` (no such device or workload), ``"stuck"`` (a bounded wait ended), ``"fault"``,
        ``"no memory"``.
    """

    name: str
    operations: int
    cycles: int
    value: int
    status: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One sensitive instruction as the kernel used it: what ring 0 would see, and what was seen."""

    name: str
    expected: int
    seen: int

    @property
    def right(self) -> bool:
        """Whether the kernel was not deceived."""
        return self.expected == self.seen

    @property
    def fault(self) -> int | None:
        """The vector of the exception that came instead of an answer, or None."""
        return self.seen & 0xFF if self.seen >> 48 == _CHECK_FAULT >> 48 else None

    def __str__(self) -> str:
        seen = f"{self.seen:#x}" if self.fault is None else f"exception {self.fault}"
        verdict = "right" if self.right else "WRONG"
        return f"{self.name}: expected {self.expected:#x}, seen {seen}: {verdict}"


@dataclass(frozen=True, slots=True)
class LabReport:
    """What the kernel says about its run.

    Attributes
    ----------
    state
        ``"absent"`` (it did not get so far as to have one), ``"running"``, ``"done"`` or ``"failed"``.
    paravirt
        Which build it is.
    doors
        Ways from ring 3 to the kernel that are open: of ``"syscall"``, ``"int80"``, ``"int3"``.
    door
        The one that the programs used; empty when none was chosen.
    bounced
        SYSCALL stays in ring 3 on this host, and comes in by the INT3 at LSTAR.
    interrupts
        That arrived in the kernel.
    fault
        Vector, RIP, error code and CR2 of the exception that ended it, or None.
    """

    state: str
    paravirt: bool
    doors: frozenset[str]
    door: str
    bounced: bool
    interrupts: int
    fault: tuple[int, int, int, int] | None
    results: tuple[WorkloadResult, ...]
    checks: tuple[CheckResult, ...]

    def __getitem__(self, name: str) -> WorkloadResult:
        """Return the result of the workload `name`, the last one when it ran more than once.

        Raises
        ------
        KeyError
            It did not run.
        """
        for result in reversed(self.results):
            if result.name == name:
                return result
        raise KeyError(name)

    @property
    def wrong(self) -> tuple[CheckResult, ...]:
        """The checks in which the kernel was deceived."""
        return tuple(check for check in self.checks if not check.right)


@dataclass(frozen=True, slots=True)
class LabKernel:
    """The kernel's file and its symbols.

    Attributes
    ----------
    path
        The ELF file.
    paravirt
        Whether it is the build that calls a monitor.
    symbols
        Address by name.
    """

    path: str
    paravirt: bool
    elf: ElfFile = field(repr=False)
    symbols: dict[str, int] = field(repr=False)
    _order: list[tuple[int, str]] = field(repr=False, default_factory=list)

    @classmethod
    def open(cls, *, paravirt: bool = False, path: str | os.PathLike[str] | None = None) -> LabKernel:
        """Open the packaged kernel, or the one at `path`.

        Raises
        ------
        BootError
            It is missing, or no 64-bit ELF file with a symbol table that has ``lab_report``.
        """
        place = _packaged(paravirt) if path is None else os.fspath(path)
        elf = parse_elf(KernelImage.open(place))
        if elf.bits != 64:
            raise elf.image.error("a 32-bit ELF file is not the lab's kernel")
        symbols = _symbols(elf.image)
        if "lab_report" not in symbols:
            raise elf.image.error("no symbol lab_report: this is not the lab's kernel, or it is stripped")
        order = sorted((address, name) for name, address in symbols.items())
        return cls(place, paravirt, elf, symbols, order)

    def symbol_at(self, address: int) -> str:
        """Return ``"name+0x12"`` for an address in the kernel, and the bare number for another one."""
        at = bisect_right(self._order, (address, "\x7f")) - 1
        end = self.symbols.get("kernel_end", 0)
        if at < 0 or not self._order[0][0] <= address < end:
            return f"{address:#x}"
        start, name = self._order[at]
        return name if start == address else f"{name}+{address - start:#x}"

    def code_symbols(self) -> Symbols:
        """Its functions and labels, for `pyvmm.trace.explain`."""
        from pyvmm.trace import Symbols

        return Symbols(self._order, "the lab's kernel")

    def load(self, memory: LoadTarget, *, ram_end: int, command_line: str = "") -> EntryState:
        """Lay kernel, page tables and LabBoot into guest memory and return how it is entered.

        Parameters
        ----------
        memory
            Guest memory to fill.
        ram_end
            Where the kernel's RAM ends, in bytes: 4 MiB to 1 GiB. What is above, it never uses.
        command_line
            ``workload=syscall count=1000 door=auto``: csrc/guest/lab/start.c lists the words.

        Raises
        ------
        BootError
            A size or the command line is out of range.
        """
        if not _MINIMUM_RAM <= ram_end <= _MAPPED:
            raise BootError(f"lab: RAM of {ram_end:#x} bytes; the kernel needs 4 MiB and takes up to 1 GiB")
        line = command_line.encode("ascii", "replace")
        if len(line) > COMMAND_LINE_MAX or b"\0" in line:
            raise BootError(f"lab: the command line is limited to {COMMAND_LINE_MAX} characters without NUL")
        ram = RamMap(memory, e820_map(ram_end, ()))
        address, size = self.elf.load(ram)
        code, data = EntrySegment(0x08, CODE_64), EntrySegment(0x10, DATA_32)
        task = EntrySegment(0x18, 0x008B, limit=0x67)
        gdt = build_gdt(code, data)
        build = "paravirtual" if self.paravirt else "plain"
        memory.load(TABLES, build_identity_tables(TABLES))
        memory.load(BOOT_AT, BOOT.pack(BOOT_MAGIC, VERSION, 0, ram_end, BOOT_AT + BOOT.size) + line + b"\0")
        memory.load(GDT_AT, gdt)
        return EntryState(
            mode="long",
            rip=self.elf.entry,
            gpr={"rdi": BOOT_AT},
            gdt=(GDT_AT, len(gdt)),
            code=code,
            data=data,
            task=task,
            cr3=TABLES,
            description=f"the lab's {build} kernel, 64-bit entry at {self.elf.entry:#x}",
            kernel=KernelInfo("lab ELF", "", str(VERSION), address, size, Gpa(0), 0),
        )

    def report(self, memory: GuestMemory) -> LabReport:
        """Read what the kernel has reported so far; it may be asked while it runs."""
        return parse_report(memory.read(self.symbols["lab_report"], _REPORT_SIZE))


def prepare(
    machine: Machine, kernel: LabKernel, *, ram_end: int | None = None, command_line: str = ""
) -> None:
    """Load the kernel into a machine that has not run, and point its first vCPU at it: ring 0, nobody between.

    PCI devices get their addresses as firmware would give them.

    Raises
    ------
    BootError
        See `LabKernel.load`.
    """
    from pyvmm.firmware.mtrr import set_memory_types
    from pyvmm.firmware.pci_setup import assign_resources

    end = min(machine.config.memory, _MAPPED) if ram_end is None else ram_end
    entry = kernel.load(machine.memory, ram_end=end, command_line=command_line)
    if "pci" in machine.devices:
        assign_resources(machine.pio)
    state = machine.vcpu.state
    set_memory_types(state)
    entry.apply(state)
    machine.vcpu.state = state


def parse_report(data: bytes) -> LabReport:
    """Decode a LabReport; whatever a guest wrote there is taken without an error."""
    values = _HEAD.unpack_from(data)
    magic, version, state, paravirt, doors, door, bounced, result_count, check_count = values[:9]
    vector, rip, address, error, interrupts = values[9:]
    known = magic == REPORT_MAGIC and version == VERSION
    results, checks = [], []
    for i in range(min(result_count, _RESULTS) if known else 0):
        name, operations, cycles, value, status = _RESULT.unpack_from(data, _HEAD.size + i * _RESULT.size)
        text = _STATUS[status] if status < len(_STATUS) else str(status)
        results.append(WorkloadResult(_text(name), operations, cycles, value, text))
    start = _HEAD.size + _RESULTS * _RESULT.size
    for i in range(min(check_count, _CHECKS) if known else 0):
        name, expected, seen = _CHECK.unpack_from(data, start + i * _CHECK.size)
        checks.append(CheckResult(_text(name), expected, seen))
    return LabReport(
        state=_STATES.get(state, "absent") if known else "absent",
        paravirt=bool(paravirt),
        doors=frozenset(name for bit, name in _DOORS.items() if doors & bit),
        door=_DOORS.get(door, ""),
        bounced=bool(bounced),
        interrupts=interrupts,
        fault=(vector, rip, error, address) if known and rip else None,
        results=tuple(results),
        checks=tuple(checks),
    )


def _text(field_: bytes) -> str:
    return field_.split(b"\0", 1)[0].decode("ascii", "replace")


def _packaged(paravirt: bool) -> str:
    """An editable installation has two folders: the sources, and what was built."""
    import pyvmm

    name = "lab-kernel-paravirt.elf" if paravirt else "lab-kernel.elf"
    for folder in pyvmm.__path__:
        path = os.path.join(folder, "data", name)
        if os.path.exists(path):
            return path
    raise BootError(f"{name} is missing from this installation; install pyvmm again")


def _symbols(image: KernelImage) -> dict[str, int]:
    """Functions, objects and labels of an ELF64 file's symbol table (System V ABI, chapter 4 "Symbol Table")."""
    (table,) = struct.unpack("<Q", image.part(0x28, 8, "ELF e_shoff"))
    size, count = struct.unpack("<HH", image.part(0x3A, 4, "ELF e_shentsize"))
    if size != _SECTION.size:
        return {}
    sections = list(_SECTION.iter_unpack(image.part(table, count * size, "ELF section headers")))
    names: dict[str, int] = {}
    for _, kind, _, _, offset, length, link, _, _, entry_size in sections:
        if kind != _SHT_SYMTAB or entry_size != _SYMBOL.size or link >= len(sections):
            continue
        text = bytes(image.part(sections[link][4], sections[link][5], "ELF symbol names"))
        rows = image.part(offset, length - length % _SYMBOL.size, "ELF symbols")
        for name, info, _, section, value, _ in _SYMBOL.iter_unpack(rows):
            word = text[name : text.find(b"\0", name)].decode("ascii", "replace")
            if word and section and info & 15 in (0, 1, 2):  # no type, object, function; not files, sections
                names.setdefault(word, value)
    return names
