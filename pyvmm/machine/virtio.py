"""The virtio devices of a machine that are not disks: each on the next place that is free."""

from __future__ import annotations

from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.machine.pc import Pc


def add_devices(pc: Pc) -> None:
    """What the configuration asks for, in a fixed order, so that a guest finds it where it was."""
    if pc.config.shares:
        add_shares(pc)
    if pc.config.console == "virtio" or pc.config.ports:
        add_console(pc)
    if pc.config.rng is not None:
        add_rng(pc)
    if pc.config.balloon is not None:
        add_balloon(pc)
    if pc.config.inputs:
        add_inputs(pc)
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
        place = pc.virtio_place(io=pc.board.worker(f"9p-{index}"))
        device = Virtio9p(
            pc.board,
            place,
            share.path,
            share.tag,
            security=share.security,
            read_only=share.read_only,
        )
        pc.add(f"share{index}", device)


def add_console(pc: Pc) -> None:
    """The console device: the console first, if there is one, then the named ports."""
    from pyvmm.devices.uart import SerialPort
    from pyvmm.devices.virtio.console import CharSocket, PortSetup, VirtioConsole
    from pyvmm.machine.pc import open_sink

    setups = [PortSetup(is_console=pc.config.console == "virtio")]
    if pc.config.console == "virtio":
        setups[0].sink = open_sink(pc.board, pc.config.serial)
    for port in pc.config.ports:
        option = f"--port name={port.name}"
        if not port.name:
            raise ConfigError(f"{option}: it has no name; write for example --port name=org.example.agent")
        if port.to.startswith("unix:"):
            setups.append(PortSetup(port.name, socket=CharSocket(pc.board, port.to[5:])))
        else:
            setups.append(PortSetup(port.name, sink=open_sink(pc.board, port.to, option)))
    pc.sinks += [setup.sink for setup in setups if setup.sink is not None]
    pc.sockets += [setup.socket for setup in setups if setup.socket is not None]
    device = pc.add("console", VirtioConsole(pc.board, pc.virtio_place(), setups))
    for line in device.ports:
        end = line if line.sink is None else SerialPort(line, line.sink)
        if line.name:
            pc.ports[line.name] = end
        elif isinstance(end, SerialPort):
            pc.console = end


def add_rng(pc: Pc) -> None:
    """The entropy device; on a virtual clock its bytes repeat with the run."""
    from pyvmm.devices.virtio import VirtioRng

    config = pc.config.rng
    assert config is not None
    seed = 0 if config.seed is None and pc.config.clock == "virtual" else config.seed
    pc.add("rng", VirtioRng(pc.board, pc.virtio_place(), bytes_per_second=config.bytes_per_second, seed=seed))


def add_balloon(pc: Pc) -> None:
    """The balloon, on an I/O thread of its own: giving memory back takes its time."""
    from pyvmm.devices.virtio.balloon import VirtioBalloon

    config, memory = pc.config.balloon, pc.config.memory
    assert config is not None
    if config.target is not None and not 0 <= config.target <= memory:
        raise ConfigError(f"--balloon: {config.target} bytes is more than the machine's memory; use less")
    balloon = VirtioBalloon(
        pc.board,
        pc.virtio_place(io=pc.board.worker("balloon")),
        memory,
        stats_interval=config.stats_interval,
        reporting=config.reporting,
    )
    if config.target is not None:
        balloon.target = config.target
    pc.add("balloon", balloon)


def add_inputs(pc: Pc) -> None:
    """Keyboard, mouse and tablet, each at most once."""
    from pyvmm.devices.virtio.input import VirtioInput

    for kind in dict.fromkeys(pc.config.inputs):
        pc.add(f"virtio_{kind}", VirtioInput(pc.board, pc.virtio_place(), kind))


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
    place = pc.virtio_place(io=pc.board.worker("vsock"))
    pc.add("vsock", VirtioVsock(pc.board, place, config.path, config.cid))
