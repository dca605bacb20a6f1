"""The tree of errors. Each message is one line that names the file, option or register, and what to do.

PyvmmError
  ImageError      a disk image
  BootError       a kernel, an initrd, or a disk that does not boot
  ConfigError     an option or a MachineConfig value
  EngineError     an engine that cannot run here
  DeviceError     a device or its wiring
  NetError        a network backend, or what it needs of the host
  GuestError      an access outside the guest's memory
"""

from __future__ import annotations


class PyvmmError(Exception):
    """Anything that pyvmm reports to its user."""


class ImageError(PyvmmError):
    """A disk image that is damaged, locked, unsupported or missing."""


class BootError(PyvmmError):
    """A kernel, initrd or disk that cannot be started."""


class ConfigError(PyvmmError):
    """An option or configuration value that cannot be used."""


class EngineError(PyvmmError):
    """An engine that does not work on this host."""


class DeviceError(PyvmmError):
    """A device that cannot be made or placed."""


class NetError(PyvmmError):
    """A network that the host does not have, or not for this user."""


class GuestError(PyvmmError, IndexError):
    """An access to guest memory or state that does not exist."""
