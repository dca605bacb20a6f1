"""What a kernel complains of in its log, in a form in which two machines can be compared.

A complaint is a line of the kernel's own at level warning or worse (dmesg(1) --raw: ``<facility * 8 + level>``), or one
that says of itself that it is one. Numbers are taken out: addresses, sizes, times and versions differ with no harm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

KERN_WARNING = 4

_LINE = re.compile(r"<(?P<priority>\d+)>\[ *\d+\.\d+\] (?P<text>.*)")
_SAYS_SO = re.compile(
    r"BUG\b|WARNING:|Oops|Call Trace|[Pp]anic"
    r"|(?i:firmware bug|firmware warn|unchecked MSR|marking .* unstable|ACPI (BIOS )?(error|warning|exception)"
    r"|stuck|timed out|spurious|nobody cared)"
)
# Complaints of a host that is busy: they come and go on either machine.
_OF_A_BUSY_HOST = re.compile(
    r"hrtimer: interrupt took|perf: interrupt took too long|clocksource:.*(readout|wd-.*-wd)|sched: RT throttling"
    r"|timekeeping watchdog|workqueue: .* hogged CPU"
)
_NUMBERS = (
    (re.compile(r"\b0x[0-9a-f]+|\b[0-9a-f]{8,}\b", re.IGNORECASE), "X"),
    (re.compile(r"\d+(\.\d+)*"), "N"),
)


@dataclass(frozen=True)
class Complaint:
    """A line of the log."""

    level: int
    text: str

    @property
    def kind(self) -> str:
        """The text without its numbers."""
        text = self.text
        for pattern, replacement in _NUMBERS:
            text = pattern.sub(replacement, text)
        return text.strip()


def complaints(log: str) -> list[Complaint]:
    """Return the complaints in what ``dmesg -r`` printed.

    Raises
    ------
    ValueError
        It is no such log: not one line of it has a priority and a time.
    """
    found, lines = [], 0
    for match in map(_LINE.match, log.splitlines()):
        if match is None:
            continue
        lines += 1
        priority, text = int(match["priority"]), match["text"]
        of_kernel = priority >> 3 == 0
        bad = priority & 7 <= KERN_WARNING or _SAYS_SO.search(text)
        if of_kernel and bad and not _OF_A_BUSY_HOST.search(text):
            found.append(Complaint(priority & 7, text))
    if not lines:
        raise ValueError("no lines of dmesg -r")
    return found


def not_said_by(peer: str, log: str) -> list[str]:
    """Return what `log` complains of and `peer` does not, in order, each kind once."""
    known = {complaint.kind for complaint in complaints(peer)}
    return list({c.kind: c.text for c in complaints(log) if c.kind not in known}.values())
