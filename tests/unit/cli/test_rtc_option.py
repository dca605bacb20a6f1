"""``--rtc`` and ``--hpet``."""

from __future__ import annotations

import pytest

from pyvmm.cli.options import machine_config, parse_quickly, parse_rtc
from pyvmm.errors import ConfigError


@pytest.mark.parametrize("base", ["utc", "localtime", "2026-01-31T12:00:00", "2026-01-31"])
def test_base(base: str) -> None:
    assert parse_rtc(f"base={base}") == base


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("base=tomorrow", "not a date"),
        ("base=", "only base= can be set"),
        ("utc", "only base= can be set"),
        ("driftfix=slew", "only base= can be set"),
        ("base=2300-01-01", "1970 to 2099"),
    ],
)
def test_wrong(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        parse_rtc(text)
    assert "--rtc" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_they_reach_the_configuration() -> None:
    options = parse_quickly(["--rtc", "base=localtime", "--hpet", "off"])
    assert options is not None
    config = machine_config(options)
    assert (config.rtc_base, config.hpet) == ("localtime", False)
    plain = parse_quickly([])
    assert plain is not None
    assert (machine_config(plain).rtc_base, machine_config(plain).hpet) == ("utc", True)
