"""virtio memory balloon (csrc/virtio/virtio_balloon.c; virtio 1.2 §5.5)."""

from __future__ import annotations

from pyvmm.devices.virtio.base import VirtioDevice
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

    from pyvmm.board import Board
    from pyvmm.devices.virtio.base import Place

PAGE: Final = 4096
BALLOON: Final = {
    0: "MUST_TELL_HOST",
    1: "STATS_VQ",
    2: "DEFLATE_ON_OOM",
    3: "FREE_PAGE_HINT",
    4: "PAGE_POISON",
    5: "PAGE_REPORTING",
}
STATS: Final = (
    "swap_in",
    "swap_out",
    "major_faults",
    "minor_faults",
    "free_memory",
    "total_memory",
    "available_memory",
    "disk_caches",
    "hugetlb_allocations",
    "hugetlb_failures",
)
"""§5.5.6.4, tags 0 to 9: bytes, but for faults and huge pages, which are counts."""


class VirtioBalloon(VirtioDevice):
    """Memory that the guest lends to the host.

    Parameters
    ----------
    memory
        The guest's RAM in bytes: what `target` counts from.
    stats_interval
        Seconds between statistics, 0 to 86400; 0: only when they are asked for.
    deflate_on_oom, reporting
        Whether the guest may take pages back when it runs out of memory, and tells of pages that it does not use.

    Raises
    ------
    DeviceError
        A value out of range, or the place is taken.
    """

    feature_bits = BALLOON

    def __init__(
        self,
        board: Board,
        place: Place,
        memory: int,
        *,
        stats_interval: float = 0.0,
        deflate_on_oom: bool = True,
        reporting: bool = True,
    ) -> None:
        if not 0 <= stats_interval <= 86400:
            raise DeviceError(f"virtio-balloon: statistics every {stats_interval} seconds: 0 to 86400")
        error = new_error()
        options = ffi.new("VirtioBalloonOptions *")
        options.stats_interval_ns = int(stats_interval * 1e9)
        options.no_deflate_on_oom, options.no_reporting = not deflate_on_oom, not reporting
        pointer = lib.virtio_balloon_new(board.pointer, place.native(board), options, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), place)
        self.memory = memory

    def _status(self) -> Any:
        status = ffi.new("VirtioBalloonStatus *")
        lib.virtio_balloon_status(self.pointer, status)
        return status

    @property
    def target(self) -> int:
        """Bytes of RAM that the guest is to have; the rest goes into the balloon. Set it from any thread."""
        return int(self.memory - self._status().target_pages * PAGE)

    @target.setter
    def target(self, value: int) -> None:
        if not 0 <= value <= self.memory:
            raise DeviceError(f"balloon target {value}: 0 to {self.memory} bytes, the machine's memory")
        lib.virtio_balloon_set_target(self.pointer, (self.memory - value) // PAGE)

    @property
    def actual(self) -> int:
        """Bytes of RAM that the guest says it has now."""
        return max(0, int(self.memory - self._status().actual_pages * PAGE))

    @property
    def given_back(self) -> tuple[int, int]:
        """Bytes that the host got so far: by the balloon, and as reported free pages; the same pages count again."""
        status = self._status()
        return int(status.inflated), int(status.reported)

    @property
    def stats(self) -> dict[str, int]:
        """The guest's last statistics by name (`STATS`), and how many came before them; empty when none came."""
        status = self._status()
        if not status.stats_count:
            return {}
        known = int(status.stats_known)
        found = {name: int(status.stats[tag]) for tag, name in enumerate(STATS) if known >> tag & 1}
        return {**found, "count": int(status.stats_count)}

    def poll(self) -> None:
        """Ask for statistics; `stats` has them some time later, when its ``"count"`` has grown."""
        lib.virtio_balloon_poll(self.pointer)
