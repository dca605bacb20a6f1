"""Kernel modules out of an unpacked kernel package, in the order in which they have to be loaded.

What a module needs is read from its own ``.modinfo`` strings (``depends=a,b``), since the package has no
``modules.dep``: that is made where it is installed. Built-in ones are not there, and are passed over.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable
from pathlib import Path

from pyvmm.guests.tools import GuestBuildError

_DEPENDS = re.compile(rb"(?<=\0)depends=([^\0]*)\0")


def module_folder(kernel: Path) -> Path:
    """Return ``lib/modules/VERSION`` of the package that a ``boot/vmlinuz-VERSION`` was unpacked from."""
    version = kernel.name.removeprefix("vmlinuz-")
    root = kernel.parent.parent
    for folder in (root / "lib/modules" / version, root / "usr/lib/modules" / version):
        if folder.is_dir():
            return folder
    raise GuestBuildError(f"{kernel}: no lib/modules/{version} beside it: unpack the whole kernel package")


def load_module(path: Path) -> bytes:
    """Return a module as the kernel takes it, unpacked when it is compressed by xz."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def load_order(kernel: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return ``{name: contents}`` of modules and all that they need, each after what it needs.

    Raises
    ------
    GuestBuildError
        A wanted module is not in the package; what others need and is not there is taken for built in.
    """
    files = {
        path.name.partition(".ko")[0].replace("-", "_"): path
        for path in module_folder(kernel).glob("kernel/**/*.ko*")
    }
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        path = files.get(name)
        if path is None or name in ordered:
            return
        data = load_module(path)
        match = _DEPENDS.search(data)
        for needed in (match[1].decode() if match else "").split(","):
            add(needed.replace("-", "_"))
        ordered[name] = data

    for name in names:
        if name not in files:
            raise GuestBuildError(f"{kernel.name}: it has no module {name}")
        add(name)
    return ordered


def module_path(name: str) -> str:
    """Return where an initramfs has a module."""
    return f"/modules/{name}.ko"


def with_modules(init: str, modules: Iterable[str]) -> str:
    """Return an init script that loads modules, in the order given, before it says UP.

    A parameter of a module is taken from the kernel's command line, as modprobe does (modprobe(8)).
    """
    lines = [
        f"insmod {module_path(name)} $(tr ' ' '\\n' < /proc/cmdline | sed -n 's/^{name}\\.//p')"
        for name in modules
    ]
    return init.replace("\necho UP\n", "\n" + "".join(f"{line}\n" for line in lines) + "echo UP\n")
