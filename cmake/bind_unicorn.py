"""Make one x86-64-only object of Unicorn's static library, with some of its functions left for ours to stand in for.

Usage: bind_unicorn.py LD OBJCOPY ARCHIVE OUTPUT SYMBOL...

The archive's members that an x86 engine needs are linked into one relocatable object (``ld -r``). In it each SYMBOL
becomes undefined, and its code gets the name ``original_SYMBOL``: every call and table entry then goes to the function
of that name in csrc/translator, or the final link fails. This catches calls inside one source file too: the library is
compiled with -fPIC, so that the compiler binds no reference to a global function (System V ABI, AMD64 supplement §4.4).
All that is not called from outside becomes local, the rest hidden.

Left out: ELF other than little-endian 64-bit relocatable files, as these are.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# uc_open takes the address of these for each architecture; it is only ever called for x86, so theirs may be 0.
ABSENT = (
    *("aarch64", "arm", "m68k", "mips", "mips64", "mips64el", "mipsel", "ppc", "ppc64", "riscv32", "riscv64"),
    *("s390x", "sparc", "sparc64", "tricore"),
)
ENTRY_POINTS = ("uc_init_", "reg_read_", "reg_write_")
KEPT = ("uc_*", "*_x86_64", "original_*")

SECTION = struct.Struct("<IIQQQQIIQQ")  # ELF-64 Object File Format, Version 1.5, figure 8
SYMBOL = struct.Struct("<IBBHQQ")  # figure 13
RELA = struct.Struct("<QQq")  # figure 15
SHT_SYMTAB, SHT_RELA = 2, 4
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STV_HIDDEN = 2
SHN_UNDEF = 0


class Symbol(NamedTuple):
    """An entry of the symbol table; `at` is its offset in the file, `index` what relocations call it."""

    at: int
    index: int
    name: str
    info: int
    section: int
    value: int


class ObjectFile:
    """A relocatable ELF file in memory."""

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())
        table, count, names = (
            struct.unpack_from("<Q", self.data, 0x28)[0],
            *struct.unpack_from("<HH", self.data, 0x3C),
        )
        self.sections = [SECTION.unpack_from(self.data, table + i * SECTION.size) for i in range(count)]
        self.section_names = [self._text(self.sections[names][4] + header[0]) for header in self.sections]

    def _text(self, at: int) -> str:
        return self.data[at : self.data.index(0, at)].decode()

    def symbols(self) -> Iterator[Symbol]:
        """All entries of the symbol table."""
        table = next(header for header in self.sections if header[1] == SHT_SYMTAB)
        strings = self.sections[table[6]][4]
        for index in range(table[5] // SYMBOL.size):
            at = table[4] + index * SYMBOL.size
            name, info, _other, section, value, _size = SYMBOL.unpack_from(self.data, at)
            yield Symbol(at, index, self._text(strings + name), info, section, value)

    def referenced(self) -> set[int]:
        """Indices of all symbols that a relocation names."""
        found = set()
        for header in self.sections:
            if header[1] == SHT_RELA:
                for at in range(header[4], header[4] + header[5], RELA.size):
                    found.add(RELA.unpack_from(self.data, at)[1] >> 32)
        return found

    def leave_open(self, symbol: Symbol, bind: int) -> None:
        """Turn a definition into a reference, to be resolved inside the final link only."""
        info = bind << 4
        self.data[symbol.at + 4 : symbol.at + 24] = SYMBOL.pack(0, info, STV_HIDDEN, SHN_UNDEF, 0, 0)[4:]

    def hide(self, symbol: Symbol) -> None:
        """Keep a definition out of the final link's dynamic symbols."""
        self.data[symbol.at + 5] = STV_HIDDEN


def link(linker: str, archive: str, output: Path) -> None:
    """One object of the members that uc_open and what it calls need; no other architecture's entry points."""
    absent = {prefix + architecture for prefix in ENTRY_POINTS for architecture in ABSENT}
    nothing = [f"--defsym={name}=0" for name in sorted(absent)]
    subprocess.run([linker, "-r", "-o", output, *nothing, "-u", "uc_open", archive], check=True)
    linked = ObjectFile(output)
    for symbol in linked.symbols():
        if symbol.name in absent:
            linked.leave_open(symbol, STB_WEAK)
    output.write_bytes(linked.data)


def name_originals(objcopy: str, output: Path, replaced: list[str]) -> None:
    """Give each replaced function its second name, and make local what nobody outside calls."""
    linked = ObjectFile(output)
    defined = {s.name: s for s in linked.symbols() if s.section != SHN_UNDEF and s.info >> 4 == STB_GLOBAL}
    referenced = linked.referenced()
    arguments = ["--wildcard", *(f"--keep-global-symbol={name}" for name in (*KEPT, *replaced))]
    for name in replaced:
        if name not in defined:
            sys.exit(f"bind_unicorn.py: {name} is not in the library")
        symbol = defined[name]
        if symbol.index not in referenced:
            sys.exit(f"bind_unicorn.py: nothing in the library refers to {name} by name")
        section = linked.section_names[symbol.section]
        arguments.append(f"--add-symbol=original_{name}={section}:{symbol.value:#x},function,global")
    subprocess.run([objcopy, *arguments, output], check=True)


def main(linker: str, objcopy: str, archive: str, output: str, *replaced: str) -> None:
    """Write OUTPUT, or nothing at all."""
    partial = Path(f"{output}.partial")
    link(linker, archive, partial)
    name_originals(objcopy, partial, list(replaced))
    bound = ObjectFile(partial)
    for symbol in bound.symbols():
        if symbol.name in replaced:
            bound.leave_open(symbol, STB_GLOBAL)
        elif symbol.info >> 4 != STB_LOCAL and symbol.section != SHN_UNDEF:
            bound.hide(symbol)
    partial.write_bytes(bound.data)
    partial.replace(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
