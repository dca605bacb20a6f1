"""A recording of exits: counts by site, the newest exits one by one, bands over time, and its file.

The file (all numbers little-endian; docs/tracing.md has the same):

    offset  size
    0       8     magic "PYVMMTRC"
    8       4     version, 1
    12      4     number of sections
    16      ...   sections, each: 4 bytes of tag, u32 vCPU, u64 bytes that follow
    end-4   4     CRC-32 of everything before it

META: a JSON object (machine, engine, devices' address ranges, symbols of the sites). For each vCPU SUMM, SITE, EVNT and
BAND: C's ExitTraceSummary and arrays of ExitSite, ExitEvent and ExitBand (csrc/engine/exit_trace.h). A section with an
unknown tag is passed over, so that a later version may add some. Everything in a file is checked before it is believed.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from pyvmm.bus import BusRange
from pyvmm.errors import PyvmmError
from pyvmm.exits import MODES, ExitReason
from pyvmm.trace.explain import describe, device_of, where

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyvmm.config import StrPath

MAGIC = b"PYVMMTRC"
VERSION = 1
REASONS, BUCKETS, COSTS = 16, 128, 32
MAX_FILE = 2 << 30
_MERGED, _PAGE = 1, 2
_WRITE, _HANDLED, _SOFTWARE = 1 << 5, 1 << 6, 1 << 7
_HEAD = struct.Struct("<8sII")
_SECTION = struct.Struct("<4sIQ")
SUMMARY = struct.Struct(f"<10Q{REASONS}Q{REASONS}Q{REASONS * COSTS}Q")
EVENT = struct.Struct("<4QI4B")
SITE = struct.Struct("<7QI4BII")
BAND = struct.Struct(f"<QII{BUCKETS}I")
_REASON = {reason.value: reason for reason in ExitReason}


@dataclass(frozen=True, slots=True)
class Event:
    """One recorded exit; the fields of a `VmExit`, and `time` in ns of the machine's clock."""

    time: int
    rip: int
    address: int
    value: int
    cycles: int
    reason: ExitReason
    cpl: int
    mode: str
    is_write: bool
    handled: bool
    size: int
    vector: int
    code: int
    vcpu: int


@dataclass(frozen=True, slots=True)
class Site:
    """Exits of one kind from one place, counted.

    Attributes
    ----------
    rip
        Linear address of the instruction; of user code its page; 0 for interrupts from outside, which come anywhere.
    count, cycles, max_cycles
        How many, the host's TSC cycles that answering all of them took, and the most that one took.
    first, last
        When, in ns of the machine's clock.
    value
        Of the last one.
    merged
        Of many sites: the table was full (`Recorder`'s `sites`).
    """

    rip: int
    address: int
    count: int
    cycles: int
    first: int
    last: int
    value: int
    max_cycles: int
    reason: ExitReason
    cpl: int
    mode: str
    is_write: bool
    handled: bool
    size: int
    vector: int
    code: int
    merged: bool
    vcpu: int = 0


@dataclass(frozen=True, slots=True)
class Band:
    """Exits of one reason at one address over time; `counts` by bucket."""

    reason: ExitReason
    address: int
    counts: tuple[int, ...]
    merged: bool


@dataclass(frozen=True, slots=True)
class Total:
    """Exits of a reason or a device: how many, and the cycles that answering them took."""

    name: str
    count: int
    cycles: int


@dataclass(frozen=True, slots=True)
class VcpuTrace:
    """One vCPU's part, as C has it: raw rows, and the summary by name."""

    index: int
    summary: tuple[int, ...]
    sites: bytes
    events: bytes
    bands: bytes


@dataclass(frozen=True, slots=True)
class _Buses:
    """What `explain` asks a machine, of a recorded one."""

    pio: _Ranges
    mmio: _Ranges


@dataclass(frozen=True, slots=True)
class _Ranges:
    ranges: tuple[BusRange, ...] = field(default=())


def _ranges(rows: Iterable[Sequence[Any]]) -> _Ranges:
    return _Ranges(tuple(BusRange(base, size, 0, name) for base, size, name in rows))


class Recording:
    """What was recorded; ``print()`` it for the table, `save` it, or draw it.

    Parameters
    ----------
    parts
        One for each vCPU.
    meta
        ``machine``, ``engine``, ``cpu_seconds``, ``wall_seconds``, ``symbols`` ({address: name}), ``symbol_source``,
        ``pio`` and ``mmio`` (rows of base, size, name); whatever is not there is unknown.
    """

    def __init__(self, parts: Sequence[VcpuTrace], meta: dict[str, Any]) -> None:
        self.parts = tuple(parts)
        self.meta = meta
        self.symbols: dict[int, str] = {int(key, 16): name for key, name in meta.get("symbols", {}).items()}
        self.buses = _Buses(_ranges(meta.get("pio", [])), _ranges(meta.get("mmio", [])))

    # Rows -----------------------------------------------------------------------------------------------------------

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every site, most exits first; of several vCPUs added up."""
        found: dict[tuple[Any, ...], Site] = {}
        for part in self.parts:
            for row in SITE.iter_unpack(part.sites):
                site = _site(row)
                flags = site.cpl, site.mode, site.is_write, site.handled, site.code, site.merged
                key = (site.rip, site.address, site.reason, site.vector, *flags)
                found[key] = _added(found[key], site) if key in found else site
        return tuple(sorted(found.values(), key=lambda site: (-site.count, site.rip, site.address)))

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """The newest exits of all vCPUs, oldest first."""
        rows = [_event(row, part.index) for part in self.parts for row in EVENT.iter_unpack(part.events)]
        return tuple(sorted(rows, key=lambda event: event.time))

    @property
    def counts(self) -> dict[ExitReason, int]:
        """Exits by reason, as `Vcpu.exit_counts` has them; of all vCPUs."""
        return self._by_reason(10)

    @property
    def cycles(self) -> dict[ExitReason, int]:
        """Host TSC cycles that answering took, by reason."""
        return self._by_reason(10 + REASONS)

    def _by_reason(self, first: int) -> dict[ExitReason, int]:
        sums = [sum(part.summary[first + i] for part in self.parts) for i in range(REASONS)]
        return {_REASON[i]: value for i, value in enumerate(sums) if value and i in _REASON}

    @property
    def total(self) -> int:
        """All exits."""
        return sum(self.counts.values())

    @property
    def merged(self) -> int:
        """Exits whose site did not fit into the table."""
        return sum(part.summary[1] for part in self.parts)

    @property
    def seconds(self) -> float:
        """How long it was recorded, by the machine's clock."""
        return max(((part.summary[3] - part.summary[2]) / 1e9 for part in self.parts), default=0.0)

    @property
    def tsc_hz(self) -> float:
        """Cycles of the host's TSC in a second, measured while it was recorded; 0: unknown."""
        for part in self.parts:
            ticks, took = part.summary[5] - part.summary[4], part.summary[7] - part.summary[6]
            if took > 0:
                return ticks * 1e9 / took
        return 0.0

    @property
    def own_seconds(self) -> float:
        """CPU time that recording took; 0: unknown."""
        hz = self.tsc_hz
        return sum(part.summary[9] for part in self.parts) / hz if hz else 0.0

    @cached_property
    def devices(self) -> tuple[Total, ...]:
        """Exits by device, most first; what no device answered is the processor's."""
        sums: dict[str, list[int]] = {}
        for site in self.sites:
            row = sums.setdefault("(merged)" if site.merged else self.device(site), [0, 0])
            row[0] += site.count
            row[1] += site.cycles
        rows = [Total(name, count, cycles) for name, (count, cycles) in sums.items()]
        return tuple(sorted(rows, key=lambda row: -row.count))

    def device(self, exit_: Site | Event) -> str:
        """The device that an exit went to, as the bus names it."""
        return device_of(exit_, self.buses)  # type: ignore[arg-type]

    def describe(self, exit_: Site | Event) -> str:
        """What an exit was, in a few words."""
        if isinstance(exit_, Site) and exit_.merged:
            return f"{exit_.reason.name.lower()} exits of further sites"
        return describe(exit_, self.buses)  # type: ignore[arg-type]

    def where(self, exit_: Site | Event) -> str:
        """Symbol and offset, or whose code it is."""
        if name := self.symbols.get(exit_.rip):
            return name
        text = where(exit_.rip, exit_.cpl, exit_.mode, None)
        if isinstance(exit_, Site) and exit_.merged:
            return "(many places)"
        return text if exit_.rip else "(anywhere)"

    @cached_property
    def bucket_ns(self) -> int:
        """Width of a band's bucket: the widest of the vCPUs'."""
        return max((part.summary[8] for part in self.parts), default=1)

    @cached_property
    def bands(self) -> tuple[Band, ...]:
        """Counts over time, most exits first."""
        sums: dict[tuple[int, int, bool], list[int]] = {}
        for part in self.parts:
            ratio = self.bucket_ns // part.summary[8]  # both are powers of two of the same unit
            for address, reason, kind, *counts in BAND.iter_unpack(part.bands):
                row = sums.setdefault((reason, address, bool(kind & _MERGED)), [0] * BUCKETS)
                for bucket, count in enumerate(counts):
                    row[bucket // ratio] += count
        rows = [Band(_REASON[key[0]], key[1], tuple(counts), key[2]) for key, counts in sums.items()]
        return tuple(sorted(rows, key=lambda band: -sum(band.counts)))

    def costs(self, reason: ExitReason) -> tuple[int, ...]:
        """Histogram: entry n counts exits that took 2**n to 2**(n+1)-1 cycles to answer."""
        first = 10 + 2 * REASONS + reason * COSTS
        return tuple(sum(part.summary[first + n] for part in self.parts) for n in range(COSTS))

    # Out ------------------------------------------------------------------------------------------------------------

    def table(self, top: int = 10) -> str:
        """The top sites and the totals as plain text."""
        from pyvmm.trace.table import plain

        return plain(self, top)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<Recording of {self.total} exits at {len(self.sites)} sites>"

    def _repr_html_(self) -> str:
        from pyvmm.trace.table import site_rows

        cell = "style='text-align: left; padding: 2px 12px; color: #111111; background: #ffffff'"
        head, *rows = site_rows(self, 10)
        lines = ["".join(f"<td {cell}>{escape(text)}</td>" for text in row) for row in rows]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        heads = "".join(f"<th {cell}>{escape(text)}</th>" for text in head)
        return f"<table><tr>{heads}</tr>{body}</table>"

    def heat_map(self, rows: int = 24) -> Figure:
        """Address by reason by time (needs matplotlib: the extra `plots`)."""
        from pyvmm.trace.figures import heat_map

        return heat_map(self, rows)

    def histogram(self) -> Figure:
        """What answering cost, by reason (needs matplotlib: the extra `plots`)."""
        from pyvmm.trace.figures import histogram

        return histogram(self)

    def save(self, path: StrPath) -> None:
        """Write the file; one that was there stays until the new one is complete.

        Raises
        ------
        OSError
            It cannot be written.
        """
        partial = f"{os.fspath(path)}.partial"
        try:
            with open(partial, "wb") as file:
                file.write(self.to_bytes())
            os.replace(partial, path)
        except BaseException:
            if os.path.exists(partial):
                os.unlink(partial)
            raise

    def to_bytes(self) -> bytes:
        """The file's contents."""
        sections = [(b"META", 0, json.dumps(self.meta, sort_keys=True).encode())]
        for part in self.parts:
            sections += [
                (b"SUMM", part.index, SUMMARY.pack(*part.summary)),
                (b"SITE", part.index, part.sites),
                (b"EVNT", part.index, part.events),
                (b"BAND", part.index, part.bands),
            ]
        data = _HEAD.pack(MAGIC, VERSION, len(sections))
        data += b"".join(_SECTION.pack(tag, index, len(body)) + body for tag, index, body in sections)
        return data + struct.pack("<I", zlib.crc32(data))


def load(path: StrPath) -> Recording:
    """Read a recording's file.

    Raises
    ------
    PyvmmError
        One line with file and offset: it is no recording, of another version, truncated or damaged.
    OSError
        It cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_FILE + 1)
    return from_bytes(data, os.fspath(path))


def from_bytes(data: bytes, name: str | bytes = "recording") -> Recording:
    """The same from memory; `name` is for messages."""
    name = os.fsdecode(name)
    if data[:8] != MAGIC:
        raise PyvmmError(f"{name}: offset 0: not a recording of pyvmm trace (no {MAGIC.decode()})")
    if len(data) > MAX_FILE:
        raise PyvmmError(f"{name}: larger than {MAX_FILE >> 30} GiB is no recording")
    if len(data) < _HEAD.size + 4:
        raise PyvmmError(f"{name}: truncated at offset {len(data)}")
    _, version, count = _HEAD.unpack_from(data)
    if version != VERSION:
        raise PyvmmError(f"{name}: offset 8: version {version}; this pyvmm reads version {VERSION}")
    end = len(data) - 4
    meta: dict[str, Any] = {}
    parts: dict[int, dict[bytes, bytes]] = {}
    at = _HEAD.size
    for _ in range(count):
        if at + _SECTION.size > end:
            raise PyvmmError(f"{name}: truncated at offset {at}: a section is missing")
        tag, index, size = _SECTION.unpack_from(data, at)
        at += _SECTION.size
        if size > end - at:
            raise PyvmmError(
                f"{name}: truncated at offset {at}: a section of {size} bytes, {end - at} are left"
            )
        body = data[at : at + size]
        if tag == b"META":
            meta = _meta(body, name, at)
        elif tag in _ROWS:
            _check_rows(tag, body, name, at)
            if tag in parts.setdefault(index, {}):
                raise PyvmmError(f"{name}: offset {at}: vCPU {index} has {tag.decode()} twice")
            parts[index][tag] = body
        at += size
    if at != end:
        raise PyvmmError(f"{name}: offset {at}: {end - at} bytes behind the last section")
    if zlib.crc32(data[:end]) != struct.unpack_from("<I", data, end)[0]:
        raise PyvmmError(f"{name}: offset {end}: the checksum is not that of the contents")
    return Recording([_part(name, index, rows) for index, rows in sorted(parts.items())], meta)


_ROWS = {b"SUMM": SUMMARY, b"SITE": SITE, b"EVNT": EVENT, b"BAND": BAND}
_MAX_VCPUS = 255


def _check_rows(tag: bytes, body: bytes, name: str, at: int) -> None:
    row = _ROWS[tag]
    if len(body) % row.size or (tag == b"SUMM" and len(body) != row.size):
        raise PyvmmError(f"{name}: offset {at}: {tag.decode()} of {len(body)} bytes, rows have {row.size}")
    if tag == b"SUMM":
        bucket = row.unpack(body)[8]
        if not bucket or bucket & (bucket - 1):
            raise PyvmmError(f"{name}: offset {at + 64}: a bucket of {bucket} ns is no power of two")
        return
    reason_at, flags_at = {b"SITE": (8, 9), b"EVNT": (5, 6), b"BAND": (1, None)}[tag]
    for number, values in enumerate(row.iter_unpack(body)):
        where_ = at + number * row.size
        if tag == b"SITE" and not values[2]:
            raise PyvmmError(f"{name}: offset {where_ + 16}: a site of no exits")
        if values[reason_at] not in _REASON:
            raise PyvmmError(f"{name}: offset {where_}: exit reason {values[reason_at]} does not exist")
        if flags_at is not None and (values[flags_at] >> 2 & 7) >= len(MODES):
            raise PyvmmError(f"{name}: offset {where_}: mode {values[flags_at] >> 2 & 7} does not exist")


def _part(name: str, index: int, rows: dict[bytes, bytes]) -> VcpuTrace:
    if index >= _MAX_VCPUS or b"SUMM" not in rows:
        raise PyvmmError(f"{name}: vCPU {index} has no SUMM section, or is one too many")
    summary = SUMMARY.unpack(rows[b"SUMM"])
    return VcpuTrace(index, summary, rows.get(b"SITE", b""), rows.get(b"EVNT", b""), rows.get(b"BAND", b""))


def _is_text(value: object) -> bool:
    """What a terminal only shows."""
    return isinstance(value, str) and value.isprintable()


def _meta(body: bytes, name: str, at: int) -> dict[str, Any]:
    """The JSON object, of the shape that is read later."""
    try:
        meta = json.loads(body)
        if not isinstance(meta, dict):
            raise ValueError("no object")
        for bus in ("pio", "mmio"):
            for base, size, title in meta.get(bus, []):
                if not (isinstance(base, int) and isinstance(size, int) and _is_text(title)):
                    raise ValueError(f"a row of {bus}")
        for key, value in meta.get("symbols", {}).items():
            int(key, 16)
            if not _is_text(value):
                raise ValueError("a symbol")
        for key in ("machine", "engine", "symbol_source"):
            if not _is_text(meta.get(key, "")):
                raise ValueError(key)
        for key in ("cpu_seconds", "wall_seconds"):
            if not isinstance(meta.get(key, 0.0), (int, float)):
                raise ValueError(key)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise PyvmmError(f"{name}: offset {at}: META is not what it should be: {error}") from None
    return meta


def _site(row: tuple[int, ...]) -> Site:
    rip, address, count, cycles, first, last, value, most, reason, flags, size, vector, kind, _ = row
    counted = (rip, address, count, cycles, first, last, value, most)
    return Site(*counted, *_flags(reason, flags, size, vector), merged=bool(kind & _MERGED))


def _event(row: tuple[int, ...], vcpu: int) -> Event:
    time, rip, address, value, cycles, reason, flags, size, vector = row
    return Event(time, rip, address, value, cycles, *_flags(reason, flags, size, vector), vcpu=vcpu)


def _flags(
    reason: int, flags: int, size: int, vector: int
) -> tuple[ExitReason, int, str, bool, bool, int, int, int]:
    """From `reason` to `code`, as an event and a site have them."""
    mode = MODES[flags >> 2 & 7]
    is_write, handled = bool(flags & _WRITE), bool(flags & _HANDLED)
    return _REASON[reason], flags & 3, mode, is_write, handled, size, vector, int(bool(flags & _SOFTWARE))


def _added(a: Site, b: Site) -> Site:
    from dataclasses import replace

    return replace(
        b if b.last >= a.last else a,
        count=a.count + b.count,
        cycles=a.cycles + b.cycles,
        first=min(a.first, b.first),
        max_cycles=max(a.max_cycles, b.max_cycles),
    )


def addresses(rows: Iterable[bytes]) -> set[int]:
    """Addresses of code in raw sites."""
    return {row[0] for data in rows for row in SITE.iter_unpack(data) if row[0]}
