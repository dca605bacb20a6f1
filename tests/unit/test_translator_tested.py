"""pyvmm.translator.tested: self-tests are skipped for the very same extension and boot only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyvmm.translator import TranslatorEngine, engine, tested


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(engine.TIER_VARIABLE, raising=False)
    return tmp_path / "pyvmm"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The self-tests that were run, by whether they were the slow tier's."""
    real, seen = engine.lib, list[bool]()

    class Library:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def translator_self_test(self, slow: bool, error: Any) -> int:
            seen.append(slow)
            return int(real.translator_self_test(slow, error))

    monkeypatch.setattr(engine, "lib", Library())
    return seen


def test_once_per_installation(cache: Path, runs: list[bool]) -> None:
    assert TranslatorEngine().availability().usable
    assert TranslatorEngine().availability().usable
    assert runs == [False]
    assert len(list(cache.iterdir())) == 1


def test_doctor_tests_always(cache: Path, runs: list[bool]) -> None:
    assert TranslatorEngine().availability().usable
    assert TranslatorEngine(remember=False).availability().usable
    assert runs == [False, False]


def test_the_slow_tier_is_asked_for_and_tested(
    cache: Path, runs: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    tested.remember()
    monkeypatch.setenv(engine.TIER_VARIABLE, "slow")
    assert TranslatorEngine().availability().usable
    assert runs == [True]


@pytest.mark.parametrize("what", ["boot", "extension", "content"])
def test_another_host_or_extension_is_tested(
    what: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_text("another boot, or another extension")
    tested.remember()
    assert tested.is_remembered()
    if what == "boot":
        monkeypatch.setattr(tested, "BOOT_ID", str(other))
    elif what == "extension":
        monkeypatch.setattr(tested, "extension_path", lambda: str(other))
    else:
        next(cache.iterdir()).write_bytes(b"passed\n")
    assert not tested.is_remembered()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    tested.remember()
    assert not tested.is_remembered()
    assert TranslatorEngine().availability().usable
