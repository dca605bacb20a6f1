"""pyvmm: a virtual machine monitor and full-system x86 emulator, as a library.

``import pyvmm`` costs next to nothing: each name below is fetched from its module when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.asm import assemble, disassemble
    from pyvmm.block import create_image, open_image
    from pyvmm.config import DiskConfig, MachineConfig
    from pyvmm.cpu.state import CpuState
    from pyvmm.devices.base import Device
    from pyvmm.engine import VmExit
    from pyvmm.errors import PyvmmError
    from pyvmm.machine.machine import Machine
    from pyvmm.memory import GuestMemory
    from pyvmm.units import parse_size

    __version__: str

_HOME = {
    "CpuState": "pyvmm.cpu.state",
    "Device": "pyvmm.devices.base",
    "DiskConfig": "pyvmm.config",
    "GuestMemory": "pyvmm.memory",
    "Machine": "pyvmm.machine.machine",
    "MachineConfig": "pyvmm.config",
    "PyvmmError": "pyvmm.errors",
    "VmExit": "pyvmm.engine",
    "assemble": "pyvmm.asm",
    "create_image": "pyvmm.block",
    "disassemble": "pyvmm.asm",
    "open_image": "pyvmm.block",
    "parse_size": "pyvmm.units",
}

__all__ = [
    "CpuState",
    "Device",
    "DiskConfig",
    "GuestMemory",
    "Machine",
    "MachineConfig",
    "PyvmmError",
    "VmExit",
    "__version__",
    "assemble",
    "create_image",
    "disassemble",
    "open_image",
    "parse_size",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module the first time that it is asked for."""
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("pyvmm-lab")
    elif name in _HOME:
        value = getattr(__import__(_HOME[name], fromlist=[name]), name)
    else:
        raise AttributeError(f"module 'pyvmm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, fetched or not."""
    return sorted(__all__)
