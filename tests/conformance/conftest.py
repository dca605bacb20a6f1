"""Every engine that can run here, the translator in both of its tiers, and a rig on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Literal
from unittest import mock

import pytest

from pyvmm.engine import Engine
from pyvmm.machine.engines import engines
from pyvmm.translator import TranslatorEngine
from pyvmm.translator.engine import TIER_VARIABLE
from tests.conformance.engine_probes import PROBES, has
from tests.conformance.engine_rig import Rig

MakeRig = Callable[..., Rig]

_SLOW = "translator-slow"
_opened: dict[str, Engine] = {}


def _engine(name: str) -> Engine:
    if name not in _opened:
        if name == _SLOW:
            _opened[name] = TranslatorEngine(remember=False)
            with mock.patch.dict(os.environ, {TIER_VARIABLE: "slow"}):
                _opened[name].availability()
        else:
            _opened[name] = next(engine for engine in engines() if engine.name == name)
    return _opened[name]


@pytest.fixture(params=[*(engine.name for engine in engines()), _SLOW])
def engine(request: pytest.FixtureRequest) -> Engine:
    """An engine that has what the test `needs`."""
    found = _engine(request.param)
    usable, reason = found.availability()
    if not usable:
        pytest.skip(f"{request.param}: {reason}")
    for capability in getattr(request.function, "needs", ()):
        assert capability in PROBES, f"no probe for {capability!r}"
        if not has(found, capability):
            pytest.skip(f"{request.param}: has no {capability}")
    engine_name, defect = getattr(request.function, "defect", ("", ""))
    if engine_name == found.name:
        request.applymarker(pytest.mark.xfail(strict=True, reason=defect))
    return found


@pytest.fixture
def make_rig(
    engine: Engine, request: pytest.FixtureRequest, record_exercised: Callable[..., None]
) -> Iterator[MakeRig]:
    """``make_rig(clock="virtual")``: a machine that is closed after the test."""
    made: list[Rig] = []

    def make(clock: Literal["realtime", "virtual"] = "realtime") -> Rig:
        made.append(Rig(engine, clock))
        return made[-1]

    yield make
    if made:
        record_exercised(engine=request.node.callspec.params["engine"], guest="test programs")
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """One machine on a realtime clock."""
    return make_rig()
