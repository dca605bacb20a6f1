"""The map of free RAM: claims never overlap, whatever is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.boot.e820 import E820Entry
from pyvmm.boot.ram import RamMap
from pyvmm.errors import BootError
from pyvmm.units import Gpa
from tests.unit.boot.images import image

KERNEL = image(b"k")


class Nothing:
    """Memory that keeps nothing."""

    def load(self, gpa: Gpa, data: bytes | memoryview, /) -> None:
        """Ignore."""


def make(*ranges: tuple[int, int]) -> RamMap:
    """A map with RAM from-to."""
    return RamMap(Nothing(), [E820Entry(start, end - start, 1) for start, end in ranges])


def test_neighbours_are_one_range() -> None:
    """Two RAM entries side by side hold one kernel."""
    ram = make((0x1000, 0x2000), (0x2000, 0x4000), (0x5000, 0x6000))
    assert ram.usable == [(0x1000, 0x4000), (0x5000, 0x6000)]
    ram.claim(KERNEL, 0x1800, 0x1000, "x")
    assert not ram.is_free(0x1000, 0x801)
    assert ram.is_free(0x1000, 0x800)


def test_claims() -> None:
    """Outside RAM, across a hole, or on another claim: refused."""
    ram = make((0x1000, 0x4000), (0x5000, 0x6000))
    ram.claim(KERNEL, 0x2000, 0x1000, "first")
    for start, size in ((0x0, 0x1001), (0x3000, 0x3000), (0x5FFF, 2), (0x8000, 1)):
        with pytest.raises(BootError, match="not all RAM"):
            ram.claim(KERNEL, start, size, "second")
    for start, size in ((0x2000, 1), (0x1FFF, 2), (0x2FFF, 9), (0x1000, 0x3000)):
        with pytest.raises(BootError, match=r"second at .* overlaps first at 0x2000-0x2fff"):
            ram.claim(KERNEL, start, size, "second")
    ram.claim(KERNEL, 0x3000, 0x1000, "after")


@given(
    st.lists(st.tuples(st.integers(1, 0x900), st.sampled_from([1, 8, 64, 4096]), st.booleans()), max_size=30),
    st.integers(0, 0x9000),
    st.integers(0, 0x9000),
)
def test_found_places_are_free(requests: list[tuple[int, int, bool]], above: int, below: int) -> None:
    """What a search finds is aligned, within its bounds, free, and the first (or last) such place."""
    ram = make((0x10, 0x3100), (0x4000, 0x4100), (0x5000, 0x9000))
    for size, alignment, high in requests:
        find = ram.find_highest if high else ram.find_lowest
        found = find(size, alignment, above, below)
        places = range(-(-above // alignment) * alignment, below - size + 1, alignment)
        free = [place for place in (reversed(places) if high else places) if ram.is_free(place, size)][:1]
        assert [found] == (free or [None])
        if found is not None:
            ram.claim(KERNEL, found, size, "x")
