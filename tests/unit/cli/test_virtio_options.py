"""``--rng``, ``--balloon``, ``--input``, ``--console`` and ``--port``: what they make, and what they refuse."""

from __future__ import annotations

import pytest

from pyvmm.cli.options import machine_config, parse_quickly
from pyvmm.config import BalloonConfig, MachineConfig, PortConfig, RngConfig
from pyvmm.errors import ConfigError


def config(*words: str) -> MachineConfig:
    options = parse_quickly(list(words))
    assert options is not None
    return machine_config(options)


def test_without_them_there_is_nothing() -> None:
    made = config()
    assert (made.rng, made.balloon, made.inputs, made.ports, made.console) == (None, None, [], [], "serial")


def test_devices() -> None:
    assert config("--rng", "on").rng == RngConfig()
    assert config("--rng", "64K").rng == RngConfig(bytes_per_second=65536)
    assert config("--balloon", "on").balloon == BalloonConfig()
    assert config("-m", "256M", "--balloon", "128M").balloon == BalloonConfig(target=128 << 20)
    assert config("--input", "keyboard,tablet").inputs == ["keyboard", "tablet"]
    assert config("--console", "virtio").console == "virtio"
    assert config("--port", "name=a,to=unix:b,,c").ports == [PortConfig("a", "unix:b,c")]


@pytest.mark.parametrize(
    "words",
    [
        ("--rng", "often"),
        ("--rng", "0"),
        ("--balloon", "1G"),
        ("--balloon", "much"),
        ("--input", "joystick"),
        ("--port", "name=a"),
        ("--port", "name=a,to=tcp:1"),
        ("--port", "name=a,name=b,to=file:x"),
    ],
)
def test_refused_in_one_line(words: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"^{words[0]} .*; write for example") as caught:
        config(*words)
    assert "\n" not in str(caught.value)
