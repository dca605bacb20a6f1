"""Results and their tables, without a guest."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from pyvmm.errors import PyvmmError
from pyvmm.figure import _shown
from pyvmm.lab.boot import CheckResult
from pyvmm.lab.results import METRICS, Comparison, Result, as_columns

PLAIN = Result(
    "trap-and-emulate",
    "translator",
    "syscall",
    1001,
    operations=1001,
    cycles=9000,
    cpu=0.051,
    exits={"#UD": 1001, "#GP": 20, "start": 7},
    emulated={"syscall": 1001, "iretq": 1003},
    shadow={"fill": 30},
    interrupts=5,
)
START = replace(
    PLAIN, count=1, operations=1, cycles=100, cpu=0.001, exits={"#UD": 1, "#GP": 20, "start": 7},
    emulated={"syscall": 1, "iretq": 3}, shadow={"fill": 31},
)  # fmt: skip


def test_what_a_run_took_beyond_its_start() -> None:
    net = PLAIN.less(START)
    assert (net.count, net.operations, net.cycles) == (1000, 1000, 8900)
    assert net.exits == {"#UD": 1000}, "a reason that only the start has is left out"
    assert net.shadow == {}, "no count is below none"
    assert net.each("exits") == 1.0
    assert net.each("emulated") == 2.0
    assert net.each("cpu") == pytest.approx(50e-6)
    with pytest.raises(ValueError, match="same workload"):
        PLAIN.less(replace(START, technique="bare"))


def test_a_metric_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="'exit': there are exits, emulated"):
        PLAIN.total("exit")
    assert {PLAIN.total(metric) for metric in METRICS} == {1028.0, 2004.0, 30.0, 0.0, 9000.0, 0.051}
    assert replace(PLAIN, operations=0).each("exits") == 0


def test_a_result_in_words() -> None:
    checks = (CheckResult("sidt", 0x1000, 0x2000), CheckResult("cr3", 1, 1))
    text = str(replace(PLAIN, checks=checks))
    assert text.splitlines() == [
        "syscall, trap-and-emulate on translator: 1001 operations, 50.9 us of CPU each",
        "  exits           1028: #UD 1001, #GP 20, start 7",
        "  emulated        2004: iretq 1003, syscall 1001",
        "  shadow            30: fill 30",
        "  checks             2: 1 wrong",
        "    sidt: expected 0x1000, seen 0x2000: WRONG",
    ]
    ended = replace(PLAIN, operations=0, status="ended", end="triple fault at main")
    assert str(ended).startswith(
        "syscall, trap-and-emulate on translator: 0 operations; ended: triple fault at main"
    )
    assert "#UD 1001" in PLAIN._repr_html_()


def _comparison() -> Comparison:
    net = PLAIN.less(START)
    return Comparison(
        (
            replace(net, technique="bare", exits={}, emulated={}, cpu=0.0001),
            net,
            replace(net, workload="in", technique="bare", exits={"io": 1000}, emulated={}, cpu=0.5),
            replace(net, workload="in", status="ended", end="somehow"),
            replace(net, workload="timer", technique="bare", exits={"io": 2300, "hlt": 12}, emulated={}),
            replace(net, engine="kvm", technique="bare", exits={}, emulated={}, cpu=1.0),
        ),
        ("a note",),
    )


def test_the_table() -> None:
    assert str(_comparison()).splitlines() == [
        "translator               bare              trap-and-emulate",
        "each operation  exits  emulated     us  exits  emulated    us",
        "syscall             0         0  <5.00    1.0       2.0  50.0",
        "in                1.0         0    500  ended",
        "timer             2.3         0      -      -         -     -",
        "",
        "kvm                      bare",
        "each operation  exits  emulated    us",
        "syscall             0         0  1000",
        "",
        "a note",
    ]


def test_the_table_as_html() -> None:
    html = _comparison()._repr_html_()
    assert html.count("<table>") == 2
    assert '<th colspan="3">trap-and-emulate</th>' in html
    assert "<p>a note</p>" in html


def test_looking_a_result_up() -> None:
    found = _comparison()
    assert found.get("syscall", "bare", "kvm").cpu == 1.0
    assert found.techniques == ("bare", "trap-and-emulate")
    with pytest.raises(PyvmmError, match="disk was not run under bare on kvm"):
        found.get("disk", "bare", "kvm")


def test_a_heading_wider_than_its_columns() -> None:
    assert as_columns([["", "a long heading", ""], ["x", "1", "2"]]) == [
        "   a long heading",
        "x  1            2",
    ]
    assert as_columns([]) == []


def test_long_lines_are_broken_between_items() -> None:
    """A notebook's output has some 120 columns, and breaks anywhere."""
    counts = {f"instruction {n}": 1000 - n for n in range(30)}
    text = str(Result("translation", "kvm", "syscall", 5, operations=5, emulated=counts))
    lines = [line for line in text.splitlines() if "instruction" in line]
    assert len(lines) > 3
    assert max(map(len, lines)) <= 110
    assert {line.find("instruction") for line in lines} == {24}
    assert " ".join(line.strip() for line in lines).partition(": ")[2] == ", ".join(
        f"{name} {count}" for name, count in counts.items()
    )


def test_the_figure() -> None:
    pytest.importorskip("matplotlib")
    axes = _comparison().figure("exits").axes[0]
    assert axes.get_yscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["syscall", "in", "timer"]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"bare", "trap-and-emulate"}
    heights = [patch.get_height() for patch in axes.patches]
    assert heights == pytest.approx([0, 1.0, 2.312, 1.0, 0, 0]), "what ended otherwise has no bar"


def test_the_smallest_bar_of_a_figure_has_a_height() -> None:
    pytest.importorskip("matplotlib")
    axes = _comparison().figure("cpu").axes[0]
    heights = [patch.get_height() for patch in axes.patches if patch.get_height()]
    assert heights
    assert axes.get_ylim()[0] == pytest.approx(min(heights) / 3)


def test_a_figure_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    _shown.cache_clear()
    with pytest.raises(PyvmmError, match="needs matplotlib: pip install"):
        _comparison().figure()
