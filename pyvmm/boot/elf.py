"""Executable ELF files as boot loaders need them: program headers and notes, every bound checked.

Source: System V ABI, edition 4.1, chapters 4 and 5 ("ELF Header", "Program Header", "Note Section"); little-endian i386
and x86-64 only. Left out: sections, symbols, relocation (a kernel is loaded at its physical addresses as they are),
more than 65534 program headers (PN_XNUM).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pyvmm.boot.image import KernelImage
from pyvmm.boot.ram import RamMap, align_up
from pyvmm.units import Gpa

MAGIC: Final = b"\x7fELF"
ELFCLASS32, ELFCLASS64 = 1, 2
ELFDATA2LSB: Final = 1
ET_EXEC, ET_DYN = 2, 3
EM_386, EM_X86_64 = 3, 62
PT_LOAD, PT_NOTE = 1, 4
PN_XNUM: Final = 0xFFFF

# e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum: from offset 16
EHDR: Final = {ELFCLASS32: struct.Struct("<HHIIIIIHHH"), ELFCLASS64: struct.Struct("<HHIQQQIHHH")}
PHDR_32: Final = struct.Struct("<IIIIIIII")
PHDR_64: Final = struct.Struct("<IIQQQQQQ")


@dataclass(frozen=True, slots=True)
class ElfSegment:
    """One program header; `offset` and `file_size` are inside the file, sizes in bytes."""

    type: int
    offset: int
    virtual_address: int
    physical_address: int
    file_size: int
    memory_size: int
    alignment: int


@dataclass(frozen=True, slots=True)
class ElfNote:
    """One entry of a PT_NOTE segment."""

    name: bytes
    type: int
    descriptor: bytes


@dataclass(frozen=True, slots=True)
class ElfFile:
    """A parsed ELF kernel.

    Attributes
    ----------
    bits
        32 or 64.
    entry
        ``e_entry``: the virtual address of the entry point.
    """

    image: KernelImage
    bits: int
    entry: int
    segments: tuple[ElfSegment, ...]

    def notes(self) -> Iterator[ElfNote]:
        """Yield the notes of all PT_NOTE segments; name and descriptor are padded to 4 bytes each.

        Raises
        ------
        BootError
            When a note ends beyond its segment.
        """
        for segment in self.segments:
            if segment.type != PT_NOTE:
                continue
            data = self.image.part(segment.offset, segment.file_size, "PT_NOTE segment")
            position = 0
            while position + 12 <= len(data):
                name_size, size, kind = struct.unpack_from("<III", data, position)
                descriptor = position + 12 + align_up(name_size, 4)
                if descriptor + size > len(data):
                    where = segment.offset + position
                    raise self.image.error(
                        f"ELF note at offset {where:#x} ends beyond its segment: corrupt file"
                    )
                name = bytes(data[position + 12 : position + 12 + name_size]).rstrip(b"\0")
                yield ElfNote(name, kind, bytes(data[descriptor : descriptor + size]))
                position = align_up(descriptor + size, 4)

    def physical_entry(self) -> int | None:
        """Return `entry` as a physical address, by the loadable segment that holds it; None when none does."""
        for segment in self.segments:
            offset = self.entry - segment.virtual_address
            if segment.type == PT_LOAD and 0 <= offset < segment.memory_size:
                return segment.physical_address + offset
        return None

    def load(self, ram: RamMap) -> tuple[Gpa, int]:
        """Copy the loadable segments to their physical addresses; return the lowest address and the extent.

        Raises
        ------
        BootError
            When there is none, one is not inside RAM, or two overlap.
        """
        loads = [segment for segment in self.segments if segment.type == PT_LOAD and segment.memory_size]
        if not loads:
            raise self.image.error("an ELF file without a loadable segment is not a kernel")
        for number, segment in enumerate(loads):
            ram.claim(self.image, segment.physical_address, segment.memory_size, f"PT_LOAD segment {number}")
        for segment in loads:
            data = self.image.part(segment.offset, segment.file_size, "PT_LOAD segment")
            ram.memory.load(Gpa(segment.physical_address), data)
            ram.clear(segment.physical_address + segment.file_size, segment.memory_size - segment.file_size)
        lowest = min(segment.physical_address for segment in loads)
        end = max(segment.physical_address + segment.memory_size for segment in loads)
        return Gpa(lowest), end - lowest


def parse_elf(image: KernelImage) -> ElfFile:
    """Read an ELF file's headers.

    Raises
    ------
    BootError
        When the file is cut short, not a little-endian x86 executable, or a header contradicts itself.
    """
    ident = bytes(image.part(0, 16, "ELF identification"))
    if not ident.startswith(MAGIC):
        raise image.error("not an ELF file (no \\x7fELF at offset 0)")
    if ident[4] not in EHDR or ident[5] != ELFDATA2LSB or ident[6] != 1:
        raise image.error(
            "ELF identification at offset 4: not a little-endian 32-bit or 64-bit file of version 1"
        )
    form = EHDR[ident[4]]
    kind, machine, _, entry, table, _, _, _, entry_size, count = form.unpack(
        image.part(16, form.size, "ELF header")
    )
    if machine not in (EM_386, EM_X86_64):
        raise image.error(f"ELF e_machine is {machine}: not a kernel for x86 (3 or 62)")
    if kind not in (ET_EXEC, ET_DYN):
        raise image.error(f"ELF e_type is {kind}: not an executable (2 or 3), link the kernel first")
    header = PHDR_64 if ident[4] == ELFCLASS64 else PHDR_32
    if count == 0 or count == PN_XNUM or entry_size != header.size:
        raise image.error(
            f"ELF program headers: {count} of {entry_size} bytes each, expected 1 to 65534 of {header.size} bytes"
        )
    rows = header.iter_unpack(image.part(table, count * header.size, "ELF program headers"))
    segments = tuple(_segment(image, number, row) for number, row in enumerate(rows))
    return ElfFile(image, 64 if ident[4] == ELFCLASS64 else 32, entry, segments)


def _segment(image: KernelImage, number: int, row: tuple[int, ...]) -> ElfSegment:
    """One checked program header; the two classes order p_flags differently."""
    if image.data[4] == ELFCLASS64:
        kind, _, offset, virtual, physical, file_size, memory_size, alignment = row
    else:
        kind, offset, virtual, physical, file_size, memory_size, _, alignment = row
    if kind in (PT_LOAD, PT_NOTE) and offset + file_size > image.size:
        raise image.error(
            f"ELF program header {number}: {file_size} bytes from offset {offset:#x} end beyond the file "
            f"({image.size} bytes): the file is cut short or corrupt, fetch it again"
        )
    if kind == PT_LOAD and file_size > memory_size:
        raise image.error(f"ELF program header {number}: p_filesz {file_size} exceeds p_memsz {memory_size}")
    return ElfSegment(kind, offset, virtual, physical, file_size, memory_size, alignment)
