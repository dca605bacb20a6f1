"""``--smp``: what QEMU 7.2 makes of the same words, and the APIC IDs that follow."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from pyvmm.cpu.topology import Topology, parse_smp
from pyvmm.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("4", (4, 1, 1), (1, 4, 1)),
        ("4,sockets=4,cores=1,threads=1", (4, 1, 1), (4, 1, 1)),
        ("cpus=8,sockets=2", (2, 4, 1), (2, 4, 1)),
        ("8,threads=2", (4, 1, 2), (1, 4, 2)),
        ("8,cores=2", (4, 2, 1), (4, 2, 1)),
        ("8,sockets=2,cores=2", (2, 2, 2), (2, 2, 2)),
        ("sockets=2,cores=3", (2, 3, 1), (2, 3, 1)),
        ("threads=2", (1, 1, 2), (1, 1, 2)),
        ("maxcpus=4", (4, 1, 1), (1, 4, 1)),
        ("4,maxcpus=4,dies=1", (4, 1, 1), (1, 4, 1)),
        ("1", (1, 1, 1), (1, 1, 1)),
    ],
)
def test_what_is_not_said_is_worked_out(
    text: str, old: tuple[int, int, int], new: tuple[int, int, int]
) -> None:
    """Machines before QEMU 6.2 prefer sockets, later ones cores."""
    assert parse_smp(text, prefer_sockets=True) == Topology(*old)
    assert parse_smp(text) == Topology(*new)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("4,sockets=3", "must be the number of vCPUs"),
        ("4,sockets=2,cores=2,threads=2", "is 8, not 4"),
        ("3,cores=2,threads=1,sockets=1", "is 2, not 3"),
        ("2,maxcpus=4", "plugged in later"),
        ("4,maxcpus=2", "must be|plugged"),
        ("0", "from 1 on"),
        ("4,cores=0", "from 1 on"),
        ("4,cores=-1", "from 1 on"),
        ("4,cores", "from 1 on"),
        ("four", "from 1 on"),
        ("", "from 1 on"),
        ("4,nodes=2", "'nodes' is not known"),
        ("4,dies=2", "one of dies"),
        ("4,cores=2,cores=2", "given twice"),
        ("256", "0 to 254"),
        ("255,sockets=51,cores=5", "0 to 254"),
        ("99999999", "from 1 on"),
        ("٤", "from 1 on"),
    ],
)
def test_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        parse_smp(text)
    assert str(error.value).startswith(f"--smp {text}:")
    assert "\n" not in str(error.value)


def test_apic_ids_have_a_field_for_each_level() -> None:
    """As csrc/tests/test_kvm_smp.c has them."""
    ids = Topology(2, 3, 2).apic_ids()
    assert (ids[5], ids[6], ids[11]) == (5, 8, 13)
    assert Topology(3, 1, 1).apic_ids() == [0, 1, 2]
    assert Topology(2, 1, 3).apic_ids() == [0, 1, 2, 4, 5, 6]
    assert str(Topology(2, 1, 3)) == "2 sockets x 1 core x 3 threads"


@pytest.mark.parametrize("machine", ["pc-i440fx-6.1", "pc"])
@pytest.mark.parametrize(
    "text", ["4", "8,threads=2", "8,cores=2", "sockets=2,cores=3", "6,sockets=3,threads=2"]
)
def test_qemu_agrees(machine: str, text: str) -> None:
    """QEMU's ``query-hotpluggable-cpus`` lists each place."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    words = f"-M {machine},accel=tcg -smp {text} -S -display none -nodefaults -monitor stdio"
    done = subprocess.run(
        [qemu, *words.split()],
        input="info hotpluggable-cpus\nquit\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = [
        max(int(line.split('"')[1]) for line in done.stdout.splitlines() if f" {level}-id:" in line) + 1
        for level in ("socket", "core", "thread")
    ]
    ours = parse_smp(text, prefer_sockets=machine != "pc")
    assert found == [ours.sockets, ours.cores, ours.threads]
