"""Exits recorded and explained: ``pyvmm trace`` as a library (docs/tracing.md).

>>> for exit in machine.exits():                                     # doctest: +SKIP
...     print(explain(exit, machine))
>>> with Recorder(machine) as recorder:                              # doctest: +SKIP
...     machine.run()
...     recording = recorder.recording()
>>> print(recording); recording.save("boot.trace"); load("boot.trace").heat_map()    # doctest: +SKIP
"""

from __future__ import annotations

from pyvmm.trace.explain import Exit, Explanation, explain
from pyvmm.trace.recorder import Recorder
from pyvmm.trace.recording import Band, Event, Recording, Site, Total, load
from pyvmm.trace.symbols import Symbols

__all__ = [
    "Band",
    "Event",
    "Exit",
    "Explanation",
    "Recorder",
    "Recording",
    "Site",
    "Symbols",
    "Total",
    "explain",
    "load",
]
