"""A recorder of a disk's requests, each with its time line: notification, taking, I/O, used ring, interrupt.

Source: virtio 1.2 §2.7.13 and §2.7.14 (what driver and device do in turn), §5.2.6 (requests). Times are of the host's
CLOCK_MONOTONIC. Left out: notifications that came by eventfd (KVM), which nobody sees come.
"""

from __future__ import annotations

from statistics import median

from pyvmm.errors import DeviceError
from pyvmm.native import ffi, lib
from pyvmm.record import record
from pyvmm.svg import Svg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Final, Self

    from pyvmm.devices.virtio.blk import VirtioBlk

KINDS: Final = {0: "read", 1: "write", 4: "flush", 8: "id", 11: "discard", 13: "write-zeroes"}
STATUSES: Final = {0: "ok", 1: "error", 2: "unsupported"}
AT_ONCE: Final = 1024
PHASES: Final = (
    ("notified", "kick_ns", "pop_ns", "#e8a33d"),
    ("taken", "pop_ns", "begin_ns", "#b9b9b9"),
    ("I/O", "begin_ns", "end_ns", "#5b8fd6"),
    ("done", "end_ns", "used_ns", "#6fae6f"),
    ("interrupt", "used_ns", "interrupt_ns", "#c65b5b"),
)
"""Name, begin, end and colour of each part of a request's life."""
TEXT_COLUMNS: Final = ("queue", "id", "request", "sector", "bytes", "status", "merged")


@record(frozen=True, slots=True)
class RequestRecord:
    """One request.

    Attributes
    ----------
    kind, status
        ``"read"``, ``"write"``, ``"flush"``, ``"id"``, ``"discard"``, ``"write-zeroes"`` or a number; ``"ok"``,
        ``"error"`` or ``"unsupported"``.
    sector, bytes
        As the driver asked; 512-byte sectors.
    queue, id
        Which queue; its head descriptor, or buffer ID.
    merged
        Requests that were one call of the host together.
    kick_ns
        The notification that made the device look; 0: it was looking already, or it came by eventfd.
    pop_ns, begin_ns, end_ns, used_ns
        Taken from the ring; the host's call; in the used ring.
    interrupt_ns
        The driver was told; 0: it did not want to be.
    """

    kind: str
    status: str
    sector: int
    bytes: int
    queue: int
    id: int
    merged: int
    kick_ns: int
    pop_ns: int
    begin_ns: int
    end_ns: int
    used_ns: int
    interrupt_ns: int


class Recording:
    """Records while its ``with`` block runs; what it has stays afterwards.

    Attributes
    ----------
    records
        Requests in the order in which they completed. Inside the block: as of the last `take`.
    lost
        Older ones that did not fit.

    Raises
    ------
    DeviceError
        At the beginning of the block: somebody records this device already, or no memory for `capacity`.
    """

    def __init__(self, device: VirtioBlk, capacity: int = 65536) -> None:
        if not 1 <= capacity <= 1 << 24:
            raise DeviceError(f"a recording of {capacity} requests: 1 to {1 << 24}")
        self._device, self._capacity = device, capacity
        self.records: list[RequestRecord] = []
        self.lost = 0

    def __enter__(self) -> Self:
        result = lib.virtio_blk_record_start(self._device.pointer, self._capacity)
        if result < 0:
            why = "it is being recorded already" if result == -16 else "no host memory"  # EBUSY
            raise DeviceError(f"{self._device.name}: {why}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.take()
        lib.virtio_blk_record_stop(self._device.pointer)

    def take(self) -> list[RequestRecord]:
        """Fetch what has completed since the last time, and return that."""
        native, lost = ffi.new("VirtioBlkRecord[]", AT_ONCE), ffi.new("uint64_t *")
        fetched: list[RequestRecord] = []
        while count := lib.virtio_blk_record_take(self._device.pointer, native, AT_ONCE, lost):
            fetched += [_python(native[n]) for n in range(count)]
        self.records += fetched
        del self.records[: -self._capacity]
        self.lost = int(lost[0])
        return fetched

    # Showing it ------------------------------------------------------------------------------------------------------

    @property
    def medians(self) -> dict[str, float]:
        """Microseconds of each part of a request's life, of those that had it, and of the whole (``"all"``)."""
        found = {}
        for name, begin, end, _ in PHASES:
            spans = [
                getattr(r, end) - getattr(r, begin)
                for r in self.records
                if getattr(r, begin) and getattr(r, end)
            ]
            if spans:
                found[name] = median(spans) / 1e3
        if self.records:
            found["all"] = median(_end(r) - _begin(r) for r in self.records) / 1e3
        return found

    def table(self, limit: int = 40) -> str:
        """Text: the first `limit` requests, microseconds from the first one's beginning, and the medians."""
        if not self.records:
            return f"{self._device.name}: no requests"
        start = min(map(_begin, self.records))

        def at(time: int) -> str:
            return f"{(time - start) / 1e3:.1f}" if time else "-"

        columns = (*TEXT_COLUMNS, "kick", "pop", "begin", "end", "used", "interrupt")
        rows: list[tuple[str, ...]] = [columns]
        for r in self.records[:limit]:
            what = str(r.queue), str(r.id), r.kind, str(r.sector), str(r.bytes), r.status, str(r.merged)
            times = r.kick_ns, r.pop_ns, r.begin_ns, r.end_ns, r.used_ns, r.interrupt_ns
            rows.append((*what, *map(at, times)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        if len(self.records) > limit:
            lines.append(f"... and {len(self.records) - limit} more")
        if self.lost:
            lines.append(f"{self.lost} before these did not fit")
        lines.append("medians in us: " + ", ".join(f"{name} {us:.1f}" for name, us in self.medians.items()))
        return "\n".join(lines)

    def plot(self, limit: int = 40, *, aligned: bool = False) -> Svg:
        """A picture: a row for each of the first `limit` requests, its parts in colours; time goes right.

        `aligned`: each row begins with its own request, which shows more of requests that are far apart.
        """
        shown = self.records[:limit]
        picture = Svg(760, 50 + 14 * len(shown))
        for n, (name, _, _, colour) in enumerate(PHASES):
            picture.rectangle(130 + 110 * n, 8, 10, 10, colour)
            picture.text(144 + 110 * n, 17, name)
        if not shown:
            return picture
        first = min(map(_begin, shown))
        span = max(_end(r) - (_begin(r) if aligned else first) for r in shown)
        scale = 600 / max(span, 1)
        for row, r in enumerate(shown):
            y, start = 26 + 14 * row, _begin(r) if aligned else first
            picture.text(125, y + 10, f"{r.kind} {r.sector}", anchor="end")
            for name, begin, until, colour in PHASES:
                a, b = getattr(r, begin), getattr(r, until)
                if a and b:
                    title = f"{r.kind} {r.sector}, {name}: {(b - a) / 1e3:.1f} us"
                    picture.rectangle(
                        130 + (a - start) * scale, y, max((b - a) * scale, 0.5), 11, colour, title
                    )
        picture.text(130, 44 + 14 * len(shown), "0")
        picture.text(730, 44 + 14 * len(shown), f"{span / 1e3:.1f} us", anchor="end")
        return picture

    def __repr__(self) -> str:
        return f"<Recording of {self._device.name}: {len(self.records)} requests>"


def _begin(r: RequestRecord) -> int:
    return r.kick_ns or r.pop_ns


def _end(r: RequestRecord) -> int:
    return r.interrupt_ns or r.used_ns


def _python(native: Any) -> RequestRecord:
    kind, status = int(native.type), int(native.status)
    names = RequestRecord.__match_args__[2:]  # but kind and status
    numbers = {name: int(getattr(native, name)) for name in names}
    return RequestRecord(kind=KINDS.get(kind, str(kind)), status=STATUSES.get(status, str(status)), **numbers)
