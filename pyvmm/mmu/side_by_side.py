"""A guest's page tables and their shadow, level by level, and why the shadow says less (or something else)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.svg import Svg

if TYPE_CHECKING:
    from pyvmm.mmu.walker import Step, Walk

_A, _D = 1 << 5, 1 << 6


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Two walks for one address; ``print()`` it, or end a notebook's cell with it.

    Attributes
    ----------
    guest
        Of the guest's tables.
    shadow
        Of the shadow's, or None when there is none for the guest's CR3 and ring.
    cpl
        The guest's (virtual) ring.
    traced
        Whether the page is write-protected, because it is a table or holds translated code.
    """

    guest: Walk
    shadow: Walk | None
    cpl: int
    traced: bool

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the shadow leaves out or changes, each with the reason."""
        guest, shadow = self.guest, self.shadow
        if shadow is None:
            return ("no shadow for this CR3 and ring yet: nothing has run there",)
        if guest.physical is None and shadow.physical is not None:
            return ("the guest maps nothing here: this is the monitor's own slot",)
        if guest.physical is None:
            return (f"the guest maps nothing here ({guest.why}), and so does the shadow",)
        last = guest.steps[-1]
        if shadow.physical is None:
            if not guest.access(self.cpl):
                return (f"ring {self.cpl} may not even read here: {guest.access(self.cpl).why}",)
            if not all(step.value & _A for step in guest.steps):
                return ("not in the shadow: an entry's A is clear, so the first access has to be seen",)
            return ("not in the shadow: no access has asked for it yet, or it was thrown away",)
        return tuple(self._of_rights(last, shadow))

    def _of_rights(self, last: Step, shadow: Walk) -> list[str]:
        remarks, ours = [], shadow.steps[-1]
        if not last.user:
            remarks.append(
                "U/S is set in the shadow: the guest's kernel runs in ring 3, this is its shadow only"
            )
        if ours.writable and not last.writable:
            remarks.append("writable in the shadow: CR0.WP is clear, ring 0 may write read-only pages")
        if not ours.writable and self.guest.access(self.cpl, write=True):
            if self.traced:
                remarks.append(
                    "not writable in the shadow: the page is traced, stores into it have to be seen"
                )
            elif not last.value & _D:
                remarks.append("not writable in the shadow: D is clear, so the first store has to be seen")
            else:
                remarks.append(
                    "not writable in the shadow yet: no store has asked for it since it was traced"
                )
        if last.executable and not ours.executable:
            remarks.append("XD is set in the shadow: CR4.SMEP, ring 0 runs no code of user pages")
        if shadow.page_size < self.guest.page_size:
            remarks.append("the guest's large page is in pieces: something in it is traced, or is not RAM")
        return remarks

    def __str__(self) -> str:
        guest, shadow = self.guest.steps, self.shadow.steps if self.shadow else ()
        rows = [f"{self.guest.address:#x}, ring {self.cpl}", f"{'':7}{'the guest tables':<46} the shadow"]
        for number in range(max(len(guest), len(shadow))):
            left, right = _entry(guest, number), _entry(shadow, number)
            rows.append(f"{_name(guest, shadow, number):<7}{left:<46} {right}".rstrip())
        rows.append(f"{'page':<7}{_end(self.guest):<46} {_end(self.shadow)}".rstrip())
        return "\n".join([*rows, *(f"  {remark}" for remark in self.remarks)])

    def svg(self) -> str:
        """A picture: the guest's tables above, the shadow's below, from CR3 to the page."""
        walks = [("the guest's tables", self.guest), ("the shadow", self.shadow)]
        depth = max(len(each.steps) for _, each in walks if each) + 1
        width, height = 190, 92
        picture = Svg(20 + width * depth, 18 + 2 * (height + 30) + 16 * len(self.remarks))
        picture.text(10, 18, f"{self.guest.address:#x}, ring {self.cpl}", bold=True)
        for row, (title, each) in enumerate(walks):
            y = 40 + row * (height + 30)
            picture.text(10, y, title, bold=True)
            boxes = [_box(step) for step in each.steps] if each else []
            boxes.append(["page" if each and each.physical is not None else "end", *_end_lines(each)])
            for number, lines in enumerate(boxes):
                x = 10 + width * number
                colour = (
                    "#deebf7" if number < len(boxes) - 1 else "#e5f5e0" if lines[0] == "page" else "#fee0d2"
                )
                picture.rectangle(x, y + 8, width - 30, height - 20, colour, border="#888")
                for line, text in enumerate(lines):
                    picture.text(x + 6, y + 24 + 15 * line, text, bold=line == 0)
                if number:
                    picture.arrow(x - 30, y + 40, x, y + 40)
        for number, remark in enumerate(self.remarks):
            picture.text(10, 26 + 2 * (height + 30) + 16 * number, remark)
        return str(picture)

    def _repr_html_(self) -> str:
        return self.svg()


def _name(guest: tuple[Step, ...], shadow: tuple[Step, ...], number: int) -> str:
    return (guest if number < len(guest) else shadow)[number].level


def _entry(steps: tuple[Step, ...], number: int) -> str:
    if number >= len(steps):
        return ""
    step = steps[number]
    return f"{step.address:#x} = {step.value:#x} {_rights(step)}"


def _end(walk: Walk | None) -> str:
    return " ".join(_end_lines(walk))


def _end_lines(walk: Walk | None) -> list[str]:
    if walk is None:
        return ["not there"]
    if walk.physical is None:
        return [walk.why]
    size = walk.page_size
    unit = f"{size >> 30} GiB" if size >> 30 else f"{size >> 20} MiB" if size >> 20 else f"{size >> 10} KiB"
    return [f"{walk.physical:#x}", f"({unit})"]


def _box(step: Step) -> list[str]:
    return [f"{step.level}[{step.index}]", f"at {step.address:#x}", f"{step.value:#x}", _rights(step)]


def _rights(step: Step) -> str:
    return step.rights.replace("supervisor", "kernel") if step.value & 1 else "not present"
