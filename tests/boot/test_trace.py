"""The exit explainer on a real boot: Debian's kernel, and Debian's disk by ``pyvmm trace``."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm import Machine
from pyvmm.errors import PyvmmError
from pyvmm.exits import ExitReason
from pyvmm.guests.cached import cached_initramfs, cached_kernel
from pyvmm.trace import Recorder, Recording, Symbols, explain, load
from tests.boot.guests import qemu_img
from tests.boot.shell import Shell

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900)]

MIB = 1 << 20


@pytest.fixture(scope="module")
def booted(guest_cache: Path) -> Iterator[tuple[Shell, Recording, Symbols]]:
    """Debian's cloud kernel at its shell, and what was recorded on the way."""
    with Machine(
        memory=256 * MIB,
        kernel=cached_kernel(),
        initrd=cached_initramfs(),
        append="console=ttyS0",
        serial="buffer",
        engine="translator",
    ) as machine:
        with Recorder(machine) as recorder:
            shell = Shell(machine)
            symbols = recorder.find_symbols()
            assert symbols is not None
            recording = recorder.recording()
        yield shell, recording, symbols


def test_symbols_are_the_kernels_own(booted: tuple[Shell, Recording, Symbols]) -> None:
    """Those found in memory are those that the guest says of itself, moved by KASLR as they are."""
    shell, _, symbols = booted
    shell.run("mount -t proc proc /proc 2>/dev/null; echo 0 > /proc/sys/kernel/kptr_restrict")
    said = shell.run("grep -E ' [tT] (_stext|_text|start_kernel|native_write_msr)$' /proc/kallsyms")
    rows = re.findall(r"([0-9a-f]{16}) [tT] (\w+)", said)
    assert len(rows) == 4, said
    for address, name in rows:
        assert symbols.address(name) == int(address, 16), name
    assert len(symbols) > 20000


def test_the_top_ten_have_names(
    booted: tuple[Shell, Recording, Symbols], exercised: Callable[[str], None]
) -> None:
    """Each of the ten sites with most exits is a kernel function, or comes from anywhere, and is explained."""
    shell, recording, symbols = booted
    top = recording.sites[:10]
    kernel = [site for site in top if site.rip]
    assert len(kernel) >= 7
    assert {site.cpl for site in kernel} == {0}
    for site in kernel:
        words = explain(site, shell.machine, symbols=symbols)
        assert re.search(r"  \w+(\.\w+)*(\+0x[0-9a-f]+)?$", words.where), words.where
        assert symbols.name(site.rip) == recording.where(site)
        assert words.why
        assert words.instead
        assert words.section
        if site.reason is ExitReason.IO:
            assert re.match(r"(in|out) ", words.instruction), words
        if site.reason is ExitReason.MSR:
            assert words.instruction in ("wrmsr", "rdmsr")
        if site.cycles:
            assert "host TSC cycles" in words.cost
    names = {recording.where(site).split("+")[0] for site in top}
    assert {"io_serial_out", "io_serial_in"} <= names
    assert [row.name for row in recording.devices[:1]] == ["uart16550"]
    print(recording.table(10))
    exercised("Debian kernel, its exits explained")


def test_what_is_counted_is_what_the_engine_counts(guest_cache: Path) -> None:
    """The recorder's counts beside the engine's own, and off means off."""
    with Machine(
        memory=256 * MIB,
        kernel=cached_kernel(),
        initrd=cached_initramfs(),
        append="console=ttyS0 quiet",
        serial="buffer",
        engine="translator",
    ) as machine:
        shell = Shell(machine)
        before = dict(machine.vcpu.exit_counts)
        with Recorder(machine) as recorder:
            shell.run("for i in 1 2 3 4 5; do echo some words >/dev/ttyS0; done")
            recording = recorder.stop()
        after = dict(machine.vcpu.exit_counts)
        for reason in (ExitReason.IO, ExitReason.MSR, ExitReason.CPUID, ExitReason.MMIO):
            assert recording.counts.get(reason, 0) == after.get(reason, 0) - before.get(reason, 0), reason
        total = recording.total
        shell.run("echo more >/dev/ttyS0")
        assert recorder.recording().total == total
        assert sum(sum(band.counts) for band in recording.bands) == total


def test_a_maps_symbols_are_moved_to_where_the_kernel_is(booted: tuple[Shell, Recording, Symbols]) -> None:
    """A file's addresses are before KASLR."""
    _, _, symbols = booted
    start = symbols.address("start_kernel")
    assert start is not None
    linked = Symbols(((row - start + 0xFFFFFFFF81000000, name) for row, name in symbols.rows), "a map")
    assert linked.at("start_kernel", start).rows == symbols.rows


def test_a_kernel_packed_by_lz4_says_so(guest_cache: Path) -> None:
    """Debian's: what to do is in the line."""
    with pytest.raises(PyvmmError, match="packed by LZ4, which is not read here; leave --symbols out"):
        Symbols.from_file(cached_kernel())


def test_the_command_on_debians_disk(
    debian_disk: Path, exercised: Callable[[str], None], tmp_path: Path
) -> None:
    """From firmware over GRUB into Linux with its disk, then ended: the report, the file and the figures."""
    overlay, out, heat = tmp_path / "disk.qcow2", tmp_path / "boot.trace", tmp_path / "heat.png"
    qemu_img("create", "-f", "qcow2", "-b", debian_disk, "-F", "qcow2", overlay)
    words = ["trace", overlay, "--engine", "translator", "--out", out, "--heat-map", heat, "--explain"]
    command = [sys.executable, "-m", "pyvmm.cli.main", *map(str, words)]
    pipe, lines = subprocess.PIPE, list[bytes]()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if b"EXT4-fs" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest, errors = process.communicate(timeout=300)
    said = b"".join([*lines, rest]).decode(errors="replace")
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "Linux version" in said, errors
    report = said[said.rindex("symbols of the guest's kallsyms") :]
    assert "io_serial_out+0x" in report
    assert "GRUB" in said
    assert report.count("\n  paravirtual ") >= 5
    recording = load(out)
    reasons = set(recording.counts)
    assert {ExitReason.IO, ExitReason.MMIO, ExitReason.MSR, ExitReason.CPUID, ExitReason.INTERRUPT} <= reasons
    assert {"real", "protected", "long"} <= {site.mode for site in recording.sites}
    assert {"virtio-blk", "uart16550", "firmware-port"} <= {row.name for row in recording.devices}
    assert heat.stat().st_size > 10000
    exercised("Debian disk, by pyvmm trace")
