"""Options of ``pyvmm run``: what they make, and one line that names the option for each mistake."""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.cli.options import (
    OPTIONS,
    Option,
    add_options,
    machine_config,
    parse_disk,
    parse_machine,
    parse_memory,
    parse_quickly,
    parse_serial,
    parse_share,
    parse_timeout,
    parse_vsock,
)
from pyvmm.config import DiskConfig, MachineConfig, ShareConfig, VsockConfig
from pyvmm.cpu.topology import Topology
from pyvmm.errors import ConfigError, PyvmmError


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(512))
    return path


def config(*words: object) -> MachineConfig:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return machine_config(parser.parse_args([str(word) for word in words]))


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 << 20), ("1M", 1 << 20), ("1.5G", 3 << 29), ("1048576", 1 << 20), ("256G", 256 << 30)],
)
def test_memory(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3", ["3 bytes", "at least 1 MiB", "-m 512M"]),
        ("512", ["512 bytes", "at least 1 MiB", "-m 512M"]),
        ("1023K", ["at least 1 MiB"]),
        ("257G", ["at most 256 GiB"]),
        ("lots", ["not a size", "-m 512M"]),
        ("-5M", ["not a size"]),
        ("", ["not a size"]),
        ("9" * 400 + ".5G", ["not a size"]),
        ("1048577", ["4096-byte pages", "-m 1028K"]),
    ],
)
def test_wrong_memory(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_memory(text)
    message = str(caught.value)
    assert message.startswith(f"-m {text}: ")
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_defaults() -> None:
    assert config() == MachineConfig(memory=256 << 20, serial="stdio")


def test_smp_and_name() -> None:
    made = config("--smp", "4,sockets=2,cores=2,threads=1", "--name", "vm1")
    assert (made.cpus, made.topology, made.name) == (4, Topology(2, 2, 1), "vm1")
    assert config("--smp", "2", "--cpus", "2").cpus == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--smp", "4,cores=3"), "--smp 4,cores=3: "),
        (("--smp", "4", "--cpus", "2"), "--cpus 2: --smp 4 has 4 vCPUs"),
        (("--name", ""), "--name '': not a name"),
        (("--name", "a\nb"), "--name"),
    ],
)
def test_wrong_smp_and_name(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(*words)
    assert str(caught.value).startswith(says)


def test_disks_in_order(disk: Path) -> None:
    more = f"path={disk},format=qcow2,readonly"
    drive = (disk, "--format", "raw", "--cache", "none")
    made = config(*drive, "--disk", more, "--cdrom", disk, "--floppy", disk)
    assert made.disks == [
        DiskConfig(path=str(disk), format="raw", cache="none"),
        DiskConfig(path=str(disk), format="qcow2", read_only=True),
        DiskConfig(path=str(disk), interface="cdrom", format="raw", read_only=True),
        DiskConfig(path=str(disk), interface="floppy", format="raw"),
    ]


def test_snapshot_is_for_every_disk_that_can_be_written(disk: Path) -> None:
    made = config(disk, "--snapshot", "--disk", f"path={disk}", "--floppy", disk, "--cdrom", disk)
    assert [d.snapshot for d in made.disks] == [True, True, False, True]


def test_a_comma_in_a_path_is_written_twice(tmp_path: Path) -> None:
    odd = tmp_path / "a,b.img"
    odd.write_bytes(b"")
    assert parse_disk(f"path={str(odd).replace(',', ',,')},snapshot=on") == DiskConfig(
        path=str(odd), snapshot=True
    )


def test_a_packed_ring(tmp_path: Path) -> None:
    (tmp_path / "a.img").write_bytes(b"")
    assert parse_disk(f"path={tmp_path}/a.img,packed").features == {"RING_PACKED": True}
    assert parse_disk(f"path={tmp_path}/a.img,packed=off").features is None


def test_a_virtio_disks_own(tmp_path: Path) -> None:
    (tmp_path / "a.img").write_bytes(b"")
    made = parse_disk(f"path={tmp_path}/a.img,serial=a1,queues=4,threads=2,werror=enospc,rerror=stop")
    assert (made.serial, made.queues, made.threads) == ("a1", 4, 2)
    assert (made.write_error, made.read_error) == ("enospc", "stop")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path=a,queues=0", "queues '0' is not 1 to 64"),
        ("path=a,werror=ignore", "werror 'ignore' is not known"),
        ("path=a,if=ide,queues=2", "an IDE disk has no queues"),
        ("format=raw", "names no file"),
        ("path=", "path has no value"),
        ("path=x,path=y", "path is given twice"),
        ("path=x,colour=red", "'colour=red' is not known"),
        ("path=x,format=vmdk", "format 'vmdk' is not known"),
        ("path=x,cache=fast", "cache 'fast' is not known"),
        ("path=x,readonly=maybe", "'readonly=maybe' is not known"),
        ("path=x,if=ide,packed", "an IDE disk has no ring to be packed"),
        ("", "'' is not known"),
    ],
)
def test_wrong_disk(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_disk(text)
    assert str(caught.value).startswith(f"--disk {text}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cpus", "0"], "--cpus 0: "),
        (["--initrd", "x"], "--initrd x: it needs a kernel"),
        (["--append", "x"], "--append x: only a kernel"),
        (["--boot", "cz"], "--boot cz: the letters are"),
        (["--boot", "cc"], "--boot cc: the letters are"),
        (["--boot", ""], "--boot : the letters are"),
        (["--serial", "tcp"], "--serial tcp: not a place"),
        (["--serial", "file:"], "--serial file:: not a place"),
    ],
)
def test_wrong_options(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(*words)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("option", ["", "--kernel", "--cdrom", "--floppy", "--firmware"])
def test_missing_files_are_named(option: str, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.img"
    with pytest.raises(PyvmmError, match="no such file") as caught:
        config(*([option] if option else []), missing)
    assert str(caught.value).startswith(f"{option} {missing}".strip())
    with pytest.raises(PyvmmError, match="is a directory"):
        config(*([option] if option else []), tmp_path)


def test_serial_and_timeout() -> None:
    assert parse_serial("file:/tmp/x") == "file:/tmp/x"
    assert parse_timeout(None) is None
    assert parse_timeout("1.5") == 1.5
    for text in ("0", "-1", "nan", "inf", "soon"):
        with pytest.raises(ConfigError, match="--timeout"):
            parse_timeout(text)


# The two parsers ---------------------------------------------------------------------------------------------------

VALUES = [
    "512M",
    "1",
    "07",
    "-1",
    "",
    "x",
    "a b",
    "-",
    "--",
    "kvm",
    "none",
    "raw",
    "stdio",
    "qcow2",
    "a=b",
    "-m",
    "--disk",
]
NAMES = [name for option in OPTIONS for name in option.names if name.startswith("-")]


def words_of_a_command_line() -> st.SearchStrategy[list[str]]:
    """Mostly right command lines: every spelling of an option and its value, in any order, with a few slips."""
    values = st.sampled_from(VALUES)

    def spell(option: Option) -> st.SearchStrategy[list[str]]:
        name = st.sampled_from(list(option.names))
        fitting = values if option.choices is None else st.sampled_from([*option.choices, "x"])
        if option.integer:
            fitting = st.sampled_from(["1", "2", "07", "255", "-1", "x", " 1", "1_0"])
        if option.action == "store_true":
            return st.one_of(name.map(lambda n: [n]), name.map(lambda n: [f"{n}=1"]))
        if not option.names[0].startswith("-"):
            return values.map(lambda v: [v])
        return st.one_of(
            st.builds(lambda n, v: [n, v], name, fitting),
            st.builds(lambda n, v: [n, v], name, fitting),
            st.builds(lambda n, v: [f"{n}={v}"], name, fitting),
            st.builds(lambda n, v: [f"{n}{v}"], name, fitting),
            name.map(lambda n: [n]),
            name.map(lambda n: [n[:-1]]),
        )

    parts = st.lists(st.sampled_from(OPTIONS).flatmap(spell), max_size=6)
    return parts.map(lambda rows: [word for row in rows for word in row])


def by_argparse(words: list[str]) -> dict[str, object] | None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            return vars(parser.parse_args(words))
        except SystemExit:
            return None


@given(words_of_a_command_line())
def test_the_quick_parser_agrees_with_argparse(words: list[str]) -> None:
    quick = parse_quickly(words)
    if quick is not None:
        assert vars(quick) == by_argparse(words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["disk.qcow2", "-m", "1G"],
        ["-m", "1G", "--snapshot", "disk.qcow2", "--engine=kvm"],
        ["--disk", "path=a", "--disk=path=b,cache=none", "-q", "-v"],
        ["--kernel", "k", "--initrd", "i", "--append", "console=ttyS0 quiet", "--cpus", "2", "--no-reboot"],
    ],
)
def test_plain_command_lines_need_no_argparse(words: list[str]) -> None:
    quick = parse_quickly(words)
    assert quick is not None
    assert vars(quick) == by_argparse(words)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["-m512M"],
        ["--mem", "1G"],
        ["--engine", "x"],
        ["a", "b"],
        ["--cpus", "two"],
        ["--append", "-x"],
        ["-m"],
    ],
)
def test_the_rest_is_argparse_s(words: list[str]) -> None:
    assert parse_quickly(words) is None


def test_a_list_is_not_shared_between_parses() -> None:
    first = parse_quickly(["--disk", "a"])
    second = parse_quickly(["--disk", "b"])
    assert first is not None
    assert second is not None
    assert (first.disk, second.disk) == (["a"], ["b"])
    assert by_argparse([])["disk"] == []  # type: ignore[index]


def test_disk_interfaces(disk: Path) -> None:
    words = ["--interface", "ide", disk, "--disk", f"path={disk},if=ide", "--disk", f"path={disk}"]
    assert [each.interface for each in config(*words).disks] == ["ide", "ide", "virtio"]
    with pytest.raises(
        ConfigError, match="interface 'scsi' is not known; write for example if=virtio or if=ide"
    ):
        parse_disk(f"path={disk},if=scsi")


def test_shares(tmp_path: Path) -> None:
    odd = tmp_path / "a,b"
    odd.mkdir()
    assert parse_share(f"{str(odd).replace(',', ',,')},tag=odd,readonly,security=mapped") == ShareConfig(
        str(odd), "odd", read_only=True, security="mapped"
    )
    made = config("--share", f"{tmp_path},tag=one", "--share", f"{tmp_path},tag=two,readonly=off")
    assert made.shares == [ShareConfig(str(tmp_path), "one"), ShareConfig(str(tmp_path), "two")]


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("", "no tag"),
        (",tag=", "not known"),
        (",tag=" + "t" * 32, "1 to 31 bytes"),
        (",tag=a,tag=b", "twice"),
        (",tag=a,security=passthrough", "security 'passthrough'"),
        (",tag=a,cache=loose", "'cache=loose' is not known"),
        ("/missing,tag=a", "no such folder"),
    ],
)
def test_shares_that_cannot_be(tmp_path: Path, rest: str, message: str) -> None:
    with pytest.raises(PyvmmError, match=message):
        parse_share(f"{tmp_path}{rest}")


def test_vsock() -> None:
    assert config().vsock is None
    assert config("--vsock", "/tmp/a").vsock == VsockConfig("/tmp/a", 3)
    assert parse_vsock("/tmp/a,,b,cid=4294967294") == VsockConfig("/tmp/a,b", 4294967294)
    for text, message in (
        ("", "no socket"),
        ("/tmp/a,cid=2", "CID is 3 to"),
        ("/tmp/a,cid=x", "CID is 3 to"),
        ("/tmp/a,port=1", "not known"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_vsock(text)


def test_machine() -> None:
    assert parse_machine("pc") == ("pc", True)
    assert parse_machine("microvm,acpi=off") == ("microvm", False)
    for text, word in (("q35", "'q35' is not a machine"), ("microvm,pit=off", "'pit=off' is not known")):
        with pytest.raises(ConfigError, match=word):
            parse_machine(text)
