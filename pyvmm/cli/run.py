"""``pyvmm run``: a machine from the command line, on this terminal."""

from __future__ import annotations

import gc
import os
import sys

from pyvmm.cli.options import add_options, machine_config, parse_timeout
from pyvmm.threads import name_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from pyvmm.cli.console import Console
    from pyvmm.cli.notice import Notice
    from pyvmm.cli.options import RunOptions
    from pyvmm.cli.runner import Runner
    from pyvmm.config import DiskConfig, MachineConfig
    from pyvmm.machine.machine import Machine


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``pyvmm run``."""
    parser = subparsers.add_parser(
        "run",
        help="run a disk, a kernel, or the built-in guest",
        description="Run a PC in this terminal. Ctrl-A H inside it for help, Ctrl-A X to quit.",
    )
    add_options(parser)


def run(options: RunOptions | argparse.Namespace) -> int:
    """Build the machine, run it to its end, and return the exit code (`pyvmm.cli.exit_codes`)."""
    gc.disable()  # a start makes objects and next to no garbage; on again as soon as the guest runs
    try:
        return _run(options)
    finally:
        gc.enable()


def _run(options: RunOptions | argparse.Namespace) -> int:
    from pyvmm.cli.notice import Notice

    timeout = parse_timeout(options.timeout)
    notice = Notice(options.quiet)
    return run_machine(configure(options, notice), notice, options, timeout)


def configure(options: RunOptions | argparse.Namespace, notice: Notice) -> MachineConfig:
    """The machine that the options describe, with the network and the disk that they leave to be chosen."""
    config = machine_config(options)
    if options.name is not None:
        name_process(config.name)
    if not options.net and (config.disks or config.kernel is not None) and config.clock == "realtime":
        from pyvmm.cli.network import default_networks

        config.networks, why_not = default_networks()
        if why_not:
            notice.say(why_not)
    if not config.disks and config.kernel is None and config.firmware in ("pyvmm", "seabios"):
        config.disks.append(builtin_disk())  # a ROM of the user's own, or a UEFI shell, needs no disk
    return config


def raise_descriptors() -> None:
    """As many open files as this process may have: the guest's files of a shared folder each need one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if 0 <= hard < 1 << 16 else 1 << 16
    if 0 <= soft < most:  # negative: no limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def run_machine(
    config: MachineConfig,
    notice: Notice,
    options: RunOptions | argparse.Namespace,
    timeout: float | None = None,
    *,
    shutdown: bool = True,
    paused: bool = False,
    prompt: bool = False,
    watch: Callable[[Machine], Callable[[], object]] | None = None,
) -> int:
    """Build the machine of `config`, run it to its end on this terminal, and return the exit code.

    Of `options`, those that say how to run it: ``quiet``, ``verbose``, ``vnc``, ``serial``, ``debug_console``,
    ``no_reboot``. `shutdown` and `paused` are `Runner`'s; `prompt` opens the prompt on a terminal at once. `watch` is
    given the machine before it runs, and what it returns is called when it has ended.
    """
    from pyvmm.cli.runner import Runner

    for disk in config.disks:
        settle_format(disk, notice)
    if config.shares:
        raise_descriptors()
    notice.progress(f"starting: {_describe(config, config.engine)} ... (Ctrl-A H for help)")
    try:
        from pyvmm.machine.machine import Machine

        machine = Machine(config)
    except BaseException:
        notice.erase()
        raise
    with machine:
        if config.engine == "auto":
            notice.say(f"engine {machine.engine_name}: {machine.engine_reason}")
        if machine.warning:
            notice.say(machine.warning)
        if options.verbose:
            notice.say(_describe(config, machine.engine_name))
        if options.vnc is not None:
            notice.say(_serve_vnc(machine, options.vnc))
        notice.progress(f"running: {_describe(config, machine.engine_name)} (Ctrl-A H for help)")
        on_terminal = config.serial == "stdio" and sys.stdout.isatty()
        if on_terminal:
            # The guest's first character takes the line away: the same stream, hence no race.
            preamble = notice.hand_over()
            for sink in {machine.serial.sink, machine.console.sink}:
                sink.set_preamble(preamble)
        ended = watch(machine) if watch is not None else None
        runner = Runner(
            machine, notice, reboot=not options.no_reboot, timeout=timeout, shutdown=shutdown, paused=paused
        )
        consoles: list[Console] = []

        def open_console() -> None:
            gc.enable()
            consoles.append(_open_console(runner, notice, options, prompt))

        try:
            if sys.stdin is not None and sys.stdin.isatty():
                open_console()  # the guest writes to a terminal that is raw already
                code = runner.run()
            else:
                code = runner.run(meanwhile=open_console)
        finally:
            for console in consoles:
                console.__exit__()
        if ended is not None:
            ended()
        if on_terminal and not machine.serial.sink.total and not machine.console.sink.total:
            notice.take_back()
        if options.verbose:
            for line in machine.messages():
                notice.say(line)
            for vcpu in machine.vcpus:
                if summary := vcpu.handed_over_summary:
                    notice.say(summary)
    notice.erase()
    return code


def _open_console(
    runner: Runner, notice: Notice, options: RunOptions | argparse.Namespace, prompt: bool
) -> Console:
    """Keys, escapes and signals: imported when the guest runs, where it need not wait for them."""
    from pyvmm.cli.console import Console
    from pyvmm.cli.terminal import Terminal
    from pyvmm.devices.ports import DebugConsole

    terminal = Terminal(sys.stdin.fileno() if sys.stdin is not None else os.open(os.devnull, os.O_RDONLY))
    port = runner.machine.devices["debug_console"]
    debug = port.sink if options.debug_console and isinstance(port, DebugConsole) else None
    send = options.serial == "stdio"
    return Console(runner, terminal, notice, send_input=send, debug=debug, prompt=prompt).__enter__()


def _serve_vnc(machine: Machine, option: str) -> str:
    """Open the port that ``--vnc`` asks for; what to tell the user."""
    from pyvmm.display.vnc import describe, split_option

    where, password = split_option(option)
    server = machine.serve_vnc(where, password)
    return f"vnc: {describe(server.address)}" + ("" if password is None else ", with a password")


def builtin_disk() -> DiskConfig:
    """The disk of the built-in guest, which comes with the package; what the guest writes to it is thrown away."""
    import pyvmm
    from pyvmm.config import DiskConfig
    from pyvmm.errors import PyvmmError

    # An editable installation has two folders: the sources, and what was built.
    for folder in pyvmm.__path__:
        path = os.path.join(folder, "data", "builtin.qcow2")
        if os.path.exists(path):
            return DiskConfig(path=path, format="qcow2", snapshot=True)
    raise PyvmmError("the built-in guest is missing from this installation; install pyvmm again")


def settle_format(disk: DiskConfig, notice: Notice) -> None:
    """Recognise qcow2, and warn about anything else that was not said to be raw.

    A guest that owns a raw disk could write a qcow2 header to it, with any file of the host for backing file: the
    next run would then read that file for the guest. Hence the format of a raw image is to be said.
    """
    if disk.format is not None:
        return
    with open(disk.path, "rb") as file:
        magic = file.read(4)
    if magic == b"QFI\xfb":  # qcow2.txt, "Header", byte 0
        disk.format = "qcow2"
    else:
        disk.format = "raw"
        notice.say(f"{disk.path}: format not given, taken for raw; say --format raw to be sure of it")


def _describe(config: MachineConfig, engine: str) -> str:
    """``"translator, 512 MiB, debian.qcow2"``."""
    from pyvmm.units import format_size

    files = [] if config.kernel is None else [config.kernel]
    names = [os.path.basename(path) for path in (*files, *(disk.path for disk in config.disks))]
    names = ["the built-in guest" if name == "builtin.qcow2" else name for name in names]
    return ", ".join([f"engine {engine}", format_size(config.memory), *names])
