"""Make a Debian disk that boots, out of Debian's own packages: ``python examples/debian_disk.py debian.qcow2``.

debootstrap, the stock kernel, GRUB in the MBR, ext4, root's login on the first serial port; no loop device, no mount.
Needs root. The work is in `pyvmm.guests.debian`; this is its command line (also ``./dev guest debian``).
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("pyvmm") is None:  # run by a Python without pyvmm, as under sudo
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pyvmm.guests.debian import DebianDisk, build_debian_disk, parse_size
from pyvmm.guests.tools import GuestBuildError


def main() -> int:
    """Read the options, make the disk, say how to run it."""
    default = DebianDisk()
    parser = argparse.ArgumentParser(prog="debian_disk.py", description="Make a Debian disk image (qcow2).")
    parser.add_argument(
        "out", metavar="OUT.qcow2", type=Path, help="the image to make; .img or .raw makes a raw one"
    )
    parser.add_argument("--size", default="2G", help="of the guest's disk (default 2G)")
    parser.add_argument("--suite", default=default.suite, help="Debian release (default %(default)s)")
    parser.add_argument(
        "--kernel", default=default.kernel, help="package of the kernel (default %(default)s)"
    )
    parser.add_argument("--root-password", default=default.root_password, help="(default %(default)s)")
    parser.add_argument("--hostname", default=default.hostname, help="(default %(default)s)")
    parser.add_argument("--include", default="", metavar="A,B", help="more packages to install")
    parser.add_argument("--mirror", help="URL of a Debian mirror (default: the one this host's apt uses)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep the fetched packages here")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="scratch folder, about 1 GiB (default /var/tmp)"
    )
    options = parser.parse_args()
    try:
        disk = DebianDisk(
            size=parse_size(options.size),
            suite=options.suite,
            kernel=options.kernel,
            root_password=options.root_password,
            hostname=options.hostname,
            mirror=options.mirror,
            extra_packages=tuple(name for name in options.include.split(",") if name),
        )
        build_debian_disk(options.out, disk, cache=options.cache, work=options.work)
    except GuestBuildError as error:
        print(f"debian_disk.py: {error}", file=sys.stderr)
        return 1
    print(f"\nRun it:  pyvmm run {options.out}")
    print(f"Log in as root with the password {disk.root_password}; poweroff ends it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
