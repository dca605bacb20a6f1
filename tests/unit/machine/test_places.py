"""Places of drives, and SeaBIOS's names for them."""

from __future__ import annotations

import pytest

from pyvmm.config import DiskConfig
from pyvmm.errors import ConfigError
from pyvmm.machine.places import boot_paths, boot_rank, ide_places, virtio_slots


def disk(interface: str, place: int | None = None, boot_index: int | None = None) -> DiskConfig:
    return DiskConfig("x", interface, place=place, boot_index=boot_index)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("interfaces", "places"),
    [
        ([disk("ide"), disk("ide")], {0: 0, 1: 1}),
        ([disk("ide"), disk("cdrom"), disk("ide")], {0: 0, 1: 2, 2: 1}),
        ([disk("cdrom"), disk("ide", 2)], {2: 1, 3: 0}),
        ([disk("ide"), disk("ide", 0), disk("virtio")], {0: 1, 1: 0}),
        ([disk("cdrom")] * 4, {2: 0, 3: 1, 1: 2, 0: 3}),
        ([disk("floppy"), disk("virtio")], {}),
    ],
)
def test_ide(interfaces: list[DiskConfig], places: dict[int, int]) -> None:
    assert ide_places(interfaces) == places


@pytest.mark.parametrize("disks", [[disk("ide")] * 5, [disk("ide", 1), disk("cdrom", 1)], [disk("ide", 4)]])
def test_no_room_on_ide(disks: list[DiskConfig]) -> None:
    with pytest.raises(ConfigError, match="the IDE controller has"):
        ide_places(disks)


def test_virtio() -> None:
    assert virtio_slots([disk("virtio"), disk("ide"), disk("virtio", 3), disk("virtio")]) == [4, 3, 5]
    assert virtio_slots([disk("virtio")] * 29) == list(range(3, 32))


@pytest.mark.parametrize(
    "disks", [[disk("virtio")] * 30, [disk("virtio", 4)] * 2, [disk("virtio", 2)], [disk("virtio", 32)]]
)
def test_no_room_on_pci(disks: list[DiskConfig]) -> None:
    with pytest.raises(ConfigError, match="virtio disk"):
        virtio_slots(disks)


def test_boot_order() -> None:
    disks = [disk("ide"), disk("virtio", 4, 3), disk("cdrom", None, 1), disk("floppy", None, 2)]
    assert boot_paths(disks) == [
        "/pci@i0cf8/ide@1,1/drive@1/disk@0",
        "/pci@i0cf8/isa@1/fdc@03f0/floppy@0",
        "/pci@i0cf8/scsi@4/disk@0,0",
    ]
    assert [d.interface for d in sorted(disks, key=boot_rank)] == ["cdrom", "floppy", "virtio", "ide"]
