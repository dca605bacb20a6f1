"""`pyvmm.trace.symbols`: names for addresses from each kind of file, and what is said of the others."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.errors import PyvmmError
from pyvmm.trace import Symbols
from pyvmm.trace.kallsyms import find_kallsyms

BASE = 0xFFFFFFFF81000000


def test_the_function_that_an_address_is_in() -> None:
    symbols = Symbols([(0x2000, "b"), (0x1000, "a"), (0x2000, "b2")], "here")
    assert symbols.name(0x1000) == "a"
    assert symbols.name(0x1FFF) == "a+0xfff"
    assert symbols.name(0xFFF) == ""
    assert symbols.resolve(0x2004) == ("b2", 4)
    assert symbols.name(0x2000 + (2 << 20)) == ""  # a gap of the text is nobody's
    assert [symbols.address(name) for name in ("a", "b", "b2", "c")] == [0x1000, 0x2000, 0x2000, None]
    moved = symbols.at("a", 0x5000)
    assert (moved.name(0x6010), moved.slide) == ("b2+0x10", 0x4000)
    with pytest.raises(PyvmmError, match="here: it has no symbol c"):
        symbols.at("c", 0)


def test_a_system_map(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text(
        "0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\nffffffff81000040 t start\n"
        "ffffffff82000000 D data\nffffffffc0000000 t probe [e1000]\n"
    )
    symbols = Symbols.from_file(path)
    assert symbols.rows == [(BASE, "_text"), (BASE + 0x40, "start"), (0xFFFFFFFFC0000000, "probe [e1000]")]


def test_an_elf_file(tmp_path: Path) -> None:
    """What the compiler made of a function is found where nm finds it."""
    if not shutil.which("gcc") or not shutil.which("nm"):
        pytest.skip("gcc and nm (package gcc) are not installed")
    (tmp_path / "a.c").write_text("int first(void) { return 1; }\nint main(void) { return first(); }\n")
    program = tmp_path / "a.out"
    subprocess.run(["gcc", "-O0", "-o", program, tmp_path / "a.c"], check=True)
    told = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
    (line,) = [line for line in told.splitlines() if line.endswith(" T first")]
    symbols = Symbols.from_file(program)
    assert symbols.address("first") == int(line.split()[0], 16)
    subprocess.run(["strip", program], check=True)
    with pytest.raises(PyvmmError, match="no symbols of code in it; leave --symbols out"):
        Symbols.from_file(program)


@pytest.mark.parametrize(
    ("contents", "why"),
    [
        (b"", "no symbols of code in it"),
        (b"hello there\n", "line 1 is not `ADDRESS TYPE NAME`"),
        (b"ffffffff81000000 D data\n", "no symbols of code in it"),
        (b"\x7fELF\x01\x01" + bytes(100), "offset 4: an ELF file, but not a 64-bit little-endian one"),
        (b"\x7fELF\x02\x01" + bytes(10), "unpack_from requires"),
        (b"\x7fELF\x02\x01" + bytes(0x34) + b"\x10\0\x01\0" + bytes(100), "section headers of 16 bytes"),
    ],
)
def test_a_file_that_is_none(contents: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(contents)
    with pytest.raises(PyvmmError) as error:
        Symbols.from_file(path)
    assert str(error.value).startswith(f"{path}: ")
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def kallsyms(names: list[str], base: int) -> bytes:
    """The tables of a kernel of 6.1, each letter its own token."""
    count = len(names)
    offsets = b"".join(struct.pack("<i", 16 * i) for i in range(count))
    packed, markers = b"", []
    for number, name in enumerate(names):
        if number % 256 == 0:
            markers.append(len(packed))
        packed += bytes([len(name)]) + name.encode()
    tokens = [chr(i) if 0x20 < i < 0x7F else f"?{i}" for i in range(256)]
    table = b"".join(token.encode("latin-1") + b"\0" for token in tokens)
    index, at = b"", 0
    for token in tokens:
        index += struct.pack("<H", at)
        at += len(token.encode("latin-1")) + 1

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 8)

    parts = [offsets, struct.pack("<QQ", base, count), packed, struct.pack(f"<{len(markers)}I", *markers)]
    return b"".join(padded(part) for part in [*parts, table, index])


def test_the_kernels_own_tables() -> None:
    names = [f"tsymbol_{i}" for i in range(700)]
    image = b"\x90" * 4096 + kallsyms(names, BASE) + bytes(4096)
    found = find_kallsyms(image)
    assert len(found) == 700
    assert found[3] == (BASE + 48, "t", "symbol_3")
    assert find_kallsyms(image[:6000]) == []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_tables_are_not_believed_for_ever(data: st.DataObject) -> None:
    """A guest's memory may look like tables and be none: symbols or nothing, no error."""
    image = bytearray(kallsyms([f"tsymbol_{i}" for i in range(300)], BASE))
    for _ in range(data.draw(st.integers(1, 20))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    assert len(find_kallsyms(bytes(image))) <= 300


def test_memory_full_of_tables_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen sets that fit nowhere are looked at, not all that a guest can write."""
    one = kallsyms([f"tsymbol_{i}" for i in range(300)], 0)  # a base in the user's half: never taken
    seen = []
    from pyvmm.trace import kallsyms as module

    expand = module._expand
    monkeypatch.setattr(module, "_expand", lambda *words: seen.append(1) or expand(*words))
    assert find_kallsyms(one * 100) == []
    assert 0 < len(seen) < 1000  # and not 5050: each set once for each before it
