"""A Debian kernel to start directly: the host's own, or the package of a flavour, fetched by apt and unpacked.

Fetching needs no root: `apt-get download` takes the package from the host's configured mirror with its signature
checked by apt, `dpkg-deb -x` unpacks it, nothing is installed. Left out: the flavour's modules as an initramfs.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from pyvmm.guests.tools import GuestBuildError, cache_directory, require_tools, run_logged

CLOUD_KERNEL = "linux-image-cloud-amd64"
KERNELS = {"cloud": CLOUD_KERNEL, "generic": "linux-image-amd64"}
"""Meta packages of Debian's stock kernels: the one for virtual machines, and the one for every PC."""


def kernel_package(meta: str = CLOUD_KERNEL) -> str:
    """Return the package that a flavour's meta package stands for now, like ``linux-image-6.1.0-NN-cloud-amd64``.

    Raises
    ------
    GuestBuildError
        When apt does not know the meta package.
    """
    tools = require_tools(["apt-cache"])
    done = subprocess.run(
        [tools["apt-cache"], "depends", "--important", meta], capture_output=True, text=True, check=False
    )
    match = re.search(r"Depends: (linux-image-\S+)", done.stdout)
    if not match:
        raise GuestBuildError(
            f"apt knows no {meta}: run apt-get update, or add a Debian mirror to apt's sources"
        )
    return match[1]


def host_kernel() -> Path | None:
    """Return the newest readable kernel of the host itself, or None."""

    def version(path: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", path.name)]

    for path in sorted(Path("/boot").glob("vmlinuz-*"), key=version, reverse=True):
        try:
            with path.open("rb") as file:
                if file.read(0x206)[0x202:] == b"HdrS":
                    return path
        except OSError:
            continue
    return None


def debian_kernel(cache: Path | None = None, meta: str = CLOUD_KERNEL, *, host: bool = False) -> Path:
    """Return the path of a Debian kernel (bzImage), fetched into `cache` when it is not there.

    Parameters
    ----------
    cache
        Folder for the package and what was unpacked; ``$XDG_CACHE_HOME/pyvmm`` by default.
    meta
        Meta package of the flavour: ``linux-image-cloud-amd64`` or ``linux-image-amd64``.
    host
        Take a kernel that the host has in ``/boot`` when there is one.

    Raises
    ------
    GuestBuildError
        One line: apt does not know the package, or the fetch failed.
    """
    if host and (own := host_kernel()):
        return own
    folder = (cache or cache_directory()) / "kernel"
    try:
        package = kernel_package(meta)
    except GuestBuildError:
        flavour = meta.removeprefix("linux-image-")
        packages = folder.glob(f"linux-image-[0-9]*-{flavour}/boot/vmlinuz-*")
        if kept := sorted(path for path in packages if ("cloud" in path.name) == ("cloud" in flavour)):
            return kept[-1]
        raise
    unpacked = folder / package
    found = sorted((unpacked / "boot").glob("vmlinuz-*"))
    if not found:
        tools = require_tools(["apt-get", "dpkg-deb"])
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log"
        run_logged([tools["apt-get"], "download", package], log, cwd=folder)
        archives = sorted(folder.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
        if not archives:
            raise GuestBuildError(f"apt-get download {package} left no file in {folder} (see {log})")
        run_logged([tools["dpkg-deb"], "-x", archives[-1], unpacked], log)
        for path in archives:
            path.unlink()
        found = sorted((unpacked / "boot").glob("vmlinuz-*"))
        if not found:
            raise GuestBuildError(f"{package} has no /boot/vmlinuz-*: is it a kernel? (see {log})")
    return found[-1]
