"""What a QEMU command line adds up to, while its options are read."""

from __future__ import annotations

from pyvmm.config import DiskConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.cli.qemu.network import Netdev
    from pyvmm.config import BalloonConfig, NetworkConfig, RngConfig, ShareConfig, StrPath
    from pyvmm.cpu.topology import Topology


class Drive:
    """One ``-drive``: an image, and what it hangs on.

    Attributes
    ----------
    written
        The option, for messages.
    disk
        The image. Its interface and place are set when it is connected.
    kind
        ``"ide"``, ``"virtio"``, ``"floppy"`` or ``"none"``.
    id
        Its name, for ``-device``.
    cdrom
        The medium.
    place
        On its bus: 0 to 3 of the IDE controller; None: the first that is free.
    connected
        Whether a device of the machine has it.
    """

    __slots__ = ("cdrom", "connected", "disk", "id", "kind", "place", "written")

    def __init__(self, written: str, disk: DiskConfig, kind: str, id: str = "", cdrom: bool = False) -> None:
        self.written = written
        self.disk = disk
        self.kind = kind
        self.id = id
        self.cdrom = cdrom
        self.place: int | None = None
        self.connected = False


class Plan:
    """Everything that the options said. The attributes are those of `MachineConfig` where it has them."""

    def __init__(self) -> None:
        self.name = ""
        self.process = ""
        self.machine = "pc"
        self.prefer_sockets = False
        self.accelerators: list[str] = []
        self.machine_accelerators: list[str] = []
        self.irqchip = ""
        self.processor = ""
        self.memory = 128 << 20
        self.topology: Topology | None = None
        self.rtc_base = "utc"
        self.drives: list[Drive] = []
        self.netdevs: dict[str, Netdev] = {}
        self.networks: list[NetworkConfig] = []
        self.devices: list[tuple[str, dict[str, str]]] = []
        self.shares: list[ShareConfig] = []
        self.fsdevs: dict[str, ShareConfig] = {}
        self.share_devices: list[tuple[str, str]] = []
        self.boot_order = ""
        self.boot_once = ""
        self.boot_menu: bool | None = None
        self.boot_strict = False
        self.kernel: StrPath | None = None
        self.initrd: StrPath | None = None
        self.append: str | None = None
        self.firmware: StrPath = "pyvmm"
        self.pflash: StrPath | None = None
        self.uuid: str | None = None
        self.serials: list[str] = []
        self.monitor: str | None = None
        self.display = ""
        self.vnc: str | None = None
        self.vga = ""
        self.chardevs: dict[str, str] = {}
        self.console_ports: list[tuple[str, dict[str, str]]] = []
        self.inputs: list[str] = []
        self.balloon: BalloonConfig | None = None
        self.rng: RngConfig | None = None
        self.keyboard = "us"
        self.no_defaults = False
        self.no_hpet = False
        self.no_reboot = False
        self.no_shutdown = False
        self.paused = False
        self.snapshot = False
        self.debug_console = False
        self.notes: list[str] = []
        """What the user should know before the machine runs, one line each."""
