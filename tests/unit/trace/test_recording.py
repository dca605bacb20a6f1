"""`pyvmm.trace.recording`: a recording's file is read back as it was, and a damaged one is refused in one line."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm import Machine, assemble
from pyvmm.errors import PyvmmError
from pyvmm.exits import ExitReason
from pyvmm.trace import Recorder, Recording, explain, load
from pyvmm.trace.recording import BAND, EVENT, SITE, SUMMARY, VcpuTrace, from_bytes

MIB = 1 << 20
PROGRAM = """
    mov cx, 100
again:
    in al, 0x61
    out 0x80, al
    loop again
    mov dx, 0x501
    xor al, al
    out dx, al
"""


@pytest.fixture(scope="module")
def recorded() -> Recording:
    """200 port accesses in real mode, and the one that ends it."""
    with Machine(memory=16 * MIB, serial="null", engine="translator") as machine:
        machine.memory.load(0x7C00, assemble(PROGRAM, bits=16, address=0x7C00))
        state = machine.vcpu.state
        state.set_real_mode(cs=0, ip=0x7C00)
        machine.vcpu.state = state
        with Recorder(machine) as recorder:
            assert machine.run(30).reason == "exit"
            return recorder.stop()


def use_all(recording: Recording) -> None:
    """Everything that a recording shows."""
    assert str(recording)
    assert repr(recording)
    assert recording._repr_html_()
    assert recording.table(1000)
    for site in recording.sites[:50]:
        assert str(explain(site))
        assert recording.where(site)
        assert recording.describe(site)
    for event in recording.events[:50]:
        assert str(explain(event))
        assert recording.device(event)
    assert sum(sum(band.counts) for band in recording.bands) >= 0
    for reason in recording.counts:
        assert recording.costs(reason)
    assert recording.seconds is not None
    assert recording.own_seconds is not None


def test_each_exit_is_counted(recorded: Recording) -> None:
    assert recorded.counts == {ExitReason.IO: 201, ExitReason.SYSTEM: 1}
    assert recorded.total == 202 == len(recorded.events)
    read, write = recorded.sites[:2]
    assert (read.rip, read.address, read.count, read.is_write, read.size) == (0x7C03, 0x61, 100, False, 1)
    assert (write.rip, write.address, write.count, write.is_write, write.mode) == (
        0x7C05,
        0x80,
        100,
        True,
        "real",
    )
    assert 0 < read.max_cycles <= read.cycles
    assert [row.name for row in recorded.devices[:2]] == ["port61", "post-code"]
    assert sum(recorded.costs(ExitReason.IO)) == 201
    assert sum(sum(band.counts) for band in recorded.bands) == 202
    times = [event.time for event in recorded.events]
    assert times == sorted(times)


def test_a_file_is_read_back_as_it_was(recorded: Recording, tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    recorded.save(path)
    again = load(path)
    assert (again.sites, again.events, again.bands) == (recorded.sites, recorded.events, recorded.bands)
    assert again.table() == recorded.table()
    assert again.meta == json.loads(json.dumps(recorded.meta))
    assert again.to_bytes() == path.read_bytes()
    assert [each.name for each in tmp_path.iterdir()] == ["a.trace"]


def test_what_cannot_be_written_leaves_what_was_there(recorded: Recording, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        recorded.save(tmp_path / "folder")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_several_vcpus_are_added_up(recorded: Recording) -> None:
    one = recorded.parts[0]
    two = Recording([one, replace(one, index=1)], recorded.meta)
    assert two.total == 404
    assert [site.count for site in two.sites] == [2 * site.count for site in recorded.sites]
    assert len(two.events) == 404
    assert from_bytes(two.to_bytes()).sites == two.sites


def test_an_empty_one(tmp_path: Path) -> None:
    use_all(Recording([], {}))
    with pytest.raises(PyvmmError, match="nothing was recorded"):
        Recording([], {}).heat_map()


def with_checksum(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def section(data: bytes, tag: bytes) -> int:
    """Where a section's body begins."""
    return data.index(tag) + 16


def put(data: bytes, at: int, value: bytes) -> bytes:
    return with_checksum(data[:at] + value + data[at + len(value) :])


def test_what_is_wrong_is_said_with_file_and_offset(recorded: Recording) -> None:
    data = recorded.to_bytes()
    site, summary = section(data, b"SITE"), section(data, b"SUMM")
    cases = {
        b"": "offset 0: not a recording",
        b"PYVMMTRC": "truncated at offset 8",
        data[:-5]: "truncated at offset",
        data[:20]: "truncated at offset 16",
        data + b"x": "bytes behind the last section",
        data[:-1] + bytes([data[-1] ^ 1]): f"offset {len(data) - 4}: the checksum",
        put(data, 8, b"\2"): "offset 8: version 2; this pyvmm reads version 1",
        put(data, site + 60, b"\x0f"): f"offset {site}: exit reason 15 does not exist",
        put(data, site + 61, b"\x1c"): f"offset {site}: mode 7 does not exist",
        put(data, site + 16, bytes(8)): f"offset {site + 16}: a site of no exits",
        put(data, summary + 64, struct.pack("<Q", 3)): f"offset {summary + 64}: a bucket of 3 ns",
        put(data, section(data, b"META"), b"["): "META is not what it should be",
        put(data, section(data, b"EVNT") - 8, struct.pack("<Q", 1 << 40)): "truncated at offset",
    }
    for bad, why in cases.items():
        with pytest.raises(PyvmmError, match=r"^x\.trace: ") as error:
            from_bytes(bad, "x.trace")
        assert why in str(error.value), (why, str(error.value))
        assert "\n" not in str(error.value)


def test_text_that_moves_a_terminals_cursor_is_refused(recorded: Recording) -> None:
    for key, value in {"engine": "\x1b[2J", "symbols": {"7c03": "a\rb"}, "pio": [[0x61, 1, "\x07"]]}.items():
        data = Recording(recorded.parts, {**recorded.meta, key: value}).to_bytes()
        with pytest.raises(PyvmmError, match="META is not what it should be"):
            from_bytes(data)


def test_a_later_versions_sections_are_passed_over(recorded: Recording) -> None:
    data = recorded.to_bytes()
    extra = struct.pack("<4sIQ", b"NEWS", 0, 3) + b"abc"
    count = struct.unpack_from("<I", data, 12)[0]
    longer = data[:12] + struct.pack("<I", count + 1) + data[16:-4] + extra + bytes(4)
    assert from_bytes(with_checksum(longer)).sites == recorded.sites


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_shown(recorded: Recording, data: st.DataObject) -> None:
    """Whatever bytes change, under a checksum that fits: an error in one line, or something that can be shown."""
    contents = bytearray(recorded.to_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(8, len(contents) - 5))
        contents[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, data.draw(st.integers(0, 255))]))
    if data.draw(st.booleans()):
        del contents[data.draw(st.integers(16, len(contents) - 5)) : -4]
    try:
        recording = from_bytes(with_checksum(bytes(contents)))
    except PyvmmError as error:
        if "\n" in str(error):
            raise
    else:
        use_all(recording)


def rows(count: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1)), min_size=count, max_size=count)


@settings(max_examples=150, deadline=None)
@given(
    rows(8),
    st.integers(0, 8),
    st.builds(int.__or__, st.integers(0, 0x17), st.sampled_from([0, 0x20, 0x60, 0xE0])),
    st.integers(0, 255),
    st.integers(0, 63),
)
def test_any_numbers_are_shown(
    recorded: Recording, words: list[int], reason: int, flags: int, byte: int, bucket: int
) -> None:
    """Rows as a recorder could not have written them, but of the right shape."""
    words[2] |= 1
    site = SITE.pack(*words[:7], words[7] & 0xFFFFFFFF, reason, flags, byte, byte, byte & 3, 0)
    event = EVENT.pack(*words[:4], words[4] & 0xFFFFFFFF, reason, flags, byte, byte)
    band = BAND.pack(words[0], reason, byte & 1, *[words[i % 8] & 0xFFFFFFFF for i in range(128)])
    summary = list(recorded.parts[0].summary)
    summary[:8] = words
    summary[8] = 1 << bucket
    use_all(
        from_bytes(Recording([VcpuTrace(0, tuple(summary), site, event, band)], recorded.meta).to_bytes())
    )
    assert SUMMARY.size == 80 + 16 * 16 + 16 * 32 * 8
