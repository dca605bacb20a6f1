"""What a machine is made of, as plain data: the input of `pyvmm.machine.pc.build` and of the command line."""

from __future__ import annotations

from pyvmm.record import field, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Literal

    from pyvmm.cpu.topology import Topology
    from pyvmm.net.backend import NetBackend

    CacheMode = Literal["writeback", "none", "writethrough", "unsafe"]
    DiskInterface = Literal["virtio", "ide", "cdrom", "floppy"]
    OnDiskError = Literal["report", "stop", "enospc"]
    Irqchip = Literal["auto", "user", "split", "kernel"]
    ShareSecurity = Literal["none", "mapped"]
    StrPath = str | os.PathLike[str]


@record(slots=True)
class DiskConfig:
    """One drive. `format` None: qcow2 is recognised, anything else is taken for raw with a warning.

    `interface`: ``"virtio"`` or ``"ide"`` is a hard disk, ``"cdrom"`` a disc in an ATAPI drive, ``"floppy"`` the BIOS's
    alone. The IDE controller has room for four drives.
    """

    path: StrPath
    interface: DiskInterface = "virtio"
    format: Literal["raw", "qcow2"] | None = None
    cache: CacheMode = "writeback"
    read_only: bool = False
    snapshot: bool = False
    """Writes are thrown away when the machine ends."""
    place: int | None = None
    """Of a virtio disk its PCI device number, 3 to 31; of an IDE drive 2 * channel + device. None: the first free."""
    boot_index: int | None = None
    """Drives of the same kind are tried in this order, then those without one, as configured."""
    features: dict[str, bool] | None = None
    """Of a virtio disk's ring: see `PciPlace`."""
    serial: str = ""
    """Of a virtio disk: what the guest reads as its serial number, at most 20 ASCII characters."""
    queues: int = 1
    """Of a virtio disk: 1 to 64."""
    threads: int = 1
    """Of a virtio disk: I/O threads that share its queues, at most one for each."""
    read_error: OnDiskError = "report"
    write_error: OnDiskError = "report"
    """Of a virtio disk, what a failure of the host is (a write: also flush, discard and write-zeroes). ``"report"``: an
    error to the guest. ``"stop"``: the run ends with ``"io-error"``, and the next one tries again. ``"enospc"``: a full
    host disk stops, all else is reported."""


@record(slots=True)
class ShareConfig:
    """A folder of the host that the guest mounts by 9P: ``mount -t 9p -o trans=virtio,version=9p2000.L TAG /mnt``.

    `tag` is 1 to 31 bytes. `security` ``"none"``: owners and modes are the host's own, as far as this process may set
    them; ``"mapped"``: they are kept in extended attributes, as QEMU's mapped-xattr has them.
    """

    path: StrPath
    tag: str
    read_only: bool = False
    security: ShareSecurity = "none"


@record(slots=True)
class PortConfig:
    """A named port of characters between guest and host (virtio-console): Linux's ``/dev/virtio-ports/NAME``.

    `name` is 1 to 63 bytes. `to`: ``"buffer"`` for ``machine.ports[name]`` in Python, ``"null"``, ``"file:PATH"``,
    or ``"unix:PATH"``, where a client may connect.
    """

    name: str
    to: str = "buffer"


@record(slots=True)
class BalloonConfig:
    """A memory balloon, seen as ``machine.balloon``.

    `target`: bytes that the guest is to have, None for all. `stats_interval`: seconds between its statistics; 0: only
    when they are asked for. `reporting`: it tells of pages that it does not use.
    """

    target: int | None = None
    stats_interval: float = 0.0
    reporting: bool = True


@record(slots=True)
class RngConfig:
    """A source of random numbers for the guest (virtio-rng).

    `bytes_per_second`: the most that the guest gets; 0 for no limit. `seed`: a fixed stream instead of the host's
    entropy, 0 to 2**64 - 1, so that a run repeats; None is 0 on a virtual clock, and the host's entropy otherwise.
    """

    bytes_per_second: int = 0
    seed: int | None = None


@record(slots=True)
class VsockConfig:
    """Stream sockets between host and guest, seen as ``machine.vsock``.

    `path` is of a Unix socket: programs connect to it and send ``CONNECT PORT``; those that the guest reaches at port N
    listen on ``PATH_N``. `cid` is the guest's address, 3 to 4294967294.
    """

    path: StrPath
    cid: int = 3


@record(slots=True)
class NetworkConfig:
    """One network card, and what its cable goes to.

    Attributes
    ----------
    backend
        `pyvmm.net.User`, `Tap`, `Socket`, an end of a `Link`, or a class of your own.
    model
        ``"virtio"``, or ``"e1000"`` (Intel 82540EM) for guests without virtio drivers.
    mac
        ``"52:54:00:12:34:56"``. None: that, and the following for further cards, behind a `User`, which is alone on its
        network; a random one of the same vendor elsewhere.
    capture
        A pcap file for all frames.
    snaplen
        Bytes of each frame that are kept in it; 0: all.
    mtu
        Told to a virtio driver, 68 to 65535; 0: not told.
    place
        PCI device number, 3 to 31; None: the first that is free.
    features
        Of a virtio card's rings: see `PciPlace`.
    """

    backend: NetBackend
    model: str = "virtio"
    mac: str | None = None
    capture: StrPath | None = None
    snaplen: int = 0
    mtu: int = 0
    place: int | None = None
    features: dict[str, bool] | None = None


@record(slots=True)
class MachineConfig:
    """A machine.

    Attributes
    ----------
    machine
        ``"pc"``, or ``"microvm"``: without PCI, display, keyboard and BIOS; virtio devices are memory-mapped, and a
        kernel is started directly.
    memory
        RAM in bytes, a multiple of 4096; 1 MiB to 256 GiB.
    cpus
        vCPUs, 1 to 255; the translator has one.
    topology
        How they are arranged, `cpus` in all; None: one package, `cpus` cores of one thread.
    engine
        ``"auto"``, ``"translator"`` or ``"kvm"``.
    irqchip
        Who has the interrupt controllers under KVM: ``"user"`` is pyvmm, for one vCPU; ``"kernel"`` is KVM;
        ``"split"`` is KVM for the local APICs and pyvmm for 8259s and I/O APIC. ``"auto"`` is user for one vCPU, whose
        state then moves freely between engines, and kernel for more.
    cpu
        ``"engine"``: the guest sees the engine's own processor. ``"common"``: both engines are made, and the guest sees
        what they have in common, so that `Machine.switch_engine` works both ways.
    hand_over
        Instructions that KVM refuses to emulate are executed by the translator, one by one: ``"on"``, ``"off"``, or
        ``"auto"``, where KVM interprets ring 0.
    clock
        ``"realtime"`` follows the host; ``"virtual"`` follows the guest's progress, so that a run repeats.
    disks
        Drives in order; the first hard disk is BIOS drive 0x80.
    boot_order
        What the BIOS tries, in order: ``c`` hard disk, ``d`` CD, ``a`` floppy.
    boot_once
        The same for the first start only; empty: `boot_order`.
    boot_menu
        Whether SeaBIOS offers its boot menu; the built-in BIOS has none.
    kernel, initrd, append
        A kernel to load directly: bzImage, PVH ELF or multiboot.
    firmware
        ``"pyvmm"`` for the built-in BIOS, ``"seabios"`` or ``"ovmf"`` for the host's, or a path to a ROM image (a
        multiple of 64 KiB, ends at 4 GiB).
    pflash
        With UEFI firmware: a file with its variables (a copy of OVMF_VARS.fd), kept from run to run; it lies below
        the firmware.
    serial
        Where COM1 goes: ``"stdio"`` (the caller's terminal), ``"null"``, ``"file:PATH"``, or ``"buffer"`` for
        ``machine.serial`` in Python.
    bios_serial
        Mirror the BIOS's INT 10h text to COM1.
    vga
        ``"std"``: a VGA with Bochs's VBE extension, seen as ``machine.screen``; ``"none"``: no display.
    hpet
        Whether there are high precision event timers.
    acpi
        Of a microvm: False leaves the ACPI tables out; its devices are then told on the kernel's command line, and
        processors in an MP table.
    rtc_base
        What the real-time clock shows at the start: ``"utc"``, ``"localtime"``, or a date in ISO 8601 such as
        ``"2026-01-31T12:00:00"``, from which it goes on.
    shares
        Folders of the host that the guest may mount.
    console
        ``"serial"``: COM1 is the machine's console. ``"virtio"``: a virtio console is (Linux's ``hvc0``), it goes where
        `serial` says, and what comes from there goes to it; COM1 is still written there.
    ports
        Named ports of characters, at most 15.
    inputs
        Virtio ``"keyboard"``, ``"mouse"`` and ``"tablet"`` (an absolute pointer), beside the PS/2 ones: what is typed
        and pointed goes to them while the guest drives them.
    balloon
        Memory that the guest lends to the host, a virtio device; None: there is none.
    rng
        The guest's source of random numbers, a virtio device; None: there is none.
    vsock
        Sockets between host and guest; None: there are none. They need a realtime clock.
    networks
        Network cards, ``machine.devices["net0"]`` and so on.
    keyboard
        Layout of the keyboard that is typed on: ``"us"``, ``"uk"``, ``"de"`` or ``"fr"``, as the
        guest has it.
    name, uuid
        What the machine is called, and its UUID ("12345678-1234-...") in the SMBIOS table; None: it has none.
    tsc_hz
        Guest TSC frequency told to the guest; None: the host's on a realtime clock, 1 GHz on a virtual one.
    """

    machine: Literal["pc", "microvm"] = "pc"
    memory: int = 256 << 20
    cpus: int = 1
    topology: Topology | None = None
    engine: Literal["auto", "translator", "kvm"] = "auto"
    irqchip: Irqchip = "auto"
    cpu: Literal["engine", "common"] = "engine"
    hand_over: Literal["auto", "on", "off"] = "auto"
    clock: Literal["realtime", "virtual"] = "realtime"
    disks: list[DiskConfig] = field(default_factory=list)
    boot_order: str = "cda"
    boot_once: str = ""
    boot_menu: bool = True
    kernel: StrPath | None = None
    initrd: StrPath | None = None
    append: str = ""
    firmware: StrPath = "pyvmm"
    pflash: StrPath | None = None
    serial: str = "stdio"
    bios_serial: bool = True
    rtc_base: str = "utc"
    vga: Literal["std", "none"] = "std"
    hpet: bool = True
    acpi: bool = True
    shares: list[ShareConfig] = field(default_factory=list)
    console: Literal["serial", "virtio"] = "serial"
    ports: list[PortConfig] = field(default_factory=list)
    inputs: list[Literal["keyboard", "mouse", "tablet"]] = field(default_factory=list)
    balloon: BalloonConfig | None = None
    rng: RngConfig | None = None
    vsock: VsockConfig | None = None
    networks: list[NetworkConfig] = field(default_factory=list)
    keyboard: str = "us"
    tsc_hz: int | None = None
    name: str = "pyvmm"
    uuid: str | None = None
