"""Where drives are on their buses, and in which order firmware tries them.

Without a place of its own a virtio disk takes the first free PCI device number, a CD the first free IDE drive of the
second channel, a disk one of the first.
"""

from __future__ import annotations

import os

from pyvmm.errors import ConfigError
from pyvmm.machine import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import DiskConfig

_IDE_ORDER = {"cdrom": (2, 3, 1, 0), "ide": (0, 1, 2, 3)}


def virtio_slots(disks: list[DiskConfig]) -> list[int]:
    """The PCI device number of each virtio disk.

    Raises
    ------
    ConfigError
        It is taken, or there is none left.
    """
    places = [disk.place for disk in disks if disk.interface == "virtio"]
    wanted = [place for place in places if place is not None]
    for place in wanted:
        if not layout.PCI_FIRST_FREE_SLOT <= place < 32 or wanted.count(place) > 1:
            raise ConfigError(
                f"a virtio disk cannot be PCI device {place:#x}: it is taken, or not"
                f" {layout.PCI_FIRST_FREE_SLOT:#x} to 0x1f; choose another one"
            )
    free = [slot for slot in range(layout.PCI_FIRST_FREE_SLOT, 32) if slot not in wanted]
    if len(places) > len(free) + len(wanted):
        raise ConfigError(
            f"{len(places)} virtio disks: PCI has room for {len(free) + len(wanted)}; use fewer"
        )
    return [free.pop(0) if place is None else place for place in places]


def ide_places(disks: list[DiskConfig]) -> dict[int, int]:
    """Which disk (its index) is at which of the IDE controller's places, 2 * channel + device.

    Raises
    ------
    ConfigError
        A place is taken, or there is none left.
    """
    found: dict[int, int] = {}
    on_ide = [index for index, disk in enumerate(disks) if disk.interface in _IDE_ORDER]
    # Those that say where they are, then CDs, then disks.
    on_ide.sort(key=lambda index: (disks[index].place is None, disks[index].interface == "ide"))
    for index in on_ide:
        disk = disks[index]
        order = _IDE_ORDER[disk.interface]
        places = order if disk.place is None else [place for place in order if place == disk.place]
        place = next((place for place in places if place not in found), None)
        if place is None:
            why = "has four drives already" if disk.place is None else f"has no free place {disk.place}"
            raise ConfigError(f"{os.fspath(disk.path)}: the IDE controller {why}; use virtio for this one")
        found[place] = index
    return found


def boot_rank(disk: DiskConfig) -> tuple[bool, int]:
    """To sort disks by: those with a boot index first."""
    return disk.boot_index is None, disk.boot_index or 0


def boot_paths(disks: list[DiskConfig]) -> list[str]:
    """SeaBIOS's names of the drives that have a boot index, in its order."""
    from pyvmm.firmware import seabios

    slots = virtio_slots(disks)
    places = {index: place for place, index in ide_places(disks).items()}
    found: list[tuple[int, str]] = []
    for index, disk in enumerate(disks):
        slot = slots.pop(0) if disk.interface == "virtio" else None
        if disk.boot_index is None:
            continue
        path = seabios.FLOPPY_PATH
        if slot is not None:
            path = seabios.virtio_path(slot)
        elif index in places:
            path = seabios.ide_path(layout.PCI_ISA_BRIDGE, layout.PCI_IDE_FUNCTION, places[index])
        found.append((disk.boot_index, path))
    return [path for _, path in sorted(found)]
