"""Folders of the host in a Debian guest by its own 9p: trees copied both ways, owners passed through and mapped."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm import Machine
from pyvmm.config import ShareConfig
from pyvmm.devices.virtio.share import Virtio9p
from pyvmm.errors import DeviceError
from pyvmm.guests.cached import cached_initramfs, cached_kernel
from tests.boot.guests import Boot, Vmm, need
from tests.conftest import RecordExercised

pytestmark = pytest.mark.boot

ODD = (
    "two words",
    "-rf",
    "quo'te\"s",
    "back\\slash",
    "new\nline",
    "ünï",
    "*?[",
    "\x01",
    "x" * 255,
    b"\xff\xfe",
)
SECRET = b"nobody in the guest may read this"


def fill(folder: Path) -> None:
    """A tree with what file systems have trouble with."""
    for name in ODD:
        (folder / os.fsdecode(name)).write_bytes(os.fsencode(name) * 3)
    (folder / "empty").touch()
    (folder / "big").write_bytes(bytes(hashlib.shake_256(b"big").digest(2 << 20)))
    with (folder / "sparse").open("wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
    many = folder / "many"
    many.mkdir()
    for number in range(300):
        (many / f"file with a longer name {number}").write_text(str(number))
    deep = folder
    for number in range(20):
        deep = deep / f"d{number}"
        deep.mkdir()
    (deep / "bottom").write_text("bottom")
    for name, target in (
        ("relative", "big"),
        ("absolute", "/etc/passwd"),
        ("up", "../secret"),
        ("dangling", "x" * 300),
    ):
        (folder / name).symlink_to(target)
    (folder / "hard1").write_text("hard")
    os.link(folder / "hard1", folder / "many" / "hard2")
    for mode in (0o600, 0o644, 0o755, 0o4711, 0o000):
        (folder / f"mode{mode:o}").write_text(f"{mode:o}")
        (folder / f"mode{mode:o}").chmod(mode)
    (folder / "sticky").mkdir()
    (folder / "sticky").chmod(0o1777)


def files(folder: Path) -> list[bytes]:
    """Every regular file by its path, in the order of `sort`."""
    root = os.fsencode(folder)
    found = []
    for at, _, names in os.walk(root):
        found += [os.path.join(at, name) for name in names]
    return sorted(b"." + path[len(root) :] for path in found if stat.S_ISREG(os.lstat(path).st_mode))


def digest(folder: Path) -> str:
    """What ``DIGEST`` prints in the guest."""
    lines = b""
    for name in files(folder):
        data = (folder / os.fsdecode(name)).read_bytes()
        lines += hashlib.sha256(data).hexdigest().encode() + b"  " + name + b"\n"
    return hashlib.sha256(lines).hexdigest()


DIGEST = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"


def shape(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """Kind, mode, target and links of everything; the time of files."""
    root = os.fsencode(folder)
    found: dict[bytes, tuple[object, ...]] = {}
    for at, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = os.path.join(at, name)
            info = os.lstat(path)
            link = os.readlink(path) if stat.S_ISLNK(info.st_mode) else b""
            times = int(info.st_mtime) if stat.S_ISREG(info.st_mode) else 0
            links = info.st_nlink if stat.S_ISREG(info.st_mode) else 0
            found[path[len(root) :]] = (info.st_mode, link, times, links)
    return found


class Guest:
    """A shell in the guest."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.serial.expect(r"guest# ", timeout=600)
        self.run("stty -echo cols 1000; mkdir -p /src /out /map")

    def run(self, command: str, timeout: float = 240) -> str:
        """Run a command that must succeed; what it printed."""
        self.machine.serial.send(f'{command}; echo "<""end $?>"\n')
        said = self.machine.serial.expect(r"<end \d+>", timeout=timeout).decode(errors="replace")
        text, _, code = said.rpartition("<end ")
        assert code == "0>", f"{command}: {text}"
        return text.split("guest# ", 1)[-1].replace("\r", "").replace("\x1b[6n", "")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shared folders, and beside them a secret."""
    base = tmp_path_factory.mktemp("shares")
    made = {name: base / name for name in ("src", "out", "map")}
    for path in made.values():
        path.mkdir()
    (base / "secret").write_bytes(SECRET)
    fill(made["src"])
    try:
        os.setxattr(made["map"], "user.pyvmm", b"1")
    except OSError:
        pytest.skip("the file system of temporary files has no user extended attributes")
    os.removexattr(made["map"], "user.pyvmm")
    return made


@pytest.fixture(scope="module")
def guest(folders: dict[str, Path]) -> Iterator[Guest]:
    """Debian's generic kernel: the cloud kernel has no 9p."""
    need("apt-get", "dpkg-deb", "busybox")
    kernel = cached_kernel("generic")
    initramfs = cached_initramfs(modules=["virtio_pci", "9pnet_virtio", "9p"], flavour="generic")
    with Machine(
        engine=os.environ.get("PYVMM_TEST_ENGINE", "auto"),  # type: ignore[arg-type]
        memory=512 << 20,
        kernel=kernel,
        initrd=initramfs,
        append="console=ttyS0 quiet",
        serial="buffer",
        vga="none",
        shares=[
            ShareConfig(folders["src"], "src", read_only=True),
            ShareConfig(folders["out"], "out"),
            ShareConfig(folders["map"], "map", security="mapped"),
        ],
    ) as machine:
        made = Guest(machine)
        for tag in folders:
            made.run(f"mount -t 9p -o trans=virtio,version=9p2000.L,msize=131072 {tag} /{tag}")
        yield made


def share_of(guest: Guest, index: int) -> Virtio9p:
    share = guest.machine.devices[f"share{index}"]
    assert isinstance(share, Virtio9p)
    return share


def test_a_tree_is_copied_both_ways(
    guest: Guest, folders: dict[str, Path], record_exercised: RecordExercised
) -> None:
    """Read through one share, written through another: the host then has it twice, and alike."""
    assert guest.run(f"cd /src; {DIGEST}; cd /").split()[0] == digest(folders["src"])
    guest.run("cp -a /src /out/copy && cp -a /modules /out/modules && sync")
    copy = folders["out"] / "copy"
    assert digest(copy) == digest(folders["src"])
    theirs = shape(copy)
    for name, ours in shape(folders["src"]).items():
        if os.geteuid() == 0 or not ours[0] & 0o7000:  # type: ignore[operator]
            assert theirs.pop(name) == ours, name
    assert os.geteuid() or not theirs
    assert guest.run(f"cd /modules; {DIGEST}; cd /").split()[0] == digest(folders["out"] / "modules")
    assert not share_of(guest, 0).queue_counters.faults
    record_exercised(engine=guest.machine.engine_name, guest="Debian's generic kernel, 9p")


def test_files_change_on_both_sides(guest: Guest, folders: dict[str, Path]) -> None:
    """Rename, append, truncate, links and removal by the guest; then what the host changed."""
    guest.run("cd /out; echo one > a; echo two >> a; mv a b; ln b c; ln -s b l; mkdir d; mv c d/; cd /")
    out = folders["out"]
    assert (out / "b").read_text() == "one\ntwo\n"
    assert (out / "d" / "c").stat().st_nlink == 2
    assert os.readlink(out / "l") == "b"
    guest.run(
        "cd /out; dd if=/dev/zero of=b bs=1 count=0 seek=3 2>/dev/null; truncate -s 3 b; rm l; mkfifo p; cd /"
    )
    assert (out / "b").read_bytes() == b"one"
    assert stat.S_ISFIFO((out / "p").stat().st_mode)
    (out / "b").write_text("the host's")
    assert guest.run("cat /out/d/c") == "the host's"
    guest.run(
        "exec 3>/out/open; echo kept >&3; rm /out/open; echo more >&3; exec 3>&-; rm -r /out/d /out/b /out/p"
    )
    assert not (out / "open").exists()
    assert guest.run("df /out | tail -1").split()[0] == "out"


def test_read_only(guest: Guest, folders: dict[str, Path]) -> None:
    before = shape(folders["src"])
    for command in (
        "echo x > /src/new",
        "rm /src/big",
        "mv /src/big /src/b",
        "chmod 0 /src/big",
        "mkdir /src/n",
    ):
        assert "Read-only file system" in guest.run(f"({command}) 2>&1; true"), command
    assert shape(folders["src"]) == before


def test_mapped_owners_and_devices(guest: Guest, folders: dict[str, Path]) -> None:
    """The guest has what only root may have; the host has plain files with QEMU's attributes."""
    guest.run(
        "cd /map; cp /bin/busybox su; chown 1000:1001 su; chmod 4755 su; mknod null c 1 3; mkfifo pipe; ln -s su link;"
        " mkdir d; chmod 2750 d; cd /"
    )
    listed = guest.run("ls -ln /map")
    for expected in ("-rwsr-xr-x    1 1000     1001", "crw-r--r--    1 0        0           1,   3", "prw-r--r--",
                     "link -> su", "drwxr-s---"):  # fmt: skip
        assert expected in listed, listed
    folder = folders["map"]
    for name in ("su", "null", "pipe", "link"):
        assert stat.S_IMODE((folder / name).lstat().st_mode) == 0o600
        assert stat.S_ISREG((folder / name).lstat().st_mode)
    assert (folder / "link").read_bytes() == b"su"
    assert struct.unpack("<I", os.getxattr(folder / "su", "user.virtfs.uid")) == (1000,)
    assert struct.unpack("<I", os.getxattr(folder / "null", "user.virtfs.mode")) == (stat.S_IFCHR | 0o644,)
    assert struct.unpack("<Q", os.getxattr(folder / "null", "user.virtfs.rdev")) == (os.makedev(1, 3),)
    guest.run("rm -r /map/*")


def test_nothing_outside_is_reached(guest: Guest, folders: dict[str, Path]) -> None:
    """The host's links lead where the guest's own files are; the guest's links and paths lead no further."""
    outside = folders["out"].parent
    (folders["out"] / "trap").symlink_to(outside)
    (folders["out"] / "file").symlink_to(outside / "secret")
    tries = (
        "cat /src/up", "cat /out/file", "cat /out/trap/secret", "ls /out/trap", "cat /out/../secret",
        f"ln -s {outside}/secret /out/mine; cat /out/mine", "cat /out/./.././secret", "echo spoiled > /out/file",
        "cp /out/trap/secret /tmp/x", "touch /out/trap/new", "ln /out/file /out/hard; cat /out/hard",
    )  # fmt: skip
    for command in tries:
        said = guest.run(f"({command}) 2>&1; true")
        assert SECRET.decode() not in said, command
    assert (outside / "secret").read_bytes() == SECRET
    assert sorted(path.name for path in outside.iterdir()) == ["map", "out", "secret", "src"]


def test_saved_only_when_it_is_not_mounted(guest: Guest) -> None:
    share = share_of(guest, 2)
    with pytest.raises(DeviceError, match="mounted"):
        share.save()
    guest.run("umount /map")
    assert share.counters.fids == 0
    share.restore(share.save())
    guest.run("mount -t 9p -o trans=virtio,version=9p2000.L map /map; ls /map")


MAKE = (
    "cd /map; echo a > {0}f; chown 5:6 {0}f; chmod 4751 {0}f; mknod {0}n c 1 3; mkfifo {0}p; ln -s {0}f {0}l;"
    " mkdir {0}d; chmod 2770 {0}d; cd /"
)


@pytest.mark.long
def test_mapped_as_qemu_has_it(guest: Guest, folders: dict[str, Path], boot: Boot, qemu: Vmm) -> None:
    """What one of them makes is the same to the other's guest."""
    folder = folders["map"]
    guest.run(MAKE.format("our-"))
    initramfs = cached_initramfs(modules=["virtio_pci", "9pnet_virtio", "9p"], flavour="generic")
    argv = qemu.kernel(cached_kernel("generic"), initramfs, "console=ttyS0 quiet")
    argv += ["-virtfs", f"local,path={folder},mount_tag=map,security_model=mapped-xattr"]
    with boot(argv) as theirs:
        theirs.expect("guest# ")
        theirs.plain_shell()
        theirs.check("mkdir /map; mount -t 9p -o trans=virtio,version=9p2000.L map /map")
        seen = theirs.check("ls -ln /map")
        theirs.check(MAKE.format("their-"))
        theirs.check("umount /map")
    ours = [line.split() for line in guest.run("ls -ln /map").splitlines() if "->" not in line]
    made = {words[-1]: words[:-1] for words in ours if words}
    for name in "fnpd":
        assert made[f"our-{name}"][:4] == made[f"their-{name}"][:4]
        assert made[f"our-{name}"][0] in seen
    assert "our-l -> our-f" in seen
    assert made["their-f"][0] == "-rwsr-x--x"
    guest.run("rm -r /map/*")
