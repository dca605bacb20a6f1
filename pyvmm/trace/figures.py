"""A recording as matplotlib figures: a heat map of address by reason by time, and a histogram of costs.

A notebook shows them, and ``figure.savefig("x.png")`` writes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.errors import PyvmmError
from pyvmm.exits import EXCEPTION_NAMES, ExitReason
from pyvmm.figure import new_figure
from pyvmm.trace.hardware import msr_name, place_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyvmm.trace.recording import Band, Recording

_COLOURS = {
    ExitReason.IO: "#1f5fa8", ExitReason.MMIO: "#b3261e", ExitReason.INTERRUPT: "#1b6e2d",
    ExitReason.EXCEPTION: "#8a6d00", ExitReason.CPUID: "#6a3d9a", ExitReason.MSR: "#0f7c80", ExitReason.HLT: "#555555",
}  # fmt: skip
_OTHER = "#999999"


def _name(recording: Recording, band: Band) -> str:
    """What a row of the heat map is called."""
    reason, address = band.reason, band.address
    if band.merged:
        return "other addresses"
    match reason:
        case ExitReason.IO | ExitReason.MMIO:
            bus = recording.buses.pio if reason is ExitReason.IO else recording.buses.mmio
            # A band of device memory is a page: the device's name says more than its first register.
            name, place, row = place_of(bus.ranges, address, write=True)
            if reason is ExitReason.IO:
                return f"{address:#x} {place}"
            title = row.title if row is not None and not name.startswith("virtio") else name or place
            return f"{address:#x} {title}"
        case ExitReason.MSR:
            return f"{address:#x} {msr_name(address)}".rstrip()
        case ExitReason.CPUID:
            return f"leaf {address:#x}"
        case ExitReason.INTERRUPT:
            return f"vector {address:#x}"
        case ExitReason.EXCEPTION:
            return EXCEPTION_NAMES.get(address, f"vector {address:#x}")
    return ""


def heat_map(recording: Recording, rows: int = 24) -> Figure:
    """Exits by address and time, grouped by reason; the `rows` addresses with most exits, colour is logarithmic.

    Raises
    ------
    PyvmmError
        matplotlib is missing, or nothing was recorded.
    """
    bands = sorted(recording.bands[:rows], key=lambda band: (band.reason, -sum(band.counts)))
    if not bands:
        raise PyvmmError("nothing was recorded: there is nothing to draw")
    figure = new_figure(11, 1.6 + 0.27 * len(bands), "plots")
    from matplotlib.colors import LogNorm

    used = max(max((i for i, n in enumerate(band.counts) if n), default=0) for band in bands) + 1
    counts = [[float(n) if n else float("nan") for n in band.counts[:used]] for band in bands]
    most = max(n for band in bands for n in band.counts)
    axes = figure.add_subplot()
    end = used * recording.bucket_ns / 1e9
    image = axes.imshow(counts, aspect="auto", interpolation="nearest", cmap="viridis_r", norm=LogNorm(1, max(most, 2)),
                        extent=(0, end, len(bands) - 0.5, -0.5))  # fmt: skip
    axes.set_facecolor("#f4f4f4")
    axes.set_yticks(range(len(bands)), [f"{_name(recording, band)}  [{band.reason.name}]" for band in bands])
    for label, band in zip(axes.get_yticklabels(), bands, strict=True):
        label.set_color(_COLOURS.get(band.reason, _OTHER))
        label.set_fontsize(8.5)
    for line in (i for i in range(1, len(bands)) if bands[i].reason is not bands[i - 1].reason):
        axes.axhline(line - 0.5, color="#333333", linewidth=0.8)
    axes.set_xlabel("seconds of the machine's clock")
    axes.set_title(
        f"{recording.total} exits: where and when ({recording.meta.get('engine', '?')})", fontsize=11
    )
    figure.colorbar(image, ax=axes, label=f"exits in {recording.bucket_ns / 1e6:.3g} ms", pad=0.01)
    return figure


def histogram(recording: Recording) -> Figure:
    """How many cycles of the host answering took, by reason.

    Raises
    ------
    PyvmmError
        matplotlib is missing, or nothing that was answered was recorded.
    """
    found = {reason: recording.costs(reason) for reason in recording.counts if any(recording.costs(reason))}
    if not found:
        raise PyvmmError("nothing that a device answered was recorded: there is nothing to draw")
    used = [n for costs in found.values() for n, count in enumerate(costs) if count]
    low, high = min(used), max(used)
    figure = new_figure(9, 4.5, "plots")
    axes = figure.add_subplot()
    width = 0.86 / len(found)
    for number, (reason, costs) in enumerate(sorted(found.items(), key=lambda row: -sum(row[1]))):
        places = [n + 0.07 + (number + 0.5) * width for n in range(low, high + 1)]
        axes.bar(
            places, costs[low : high + 1], width=width, color=_COLOURS.get(reason, _OTHER), label=reason.name
        )
    axes.set_yscale("log")
    axes.set_ylim(0.7)
    axes.set_xticks(range(low, high + 2), [f"$2^{{{n}}}$" for n in range(low, high + 2)])
    hz = recording.tsc_hz
    axes.set_xlabel("host TSC cycles to answer" + (f" ($2^{{10}}$ = {1024e6 / hz:.2g} µs)" if hz else ""))
    axes.set_ylabel("exits")
    axes.set_title("What answering an exit cost", fontsize=11)
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
