"""A look at a virtqueue as it lies in guest memory: tables and a picture of its rings (virtio 1.2 §2.7, §2.8).

``print(machine.virtio[0].queues[0])``, or the same in a notebook's cell. What is shown is a copy, taken with the
device's lock held: nothing that driver or device go by is touched, and the machine may run meanwhile. Left out: which
taken chains the device still has, where it does not use them in order: the rings do not say.
"""

from __future__ import annotations

from pyvmm.devices.virtio import show
from pyvmm.errors import DeviceError
from pyvmm.native import ffi, lib
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Literal, TypeAlias

    from pyvmm.devices.virtio.base import VirtioDevice
    from pyvmm.svg import Svg

    State: TypeAlias = Literal["waiting", "taken", "used", ""]

NEXT, WRITE, INDIRECT = 1, 2, 4
PACKED_AVAIL, PACKED_USED = 1 << 7, 1 << 15
SHOWN: Final = 8
"""Ring entries before the newest that are shown, unless all are asked for."""


@record(frozen=True, slots=True)
class Descriptor:
    """One descriptor: a buffer of the guest's, or (`indirect`) a table of them.

    `index` is its place in its table; `next` that of the chain's next one, or None. In a packed ring `id` is the buffer
    ID, and `state` what the flags make of it; in a split one they are None and "".
    """

    index: int
    address: int
    length: int
    flags: int
    next: int | None
    id: int | None = None
    state: State = ""
    table: tuple[Descriptor, ...] = ()

    @property
    def flag_names(self) -> str:
        """Like ``"NEXT WRITE"``."""
        names = {NEXT: "NEXT", WRITE: "WRITE", INDIRECT: "INDIRECT"}
        if self.id is not None:
            names |= {PACKED_AVAIL: "AVAIL", PACKED_USED: "USED"}
        return " ".join(name for bit, name in names.items() if self.flags & bit)


@record(frozen=True, slots=True)
class RingEntry:
    """One entry of the available or the used ring.

    `position` counts on from the queue's start, modulo 2^16; `head` is the chain's first descriptor. `written` is what
    the device wrote into the chain, in bytes, of a used one.
    """

    position: int
    head: int
    state: State
    written: int | None = None


class QueueView:
    """A copy of one queue.

    Attributes
    ----------
    name, size, max_size
        Which queue of which device; its number of descriptors; how many there could be.
    enabled, packed, event_idx, indirect, in_order
        As the driver set it up.
    addresses
        Guest physical addresses of descriptor area, driver area and device area.
    last_avail, next_used
        The device's own positions; of a packed ring places in it, with `avail_wrap` and `used_wrap`.
    avail_index, used_index
        Of a split ring: where the driver's next entry goes, and the device's (both modulo 2^16).
    used_event, avail_event
        Positions that the other side wants to be told of; None without event index (packed: flags, offset).
    """

    def __init__(self, device: VirtioDevice, index: int) -> None:
        native = ffi.new("VirtioQueueView *")
        if lib.virtio_queue_view(device.pointer, index, native) < 0:
            raise DeviceError(f"{device.name} has no queue {index}")
        self._device, self._native = device, native
        self.name = f"{device.name} queue {index}"
        self.size = int(native.size)
        self.max_size = int(native.max_size)
        self.enabled, self.packed = bool(native.enabled), bool(native.packed)
        self.event_idx, self.indirect = bool(native.event_idx), bool(native.indirect)
        self.in_order = bool(native.in_order)
        self.addresses = int(native.desc_gpa), int(native.driver_gpa), int(native.device_gpa)
        self.last_avail, self.next_used = int(native.last_avail), int(native.next_used)
        self.avail_wrap, self.used_wrap = bool(native.avail_wrap), bool(native.used_wrap)
        self.avail_index, self.used_index = int(native.driver_index), int(native.device_index)
        has_events = self.event_idx and not self.packed
        self.used_event = int(native.driver_event) if has_events else None
        self.avail_event = int(native.device_event) if has_events else None
        self.descriptors = tuple(self._descriptor(n) for n in range(self.size)) if self.enabled else ()

    # What is there ---------------------------------------------------------------------------------------------------

    def _descriptor(self, index: int) -> Descriptor:
        if self.packed:
            raw = self._native.packed_desc[index]
            flags, state = int(raw.flags), self._packed_state(index, int(raw.flags))
            following = (index + 1) % self.size if flags & NEXT and state != "used" else None
            return Descriptor(
                index,
                int(raw.addr),
                int(raw.len),
                flags,
                following,
                int(raw.id),
                state,
                self._table(raw) if state == "waiting" else (),
            )
        raw = self._native.desc[index]
        following = int(raw.next) if raw.flags & NEXT else None
        return Descriptor(
            index, int(raw.addr), int(raw.len), int(raw.flags), following, table=self._table(raw)
        )

    def _table(self, raw: Any) -> tuple[Descriptor, ...]:
        """The indirect table of a descriptor, where there is one in RAM."""
        count = int(raw.len) // 16
        if not raw.flags & INDIRECT or not 0 < count <= 1024:
            return ()
        table = ffi.new("VirtqDesc[]", count)
        if lib.virtio_queue_table(self._device.pointer, raw.addr, count, table) < 0:
            return ()
        if self.packed:  # §2.8.7: in order, and the flags but WRITE mean nothing
            items = ffi.cast("VirtqPackedDesc *", table)
            return tuple(
                Descriptor(n, int(items[n].addr), int(items[n].len), int(items[n].flags) & WRITE, None)
                for n in range(count)
            )
        return tuple(
            Descriptor(
                n,
                int(item.addr),
                int(item.len),
                int(item.flags),
                int(item.next) if item.flags & NEXT else None,
            )
            for n, item in enumerate(table)
        )

    def _packed_state(self, index: int, flags: int) -> State:
        """§2.8.1: available when AVAIL is the driver's wrap counter and USED is not; used when they are the same."""
        avail, used = bool(flags & PACKED_AVAIL), bool(flags & PACKED_USED)
        if avail == used:
            return "used" if flags & (PACKED_AVAIL | PACKED_USED) or not self.used_wrap else ""
        wrap = self.avail_wrap if index >= self.last_avail else not self.avail_wrap
        return "waiting" if avail == wrap else "taken"

    def avail(self, *, every: bool = False) -> tuple[RingEntry, ...]:
        """The available ring's entries, oldest first: some (or all) that were taken, those that wait. Packed: ()."""
        if not self.enabled or self.packed:
            return ()
        waiting = min((self.avail_index - self.last_avail) & 0xFFFF, self.size)
        before = self.size - waiting if every else min(SHOWN, self.size - waiting)
        before = min(before, self.last_avail) if self.last_avail < self.size else before
        return tuple(
            RingEntry(
                position & 0xFFFF,
                int(self._native.avail[position % self.size]),
                "waiting" if n >= before else "taken",
            )
            for n, position in enumerate(range(self.last_avail - before, self.last_avail + waiting))
        )

    def used(self, *, every: bool = False) -> tuple[RingEntry, ...]:
        """The used ring's last entries, oldest first; () of a packed ring."""
        if not self.enabled or self.packed:
            return ()
        count = self.size if every else min(SHOWN, self.size)
        count = min(count, self.used_index) if self.used_index < self.size else count
        entries = []
        for position in range(self.used_index - count, self.used_index):
            raw = self._native.used[position % self.size]
            entries.append(RingEntry(position & 0xFFFF, int(raw.id), "used", int(raw.len)))
        return tuple(entries)

    @property
    def waiting(self) -> int:
        """Chains (of a packed ring: descriptors) that the device has not taken."""
        if not self.enabled:
            return 0
        if self.packed:
            return sum(descriptor.state == "waiting" for descriptor in self.descriptors)
        return min((self.avail_index - self.last_avail) & 0xFFFF, self.size)

    @property
    def in_device(self) -> int:
        """Chains (of a packed ring: descriptors) that the device has taken and not given back."""
        if not self.enabled:
            return 0
        if self.packed:
            return sum(descriptor.state == "taken" for descriptor in self.descriptors)
        return (self.last_avail - self.used_index) & 0xFFFF

    def chain(self, head: int) -> tuple[Descriptor, ...]:
        """The chain that begins at a descriptor, as far as it is well-formed: at most `size` of them."""
        found: list[Descriptor] = []
        at: int | None = head
        while at is not None and at < len(self.descriptors) and len(found) < self.size:
            found.append(self.descriptors[at])
            at = found[-1].next
        return tuple(found)

    # Showing it ------------------------------------------------------------------------------------------------------

    def table(self, *, every: bool = False) -> str:
        """Text of all tables; `every`: the whole rings, not only what is new in them."""
        return show.text(self, every=every)

    def svg(self) -> Svg:
        """The rings as rings, clockwise from the top: outside the available one, inside the used one; of a packed ring
        the one that there is. Chains that wait stand beside it."""
        return show.svg(self)

    def __str__(self) -> str:
        return show.text(self)

    def __rich__(self) -> Any:
        return show.rich(self)

    def _repr_html_(self) -> str:
        return show.html(self)

    def __repr__(self) -> str:
        return f"<QueueView {show.summary(self).splitlines()[0]}>"


class Queue:
    """One queue of a device; each look at it is a new copy (`view`)."""

    def __init__(self, device: VirtioDevice, index: int) -> None:
        self._device, self.index = device, index

    def view(self) -> QueueView:
        """The queue as it is now."""
        return QueueView(self._device, self.index)

    def table(self, *, every: bool = False) -> str:
        """As `QueueView.table`, now."""
        return self.view().table(every=every)

    def svg(self) -> Svg:
        """As `QueueView.svg`, now."""
        return self.view().svg()

    def __str__(self) -> str:
        return self.table()

    def __rich__(self) -> Any:
        return self.view().__rich__()

    def _repr_html_(self) -> str:
        return self.view()._repr_html_()

    def __repr__(self) -> str:
        return f"<Queue {self.index} of {self._device.name}>"
