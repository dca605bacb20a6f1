"""Guests to run: a Debian disk, a Debian kernel, a busybox initramfs.

Nothing here is needed to run a machine. It makes the real systems that the examples, the boot tests and the
benchmarks start, out of Debian packages from the host's own configured mirror: no address of a server is written here.
"""

from pyvmm.guests.debian import DebianDisk, build_debian_disk
from pyvmm.guests.initramfs import BUSYBOX_INIT, build_initramfs
from pyvmm.guests.kernel import debian_kernel
from pyvmm.guests.tools import GuestBuildError

__all__ = [
    "BUSYBOX_INIT",
    "DebianDisk",
    "GuestBuildError",
    "build_debian_disk",
    "build_initramfs",
    "debian_kernel",
]
