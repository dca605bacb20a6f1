"""Records a machine's exits while it runs (csrc/engine/exit_trace.h)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pyvmm.errors import EngineError, PyvmmError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.trace.recording import BAND, EVENT, SITE, SUMMARY, Recording, VcpuTrace, addresses
from pyvmm.trace.symbols import Symbols

if TYPE_CHECKING:
    from pyvmm.machine.events import MachineEvent
    from pyvmm.machine.machine import Machine

# What the recorded file and `Recording` read is what C writes.
assert [ffi.sizeof(name) for name in ("ExitTraceSummary", "ExitSite", "ExitEvent", "ExitBand")] == [
    row.size for row in (SUMMARY, SITE, EVENT, BAND)
]


class Recorder:
    """From its making until `stop`, every exit of a machine's vCPUs is counted, and the newest are kept.

    Parameters
    ----------
    machine
        Not running at the moment. It may be run, stopped, reset and moved to another engine meanwhile.
    events
        Newest exits of each vCPU to keep one by one, 1 to 16777216; 40 bytes each.
    sites
        Sites of each vCPU to count apart, 64 to 1048576; 72 bytes each. Exits of further ones are merged.

    Raises
    ------
    EngineError
        The machine runs, or is being recorded already.
    PyvmmError
        A number is out of range.
    """

    def __init__(self, machine: Machine, *, events: int = 1 << 16, sites: int = 1 << 17) -> None:
        self.machine = machine
        self.symbols: Symbols | None = None
        """Names for `recording`; None: those of the guest's memory, looked up when they are wanted."""
        self._began = time.monotonic()
        self._cpu = time.process_time()
        self._frozen: Recording | None = None
        self._traces: list[Any] = []
        if any(vcpu.trace is not None for vcpu in machine.vcpus):
            raise EngineError("this machine is being recorded already: stop the other Recorder first")
        for _ in machine.vcpus:
            error = new_error()
            pointer = lib.exit_trace_new(machine.clock.pointer, events, sites, error)
            self._traces.append(ffi.gc(check_pointer(pointer, error), lib.exit_trace_free))
        self._attached = False
        for vcpu, trace in zip(machine.vcpus, self._traces, strict=True):
            vcpu.trace = trace
        self._attached = True
        machine.events.listen(self._machine_event)

    def stop(self) -> Recording:
        """Record no more; what was recorded stays, also when the machine is closed.

        Raises
        ------
        EngineError
            The machine is running.
        """
        if self._frozen is None:
            self._detach()
            self._frozen = self._take()
        return self._frozen

    def recording(self) -> Recording:
        """What was recorded so far, from any thread, while the machine runs, too."""
        return self._frozen or self._take()

    def counts(self) -> list[tuple[int, ...]]:
        """The summaries alone (`VcpuTrace.summary`): cheaper than `recording`."""
        if self._frozen is not None:
            return [part.summary for part in self._frozen.parts]
        return [_summary(trace) for trace in self._traces]

    def find_symbols(self) -> Symbols | None:
        """Have the symbols of the Linux that the guest runs, when it runs one by now."""
        if self.symbols is None and self._frozen is None:
            self.symbols = Symbols.from_memory(self.machine.memory)
        return self.symbols

    def _take(self) -> Recording:
        parts = []
        for index, trace in enumerate(self._traces):
            summary = _summary(trace)
            rows = [
                _rows(function, trace, name)
                for function, name in (
                    (lib.exit_trace_sites, "ExitSite"),
                    (lib.exit_trace_events, "ExitEvent"),
                    (lib.exit_trace_bands, "ExitBand"),
                )
            ]
            parts.append(VcpuTrace(index, summary, *rows))
        return Recording(parts, self._meta(parts))

    def _meta(self, parts: list[VcpuTrace]) -> dict[str, Any]:
        machine, symbols = self.machine, self.symbols
        found = {}
        if symbols is not None:
            wanted = addresses(part.sites for part in parts) | addresses(())
            found = {f"{rip:x}": name for rip in sorted(wanted) if (name := symbols.name(rip))}
        return {
            "machine": machine.config.name,
            "engine": machine.engine_name,
            "cpu_seconds": time.process_time() - self._cpu,
            "wall_seconds": time.monotonic() - self._began,
            "symbols": found,
            "symbol_source": "" if symbols is None else f"{len(symbols)} symbols of {symbols.source}",
            "pio": [[row.base, row.size, row.name] for row in machine.pio.ranges],
            "mmio": [[row.base, row.size, row.name] for row in machine.mmio.ranges],
        }

    def _detach(self) -> None:
        if self._attached:
            for vcpu in self.machine.vcpus:
                vcpu.trace = None
            self._attached = False

    def _machine_event(self, event: MachineEvent) -> None:
        if event.kind == "closed" and self._frozen is None:
            self.stop()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.stop()
        except PyvmmError:
            if error[0] is None:
                raise


def _summary(trace: Any) -> tuple[int, ...]:
    record = ffi.new("ExitTraceSummary *")
    lib.exit_trace_summary(trace, record)
    return SUMMARY.unpack(bytes(ffi.buffer(record)))


def _rows(function: Any, trace: Any, name: str) -> bytes:
    """All rows; asked again when some came in between."""
    capacity = int(function(trace, ffi.NULL, 0))
    while True:
        capacity += 64
        table = ffi.new(f"{name}[]", capacity)
        count = int(function(trace, table, capacity))
        if count <= capacity:
            return bytes(ffi.buffer(table, count * ffi.sizeof(name)))
        capacity = count
