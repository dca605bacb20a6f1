"""Files that are booted: ``-kernel``, ``-initrd``, ``-append`` and ``-bios``."""

from __future__ import annotations

import os

from pyvmm.cli.qemu.drives import existing
from pyvmm.cli.qemu.words import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.cli.qemu.plan import Plan
    from pyvmm.cli.qemu.words import Values


def set_kernel(plan: Plan, values: Values) -> None:
    """``-kernel``."""
    plan.kernel = existing(f"-kernel {values['']}", values[""])


def set_initrd(plan: Plan, values: Values) -> None:
    """``-initrd``."""
    if "," in values[""] and not os.path.exists(values[""]):
        raise refuse(f"-initrd {values['']}", "there is one, for multiboot too", "write one file")
    plan.initrd = existing(f"-initrd {values['']}", values[""])


def set_append(plan: Plan, values: Values) -> None:
    """``-append``."""
    plan.append = values[""]


def set_pflash(plan: Plan, values: Values) -> None:
    """``-pflash``: UEFI's variables."""
    if plan.pflash is not None:
        raise refuse(f"-pflash {values['']}", "there is one flash", "write it once; the code goes to -bios")
    plan.pflash = existing(f"-pflash {values['']}", values[""])


def set_bios(plan: Plan, values: Values) -> str:
    """``-bios``: a path, or a name in the directories where SeaBIOS is installed."""
    from pyvmm.firmware.seabios import PATHS

    name = values[""]
    if name in ("seabios", "ovmf"):
        plan.firmware = name
        return f"{name}, where the host has it"
    folders = list(dict.fromkeys(os.path.dirname(path) for path in PATHS))
    candidates = [name, *(os.path.join(folder, name) for folder in folders if "/" not in name)]
    plan.firmware = existing(f"-bios {name}", next((p for p in candidates if os.path.isfile(p)), name))
    return f"the ROM {plan.firmware} in place of pyvmm's BIOS"
