"""Every engine that can run here (`engine_variants`), what a test needs of it, and a rig on it.

A test that an engine cannot run names the capability that a probe found missing (`engine_probes`): by `needs`, by its
parameter ``mode``, or because a KVM that interprets ring 0 refused an instruction. On a KVM with hardware below it a
refused instruction is a failure like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from pyvmm.engine import Engine
from tests.conformance.engine_probes import PROBES, has
from tests.conformance.engine_rig import MODE_CAPABILITIES, Rig
from tests.conformance.engine_variants import VARIANTS, availability, interprets, variant

MakeRig = Callable[..., Rig]


def pytest_configure(config: pytest.Config) -> None:
    """The mark of `engine_rig.interpreted`."""
    config.addinivalue_line("markers", "interpreted(what): a KVM that interprets ring 0 may do it otherwise")


def lacks(name: str, capability: str) -> None:
    """End the test: the engine of that name has not got this."""
    pytest.skip(f"{name}: has no {capability}")


@pytest.fixture(params=VARIANTS)
def engine(request: pytest.FixtureRequest) -> Engine:
    """An engine that has what the test `needs`."""
    name = request.param
    usable, reason = availability(name)
    if not usable:
        pytest.skip(f"{name}: {reason}")
    found = variant(name)
    request.node.user_properties.append(("engine", name))
    needed = list(getattr(request.function, "needs", ()))
    mode = request.node.callspec.params.get("mode")
    if mode is not None:
        needed.insert(0, MODE_CAPABILITIES[mode])
    engine_name, defect = getattr(request.function, "defect", ("", ""))
    if engine_name == found.name:
        request.applymarker(pytest.mark.xfail(strict=True, reason=f"{name}: {defect}"))
        return found
    if interprets(name):
        for mark in request.node.iter_markers("interpreted"):
            request.applymarker(
                pytest.mark.xfail(strict=False, reason=f"{name}: interpreter: {mark.args[0]}")
            )
        if defect and name != "kvm":
            request.applymarker(pytest.mark.xfail(strict=False, reason=f"{name}: handed over: {defect}"))
    for capability in needed:
        assert capability in PROBES, f"no probe for {capability!r}"
        if not has(found, capability):
            lacks(name, capability)
    return found


@pytest.fixture
def make_rig(
    engine: Engine, request: pytest.FixtureRequest, record_exercised: Callable[..., None]
) -> Iterator[MakeRig]:
    """``make_rig(clock="virtual")``: a machine that is closed after the test."""
    made: list[Rig] = []
    name = request.node.callspec.params["engine"]

    def require(capability: str) -> None:
        if not has(engine, capability):
            lacks(name, capability)

    def refused(instruction: str) -> None:
        if interprets(name) and name == "kvm":
            lacks(name, instruction)

    def make(
        clock: Literal["realtime", "virtual"] = "realtime", tsc_hz: int | None = None, apic: bool = False
    ) -> Rig:
        rig = Rig(engine, clock, tsc_hz, apic)
        rig.require, rig.refused = require, refused
        made.append(rig)
        return rig

    yield make
    if made:
        record_exercised(engine=name, guest="test programs")
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """One machine on a realtime clock."""
    return make_rig()
