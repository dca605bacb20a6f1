"""Fuzz the kernel loaders: whatever the file, a load ends with an entry state or a BootError, and stays inside RAM.

Coverage-guided with atheris where it is installed (``pip install atheris``), else by blind mutation of the same seeds:

    python tests/fuzz/fuzz_boot.py [SECONDS]
"""

from __future__ import annotations

import importlib.util
import random
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pyvmm.boot.e820 import E820Entry
from pyvmm.boot.image import KernelImage
from pyvmm.boot.kernel import load_image
from pyvmm.boot.ram import RamMap
from pyvmm.errors import BootError
from pyvmm.units import MIB, Gpa
from tests.unit.boot.images import (
    KERNEL_CODE,
    make_bzimage,
    make_elf,
    make_flat_multiboot,
    make_multiboot_header,
    make_note,
    make_pvh,
)

SMALL_CODE = KERNEL_CODE[:64]
SMALL_LOAD = ((MIB, MIB, SMALL_CODE, 256),)
ENTRIES = [
    E820Entry(0, 0x9FC00, 1),
    E820Entry(0xF0000, 0x10000, 2),
    E820Entry(MIB, 31 * MIB, 1),
    E820Entry(32 * MIB, 0x2000, 3),
    E820Entry(1 << 32, 16 * MIB, 1),
]
SEEDS = {
    "bzimage64": make_bzimage(kernel=SMALL_CODE),
    "bzimage32": make_bzimage(kernel=SMALL_CODE, version=0x205, xloadflags=0, relocatable=0),
    "pvh64": make_pvh(loads=SMALL_LOAD),
    "pvh32": make_pvh(bits=32, loads=SMALL_LOAD),
    "pvh-notes": make_elf(loads=SMALL_LOAD, notes=make_note(b"X", 1, b"") * 3),
    "multiboot-flat": make_flat_multiboot()[:256],
    "multiboot-elf": make_elf(bits=32, loads=SMALL_LOAD, head=make_multiboot_header(3)),
}
INTERESTING = (
    0,
    1,
    2,
    4,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 31,
    1 << 32,
    (1 << 64) - 1,
)


class RecordingMemory:
    """Guest RAM that keeps only where it was written, and fails on a byte outside RAM."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, int]] = []

    def load(self, gpa: Gpa, data: bytes | memoryview, /) -> None:
        """Check a load's place."""
        end = gpa + len(data)
        if not any(e.kind == 1 and e.base <= gpa and end <= e.end for e in ENTRIES):
            raise AssertionError(f"load of {gpa:#x}-{end:#x} outside RAM")
        self.writes.append((gpa, end))


def load_one(data: bytes) -> bool:
    """Load one file; return whether it was taken for a kernel.

    Raises
    ------
    AssertionError
        When a load breaks a promise: bytes outside RAM, an entry point outside the kernel, parts that overlap.
    """
    memory = RecordingMemory()
    ram = RamMap(memory, ENTRIES)
    initrd = KernelImage("initrd", b"initrd" * 1000)
    try:
        kernel_file = KernelImage("kernel", data)
        state = load_image(kernel_file, ram, initrd=initrd, append="console=ttyS0", acpi_rsdp=Gpa(0xE0000))
    except BootError as error:
        if "\n" in str(error) or len(str(error)) > 400:
            raise AssertionError(f"not one line: {error}") from error
        return False
    kernel = state.kernel
    if not kernel.load_address <= state.rip < kernel.load_address + max(kernel.load_size, 0x400):
        raise AssertionError(f"entry {state.rip:#x} outside {kernel}")
    claims = sorted(ram.claims, key=lambda claim: claim.start)
    for left, right in pairwise(claims):
        if left.end > right.start:
            raise AssertionError(f"{left} overlaps {right}")
    for start, end in memory.writes:
        if start < end and not any(claim.start <= start and end <= claim.end for claim in claims):
            raise AssertionError(f"load of {start:#x}-{end:#x} that nobody claimed")
    return True


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with a few bytes or numbers changed, or its end cut off."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(min(len(changed), 0x300))
        kind = rng.randrange(4)
        if kind == 0:
            changed[position] ^= 1 << rng.randrange(8)
        elif kind == 1:
            size = rng.choice((1, 2, 4, 8))
            value = rng.choice(INTERESTING) + rng.randint(-2, 2)
            changed[position : position + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        elif kind == 2:
            changed[position] = rng.randrange(256)
        else:
            del changed[max(1, len(changed) - rng.randrange(64)) :]
    return bytes(changed)


def fuzz_blindly(seconds: float, seed: int = 0) -> int:
    """Mutate seeds for a time; return how many files were tried. The failing one is in the error's text."""
    rng = random.Random(seed)
    seeds = list(SEEDS.values())
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutate(rng.choice(seeds), rng)
        try:
            load_one(data)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}; the file in hex: {data.hex()}") from error
        count += 1
    return count


def fuzz_guided(seconds: float) -> None:
    """Let atheris (libFuzzer) look for new paths through pyvmm.boot; ends the process, with 77 on a finding."""
    import atheris

    names = [name for name in sys.modules if name.startswith("pyvmm.boot.")]
    for name in names:
        module = sys.modules[name]
        for item in vars(module).values():
            if callable(item) and getattr(item, "__module__", None) == name and hasattr(item, "__code__"):
                atheris.instrument_func(item)
            elif isinstance(item, type) and item.__module__ == name:
                for method in vars(item).values():
                    if hasattr(method, "__code__"):
                        atheris.instrument_func(method)

    corpus = Path(tempfile.mkdtemp(prefix="pyvmm-fuzz-boot-"))
    for name, data in SEEDS.items():
        (corpus / name).write_bytes(data)
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={int(seconds)}",
            "-max_len=4096",
            f"-artifact_prefix={corpus}/",
            str(corpus),
        ],
        lambda data: (load_one(data) if data else None, None)[1],
    )
    atheris.Fuzz()


def main(seconds: float = 60) -> int:
    """Fuzz for some seconds; return a process's exit code (with atheris the process ends here)."""
    for name, data in SEEDS.items():
        taken = load_one(data)
        print(f"seed {name}: {'loads' if taken else 'refused'}")
    if importlib.util.find_spec("atheris") is not None:
        fuzz_guided(seconds)
    print("atheris is not installed: mutating blindly")
    print(f"{fuzz_blindly(seconds, seed=time.time_ns())} files, no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60))
