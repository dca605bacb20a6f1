"""A Debian disk out of Debian's own packages: debootstrap, the stock kernel and initramfs, GRUB, ext4, an MBR.

No loop device and no mount of the image: `mke2fs -d` fills the file system from the tree, and GRUB's core image, made
by the guest's own `grub-mkimage`, is written to the MBR gap (mbr.py). What `grub-install` and `update-grub` would do on
the running guest is done in its tree beforehand, so both work in the guest later.

The guest is stock but for what a machine with a serial port wants: GRUB and the kernel speak on ttyS0, root has a
password, documentation and translations are left out (as in Debian's container images). Its clock of files is
``SOURCE_DATE_EPOCH`` when that is set; machine-id, ssh keys and logs are not in the image.

Needs root (debootstrap runs `chroot`) and amd64. Left out: EFI boot, other architectures, an enabled network (a DHCP
configuration for systemd-networkd is there: ``systemctl enable --now systemd-networkd``), bit-for-bit equal images.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pyvmm.guests.debian_tree import configure_tree, make_core_image, make_grub_menu
from pyvmm.guests.mbr import PARTITION_START, SECTOR, install_grub
from pyvmm.guests.mirror import debian_mirror
from pyvmm.guests.tools import GuestBuildError, Progress, find_tool, last_line, require_tools, run_logged

# minbase has what is essential; this is what makes it a system that boots and can be worked in.
PACKAGES = (
    "systemd", "systemd-sysv", "udev", "dbus", "kmod", "e2fsprogs", "login", "grub-pc", "zstd",
    "iproute2", "procps", "less", "nano", "pciutils",
)  # fmt: skip

# ext4 features that GRUB 2.06 and e2fsck 1.47 of Debian 12 know, whatever the host's mke2fs.conf says.
_EXT4_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,"
    "huge_file,dir_nlink,extra_isize,metadata_csum"
)

_DPKG_OPTIONS = """\
# The image is thrown away when a package fails, so nothing is gained by syncing every file.
force-unsafe-io
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-include=/usr/share/locale/locale.alias
"""

_SIZES = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class DebianDisk:
    """What disk to make.

    Parameters
    ----------
    size
        Of the guest's disk in bytes, a multiple of 1 MiB; at least 1 GiB.
    suite
        Debian release by code name.
    kernel
        Package of the kernel: ``linux-image-cloud-amd64`` or ``linux-image-amd64``.
    root_password
        Root's password for the login on ttyS0.
    mirror
        URL of a Debian mirror; None takes the host's own.
    extra_packages
        More packages to install.
    """

    size: int = 2 << 30
    suite: str = "bookworm"
    kernel: str = "linux-image-cloud-amd64"
    root_password: str = "pyvmm"
    hostname: str = "debian"
    mirror: str | None = None
    grub_timeout: int = 2
    extra_packages: tuple[str, ...] = field(default=())

    def check(self) -> None:
        """Raise GuestBuildError when a value cannot work."""
        if self.size < 1 << 30 or self.size % (1 << 20) or self.size >= 2 << 40:
            raise GuestBuildError("--size: from 1G to less than 2T, in whole MiB")
        if not re.fullmatch(r"[a-z]+", self.suite):
            raise GuestBuildError(f"--suite {self.suite}: the code name of a Debian release, like bookworm")
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", self.hostname):
            raise GuestBuildError(f"--hostname {self.hostname}: letters, digits and '-'")
        if not self.root_password or set(self.root_password) & set("\n:"):
            raise GuestBuildError("--root-password: not empty, without ':' and line breaks")
        for name in (self.kernel, *self.extra_packages):
            if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name):
                raise GuestBuildError(f"{name!r} is not the name of a Debian package")


def parse_size(text: str) -> int:
    """Return bytes of ``2G``, ``1500M`` or a plain number."""
    match = re.fullmatch(r"(\d+)([MGT]?)", text.strip().upper())
    if not match:
        raise GuestBuildError(f"--size {text}: a number with M, G or T, like 2G")
    return int(match[1]) * _SIZES.get(match[2], 1)


def build_debian_disk(
    out: Path,
    disk: DebianDisk | None = None,
    *,
    cache: Path | None = None,
    work: Path | None = None,
    quiet: bool = False,
) -> Path:
    """Make the disk and return its path; an existing file is replaced only when the new one is complete.

    Parameters
    ----------
    out
        Path of the qcow2 to make (raw when it ends in ``.img`` or ``.raw``).
    cache
        Folder that keeps the fetched packages for the next time.
    work
        Folder for the tree while it is made; about 1 GiB. A temporary folder by default.

    Raises
    ------
    GuestBuildError
        One line: not root, a missing tool with its package, or the step that failed and its log.
    """
    disk = disk or DebianDisk()
    disk.check()
    if os.geteuid() != 0:
        raise GuestBuildError("making a Debian disk needs root (debootstrap changes root): run it by sudo")
    tools = require_tools(["debootstrap", "mke2fs", "chroot"])
    if not out.parent.is_dir():
        raise GuestBuildError(f"{out}: no folder {out.parent}")
    progress = Progress(quiet)
    scratch = Path(tempfile.mkdtemp(prefix="pyvmm-debian-", dir=work or os.environ.get("TMPDIR", "/var/tmp")))
    log = scratch / "log"
    finished = False
    try:
        tree = scratch / "root"
        bootstrap_tree(tree, disk, tools["debootstrap"], cache, log, progress)
        identity = uuid.uuid5(uuid.NAMESPACE_DNS, f"{disk.hostname}.{disk.suite}.{disk.kernel}.pyvmm")
        progress.say("configuring the guest: login on ttyS0, fstab, GRUB menu")
        configure_tree(tree, identity, disk.hostname, disk.root_password, disk.grub_timeout, log)
        make_grub_menu(tree, identity, log)
        core_image = make_core_image(tree, log)
        boot_image = (tree / "usr/lib/grub/i386-pc/boot.img").read_bytes()
        clamp_times(tree)
        progress.say("writing the file system: ext4, no mount")
        raw = scratch / "disk.raw"
        write_raw_disk(raw, tree, disk.size, identity, tools["mke2fs"], log)
        with raw.open("r+b") as file:
            install_grub(file, boot_image, core_image, disk.size // SECTOR, identity.fields[0])
        progress.say(f"writing {out}")
        publish(raw, out, log)
        finished = True
    finally:
        # Never into another file system: a proc that a killed debootstrap left mounted is not ours to delete.
        keep_log = not finished and log.exists()
        for path in (scratch / "root", scratch / "disk.raw") if keep_log else (scratch,):
            subprocess.run(["rm", "-rf", "--one-file-system", path], check=False)
    progress.say(f"done: {out} ({out.stat().st_blocks * 512 >> 20} MiB on disk)")
    return out


def bootstrap_tree(
    tree: Path, disk: DebianDisk, debootstrap: str, cache: Path | None, log: Path, progress: Progress
) -> None:
    """Unpack and configure the packages into `tree`, in a mount namespace of its own when the host allows one.

    debootstrap itself keeps the packages' services from starting (policy-rc.d).
    """
    mirror = disk.mirror or debian_mirror(disk.suite).uri
    options = tree / "etc/dpkg/dpkg.cfg.d/small"
    options.parent.mkdir(parents=True)
    options.write_text(_DPKG_OPTIONS)
    argv = [debootstrap, "--arch=amd64", "--variant=minbase"]
    if cache is not None:
        packages = cache.resolve() / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        argv.append(f"--cache-dir={packages}")
    argv += [
        f"--include={','.join((*PACKAGES, disk.kernel, *disk.extra_packages))}",
        disk.suite,
        str(tree),
        mirror,
    ]
    if own_mounts := mount_namespace():
        argv = [*own_mounts, *argv]
    progress.say(f"debootstrap {disk.suite} with {disk.kernel} from {mirror}")
    follow_debootstrap(argv, log, progress.say)
    shutil.rmtree(tree / "var/cache/apt/archives", ignore_errors=True)
    (tree / "var/cache/apt/archives/partial").mkdir(parents=True)


def mount_namespace() -> list[str]:
    """Return the command prefix that gives a command its own mounts, or nothing where the host forbids it."""
    unshare = find_tool("unshare")
    prefix = [unshare, "--mount", "--propagation", "private", "--"] if unshare else []
    if prefix and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return prefix
    return []


def follow_debootstrap(argv: list[str], log: Path, say: Callable[[str], None]) -> None:
    """Run debootstrap, keep its output in `log`, and say its stages with the number of packages in each."""
    stages = {
        "Retrieving": "fetching packages", "Extracting": "unpacking the essential packages",
        "Unpacking": "unpacking", "Configuring": "configuring",
    }  # fmt: skip
    current, count = "", 0
    env = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    with (
        log.open("ab") as out,
        subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env
        ) as process,
    ):
        assert process.stdout is not None
        for raw in process.stdout:
            out.write(raw)
            match = re.match(rb"I: (Retrieving|Extracting|Unpacking|Configuring) \S", raw)
            if not match:
                continue
            stage = match[1].decode()
            if stage != current:
                if count > 1:
                    say(f"  {stages[current]}: {count} packages")
                current, count = stage, 0
            count += 1
    if process.returncode != 0:
        raise GuestBuildError(f"debootstrap failed ({process.returncode}): {last_line(log)} (see {log})")
    if count:
        say(f"  {stages[current]}: {count} packages")


def clamp_times(tree: Path) -> None:
    """Bring no file's time beyond SOURCE_DATE_EPOCH, when that is set (reproducible-builds.org)."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not epoch.isdecimal():
        return
    for folder, names, files in os.walk(tree):
        for name in (*names, *files):
            path = os.path.join(folder, name)
            if os.lstat(path).st_mtime > int(epoch):
                os.utime(path, (int(epoch), int(epoch)), follow_symlinks=False)


def write_raw_disk(raw: Path, tree: Path, size: int, identity: uuid.UUID, mke2fs: str, log: Path) -> None:
    """Make a sparse raw disk whose partition at 1 MiB is an ext4 with the tree's files."""
    with raw.open("wb") as file:
        file.truncate(size)
    start = PARTITION_START * SECTOR
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    env = {**os.environ, **({"E2FSPROGS_FAKE_TIME": epoch} if epoch else {})}
    extended = f"offset={start},lazy_itable_init=0,lazy_journal_init=0,hash_seed={identity},root_owner=0:0"
    argv = [mke2fs, "-q", "-t", "ext4", "-b", "4096", "-I", "256", "-O", _EXT4_FEATURES, "-E", extended]
    argv += ["-L", "root", "-U", str(identity), "-d", str(tree), str(raw), f"{(size - start) // 1024}k"]
    run_logged(argv, log, env=env)


def publish(raw: Path, out: Path, log: Path) -> None:
    """Convert the raw disk to the format of `out` by qemu-img, or by pyvmm's own converter, and put it in place."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        if out.suffix in (".img", ".raw"):
            run_logged(["cp", "--sparse=always", raw, partial], log)
        elif qemu_img := find_tool("qemu-img"):
            run_logged([qemu_img, "convert", "-f", "raw", "-O", "qcow2", raw, partial], log)
        else:
            pyvmm = [sys.executable, "-m", "pyvmm.cli.main"]
            run_logged([*pyvmm, "image", "convert", "-f", "raw", "-O", "qcow2", raw, partial], log)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
