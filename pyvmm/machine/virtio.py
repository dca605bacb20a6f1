"""The virtio devices of a PC that are not disks: each on the first PCI device number that is free."""

from __future__ import annotations

from pyvmm.devices.pci import PciBus
from pyvmm.devices.virtio import PciPlace
from pyvmm.errors import ConfigError
from pyvmm.machine import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import IoThread
    from pyvmm.machine.pc import Pc


def next_place(pc: Pc, io: IoThread | None = None) -> PciPlace:
    """A place on PCI that no virtio device has.

    Raises
    ------
    ConfigError
        There is none left.
    """
    bus = pc.devices["pci"]
    assert isinstance(bus, PciBus)
    taken = {getattr(device, "slot", None) for device in pc.devices.values()}
    for slot in range(layout.PCI_FIRST_FREE_SLOT, 32):
        if slot not in taken:
            return PciPlace(bus, slot, io=io)
    raise ConfigError("PCI has no room for another virtio device; use fewer devices or disks")


def add_devices(pc: Pc) -> None:
    """What the configuration asks for, in a fixed order, so that a guest finds it where it was."""
    if pc.config.shares:
        add_shares(pc)
    if pc.config.rng is not None:
        add_rng(pc)
    if pc.config.vsock is not None:
        add_vsock(pc)


def add_shares(pc: Pc) -> None:
    """Folders of the host; each has an I/O thread, as a disk has.

    Raises
    ------
    ConfigError
        Two have the same tag.
    """
    from pyvmm.devices.virtio.share import Virtio9p

    tags = [share.tag for share in pc.config.shares]
    for index, share in enumerate(pc.config.shares):
        if share.tag in tags[:index]:
            raise ConfigError(f"--share: the tag {share.tag!r} is there twice; choose another one")
        place = next_place(pc, pc.board.worker(f"9p-{index}"))
        device = Virtio9p(
            pc.board,
            place,
            share.path,
            share.tag,
            security=share.security,
            read_only=share.read_only,
        )
        pc.add(f"share{index}", device)


def add_rng(pc: Pc) -> None:
    """The entropy device; on a virtual clock its bytes repeat with the run."""
    from pyvmm.devices.virtio import VirtioRng

    config = pc.config.rng
    assert config is not None
    seed = 0 if config.seed is None and pc.config.clock == "virtual" else config.seed
    pc.add("rng", VirtioRng(pc.board, next_place(pc), bytes_per_second=config.bytes_per_second, seed=seed))


def add_vsock(pc: Pc) -> None:
    """Sockets to the guest, on an I/O thread of their own.

    Raises
    ------
    ConfigError
        The clock is virtual: programs of the host do not follow it.
    """
    from pyvmm.devices.virtio.vsock import VirtioVsock

    config = pc.config.vsock
    assert config is not None
    if pc.config.clock == "virtual":
        raise ConfigError("--vsock: the host's programs do not follow a virtual clock; use --clock realtime")
    place = next_place(pc, pc.board.worker("vsock"))
    pc.add("vsock", VirtioVsock(pc.board, place, config.path, config.cid))
