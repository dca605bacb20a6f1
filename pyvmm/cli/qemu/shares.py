"""Shared folders: ``-virtfs``, and ``-fsdev`` with ``-device virtio-9p-pci``."""

from __future__ import annotations

import os

from pyvmm.cli.qemu.words import Sub, refuse
from pyvmm.config import ShareConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.cli.qemu.plan import Plan
    from pyvmm.cli.qemu.words import Values

_MODELS = {"none": "none", "passthrough": "none", "mapped": "mapped", "mapped-xattr": "mapped"}
_MAX_TAG = 31
_COMMON = (
    Sub("fsdriver", "who reads the folder: local", values=("local",), instead="write local"),
    Sub("path", "the folder"),
    Sub("id", "its name, for -device"),
    Sub(
        "security_model",
        "where owners and modes are kept: none, passthrough, mapped-xattr",
        {"passthrough": "as none: what may not be set is left", "mapped": "as mapped-xattr"},
        values=tuple(_MODELS),
        instead="write security_model=none or mapped-xattr",
    ),
    Sub("readonly", "the guest cannot write", values=("on", "off")),
    Sub("multidevs", "file systems that are mounted in it", "files of each have numbers of their own",
        values=("remap",), instead="leave it away"),
)  # fmt: skip
FSDEV_SUBS = _COMMON
VIRTFS_SUBS = (*_COMMON, Sub("mount_tag", "what the guest mounts it by"))
DEVICE_SUBS = (
    Sub("fsdev", "the id of the -fsdev that it shows the guest"),
    Sub("mount_tag", "what the guest mounts it by"),
)


def _share(option: str, values: Values, tag: str) -> ShareConfig:
    path = values.get("path", "")
    if not path:
        raise refuse(option, "it has no path", f"write {option} local,path=FOLDER,...")
    if "\0" in path or not os.path.isdir(path):
        why = "is not a folder" if os.path.exists(path) else "no such folder"
        raise refuse(f"{option} path={path}", why, "give a folder of this host")
    if "security_model" not in values:
        raise refuse(option, "it has no security model", "add security_model=none or mapped-xattr")
    return ShareConfig(
        path=path,
        tag=tag,
        read_only=values.get("readonly") == "on",
        security=_MODELS[values["security_model"]],  # type: ignore[arg-type] # one of the two
    )


def _tag(option: str, values: Values) -> str:
    tag = values.get("mount_tag", "")
    if not 1 <= len(tag.encode()) <= _MAX_TAG:
        raise refuse(f"{option} mount_tag={tag}", f"a tag has 1 to {_MAX_TAG} bytes", "write mount_tag=share")
    return tag


def add_virtfs(plan: Plan, values: Values) -> str:
    """``-virtfs``: folder and device at once."""
    tag = _tag("-virtfs", values)
    plan.shares.append(_share("-virtfs", values, tag))
    return f"a virtio-9p function; in Linux: mount -t 9p -o trans=virtio,version=9p2000.L {tag} /mnt"


def add_fsdev(plan: Plan, values: Values) -> None:
    """``-fsdev``: a folder, for a ``-device`` to show."""
    name = values.get("id", "")
    if not name:
        raise refuse("-fsdev", "it has no id", "write -fsdev local,id=share0,...")
    if name in plan.fsdevs:
        raise refuse(f"-fsdev id={name}", "another one has this id", "write another one")
    plan.fsdevs[name] = _share("-fsdev", values, "")


def add_device(plan: Plan, properties: Values) -> str:
    """``-device virtio-9p-pci``; its folder may come later on the command line."""
    tag = _tag("-device virtio-9p-pci", properties)
    plan.share_devices.append((properties.get("fsdev", ""), tag))
    return f"in Linux: mount -t 9p -o trans=virtio,version=9p2000.L {tag} /mnt"


def connect(plan: Plan) -> list[ShareConfig]:
    """Every folder with its tag.

    Raises
    ------
    ConfigError
        A device without its folder, or one that has a device already.
    """
    shares = list(plan.shares)
    left = dict(plan.fsdevs)
    for name, tag in plan.share_devices:
        share = left.pop(name, None)
        if share is None:
            why = "it has a device already" if name in plan.fsdevs else "no -fsdev has this id"
            raise refuse(
                f"-device virtio-9p-pci,fsdev={name}", why, "write one -fsdev local,id=ID,... for each"
            )
        share.tag = tag
        shares.append(share)
    for name in left:
        plan.notes.append(
            f"-fsdev id={name}: nothing shows it; add -device virtio-9p-pci,fsdev={name},mount_tag=TAG"
        )
    return shares
