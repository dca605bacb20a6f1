"""Which guest RAM a loader may fill, and what it has filled already.

Every loader claims what it writes, so two parts of a boot (kernel, initrd, page tables, command line) cannot overlap,
and none lands outside RAM or in memory that the firmware keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from pyvmm.boot.e820 import E820_RAM, E820Entry
from pyvmm.boot.image import KernelImage
from pyvmm.units import Gpa, format_size

ZERO_CHUNK: Final = bytes(1 << 20)
FOUR_GIB: Final = 1 << 32


class LoadTarget(Protocol):
    """What loaders need of guest memory; `pyvmm.memory.GuestMemory` is one."""

    def load(self, gpa: Gpa, data: bytes | memoryview, /) -> None:
        """Copy `data` to `gpa`."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Guest memory from `start` up to, not including, `end` that holds `what`."""

    start: int
    end: int
    what: str


def align_up(value: int, alignment: int) -> int:
    """Return `value` rounded up to a multiple of `alignment` (a power of two)."""
    return (value + alignment - 1) & ~(alignment - 1)


class RamMap:
    """Free and claimed RAM during one load.

    Parameters
    ----------
    memory
        Where data goes.
    entries
        The E820 map that the guest will see; only its RAM entries may be filled.
    """

    def __init__(self, memory: LoadTarget, entries: Iterable[E820Entry]) -> None:
        self.memory = memory
        self.entries = list(entries)
        self.claims: list[Claim] = []
        self.usable: list[tuple[int, int]] = []
        for entry in sorted(
            (entry for entry in self.entries if entry.kind == E820_RAM), key=lambda entry: entry.base
        ):
            end = entry.base + entry.size
            if self.usable and self.usable[-1][1] == entry.base:
                self.usable[-1] = (self.usable[-1][0], end)
            else:
                self.usable.append((entry.base, end))

    @property
    def size(self) -> int:
        """Usable RAM in bytes."""
        return sum(end - start for start, end in self.usable)

    def is_free(self, start: int, size: int) -> bool:
        """Tell whether all of [start, start + size) is RAM that nobody claimed."""
        end = start + size
        inside = any(low <= start and end <= high for low, high in self.usable)
        return inside and not any(claim.start < end and start < claim.end for claim in self.claims)

    def claim(self, image: KernelImage, start: int, size: int, what: str) -> None:
        """Take [start, start + size) for `what`, which the file demands to be there.

        Raises
        ------
        BootError
            When it is not all RAM, or overlaps an earlier claim.
        """
        end = start + size
        if not any(low <= start and end <= high for low, high in self.usable):
            raise image.error(
                f"{what} needs guest memory {start:#x}-{end - 1:#x}, which is not all RAM: "
                f"the guest has {format_size(self.size)}, give it more with -m"
            )
        for claim in self.claims:
            if claim.start < end and start < claim.end:
                raise image.error(
                    f"{what} at {start:#x}-{end - 1:#x} overlaps {claim.what} at {claim.start:#x}-{claim.end - 1:#x}"
                )
        self.claims.append(Claim(start, end, what))

    def _gaps(self, above: int, below: int) -> list[tuple[int, int]]:
        """Unclaimed RAM between `above` and `below`, in ascending order."""
        gaps = []
        for low, high in self.usable:
            start, high = max(low, above), min(high, below)
            for claim in sorted(self.claims, key=lambda claim: claim.start):
                if claim.end <= start or claim.start >= high:
                    continue
                if claim.start > start:
                    gaps.append((start, claim.start))
                start = claim.end
            if start < high:
                gaps.append((start, high))
        return gaps

    def find_lowest(self, size: int, alignment: int, above: int, below: int = FOUR_GIB) -> int | None:
        """Return the lowest aligned free address for `size` bytes in [above, below), or None."""
        for start, end in self._gaps(above, below):
            address = align_up(start, alignment)
            if address + size <= end:
                return address
        return None

    def find_highest(self, size: int, alignment: int, above: int, below: int = FOUR_GIB) -> int | None:
        """Return the highest aligned free address for `size` bytes in [above, below), or None."""
        for start, end in reversed(self._gaps(above, below)):
            address = (end - size) & ~(alignment - 1)
            if address >= start:
                return address
        return None

    def place(
        self, image: KernelImage, data: bytes | memoryview, what: str, *, above: int, alignment: int = 8
    ) -> int:
        """Load `data` at the lowest free address from `above` and return where.

        Raises
        ------
        BootError
            When there is no room below 4 GiB.
        """
        address = self.find_lowest(len(data), alignment, above)
        if address is None:
            raise image.error(
                f"no room in RAM for {what} ({len(data)} bytes): give the guest more memory with -m"
            )
        self.claim(image, address, len(data), what)
        self.memory.load(Gpa(address), data)
        return address

    def place_high(self, image: KernelImage, data: memoryview, what: str, *, above: int, limit: int) -> int:
        """Load `data` page-aligned at the highest free address that ends at most at `limit`, and return where.

        Raises
        ------
        BootError
            When it does not fit.
        """
        address = self.find_highest(len(data), 4096, above, min(limit, FOUR_GIB))
        if address is None:
            raise image.error(
                f"{what} ({format_size(len(data))}) does not fit into free RAM below {limit:#x}: "
                f"the guest has {format_size(self.size)}, give it more with -m"
            )
        self.claim(image, address, len(data), what)
        self.memory.load(Gpa(address), data)
        return address

    def clear(self, start: int, size: int) -> None:
        """Zero guest memory: the parts of a segment that are not in the file (.bss)."""
        zeros = memoryview(ZERO_CHUNK)
        for offset in range(0, size, len(ZERO_CHUNK)):
            self.memory.load(Gpa(start + offset), zeros[: size - offset])
