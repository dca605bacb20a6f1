"""Guests made once and kept: what the boot tests and the benchmarks start, in one folder.

The folder is ``$PYVMM_GUEST_CACHE``, or ``guests`` in pyvmm's cache. A guest's name has a digest of what it is made
of and by, so a change of the recipe makes a new one. A lock keeps two processes from making the same guest at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyvmm.guests import debian, debian_tree, initramfs, mbr
from pyvmm.guests.debian import DebianDisk, build_debian_disk
from pyvmm.guests.initramfs import BUSYBOX_INIT, build_initramfs
from pyvmm.guests.kernel import KERNELS, debian_kernel
from pyvmm.guests.modules import load_order, module_path, with_modules
from pyvmm.guests.tools import cache_directory


def guest_cache() -> Path:
    """Return the folder of made guests, existing."""
    named = os.environ.get("PYVMM_GUEST_CACHE")
    folder = Path(named).absolute() if named else cache_directory() / "guests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def cached_debian_disk(disk: DebianDisk | None = None) -> Path:
    """Return a fresh Debian disk (qcow2) that is never to be written: boot a copy or an overlay of it.

    Raises
    ------
    GuestBuildError
        It was not there and cannot be made; see `build_debian_disk`.
    """
    disk = disk or DebianDisk()
    folder = guest_cache()
    recipe = [Path(str(module.__file__)).read_bytes() for module in (debian, debian_tree, mbr)]
    path = folder / f"debian-{disk.suite}-{_digest(disk, *recipe)}.qcow2"
    with _locked(folder):
        if not path.exists():
            build_debian_disk(path, disk, cache=folder)
    return path


def cached_kernel(flavour: str = "cloud") -> Path:
    """Return one of Debian's stock kernels (bzImage), fetched when it is not there; raises GuestBuildError.

    Parameters
    ----------
    flavour
        ``"cloud"`` or ``"generic"``, as `pyvmm.guests.kernel.KERNELS` names their packages.
    """
    folder = guest_cache()
    with _locked(folder):
        return debian_kernel(folder, KERNELS[flavour])


def cached_initramfs(
    init: str = BUSYBOX_INIT, modules: Sequence[str] = (), *, flavour: str = "cloud"
) -> Path:
    """Return a busybox initramfs with this init script; raises GuestBuildError.

    `modules` of the kernel of this flavour are loaded, with what they need, before the init script goes on to its
    shell; words ``MODULE.PARAMETER=VALUE`` of the kernel's command line are their parameters.
    """
    folder = guest_cache()
    loaded = load_order(cached_kernel(flavour), modules) if modules else {}
    init = with_modules(init, loaded)
    path = folder / f"initramfs-{_digest(init, loaded, Path(str(initramfs.__file__)).read_bytes())}.gz"
    with _locked(folder):
        if not path.exists():
            partial = path.with_suffix(".partial")
            build_initramfs(partial, init, files={module_path(name): data for name, data in loaded.items()})
            partial.replace(path)
    return path
