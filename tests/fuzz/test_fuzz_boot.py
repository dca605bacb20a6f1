"""The kernel loaders under mutated files, by hypothesis; the longer run is `./dev fuzz bzimage`."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_boot import SEEDS, load_one, mutate

MAGICS = [b"\x7fELF\x02\x01\x01", b"\x7fELF\x01\x01\x01", b"\x02\xb0\xad\x1b", b""]


@pytest.mark.parametrize("name", [name for name in SEEDS if name not in ("pvh-notes", "multiboot-flat")])
def test_seeds_load(name: str) -> None:
    """Seeds that are refused would fuzz nothing."""
    assert load_one(SEEDS[name])


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(sorted(SEEDS)), st.integers(0, 1 << 64))
def test_mutated_kernels(name: str, seed: int) -> None:
    """A changed kernel is loaded inside RAM or refused in one line."""
    load_one(mutate(SEEDS[name], random.Random(seed)))


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=600), st.sampled_from(MAGICS))
def test_any_bytes(data: bytes, magic: bytes) -> None:
    """So is anything else."""
    load_one(magic + data)
