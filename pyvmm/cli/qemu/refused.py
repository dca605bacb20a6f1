"""QEMU's options that are not here: each with its number of words, why, and what to do.

Names from ``qemu-system-x86_64 -help`` of QEMU 7.2 (a test compares), and some that older versions had.
"""

from __future__ import annotations

from pyvmm.cli.qemu.words import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LEAVE = "leave it away"

# why, what to do, options without a value, options with one
_GROUPS: tuple[tuple[str, str, str, str], ...] = (
    ("networks are said by -nic and -netdev", "write for example -nic user,hostfwd=tcp::2222-:22",
     "", "nic-model tftp bootp redir smb"),
    ("there is no USB yet", _LEAVE, "usb", "usbdevice"),
    ("there is no sound", _LEAVE, "audio-help", "audio audiodev soundhw"),
    ("pyvmm opens no window", "use -vnc :0, or this terminal with -nographic",
     "full-screen portrait sdl curses no-quit no-frame alt-grab ctrl-grab", "rotate spice"),
    ("character devices are not named separately", "use -serial, -monitor or -debugcon directly", "", "mon"),
    ("there is no machine protocol yet", "use the Python library, pyvmm.Machine", "preconfig", "qmp qmp-pretty"),
    ("there is no gdb server yet", "use the Python library: vcpu.breakpoints and machine.exits()", "s", "gdb"),
    ("machines are not saved or moved yet", _LEAVE, "only-migratable", "loadvm incoming dump-vmstate"),
    ("pyvmm stays in the foreground", "let the shell do it: pyvmm qemu-kvm ... &", "daemonize", "pidfile"),
    ("the SMBIOS tables are pyvmm's own", "write -uuid for the one value that can be set", "", "smbios"),
    ("memory is one anonymous file of the machine's own", _LEAVE, "mem-prealloc", "mem-path overcommit"),
    ("there is one NUMA node", _LEAVE, "", "numa"),
    ("ACPI is always on", "let the kernel do it: acpi=off on its command line", "no-acpi", "acpitable"),
    ("the BIOS boots nothing without its signature", _LEAVE, "no-fd-bootchk", ""),
    ("logs are not in QEMU's format", "use pyvmm run -v, or machine.exits() in Python", "", "d D dfilter trace"),
    ("instruction counting is another option here", "use pyvmm run --clock virtual", "", "icount"),
    ("block nodes are not named separately", "use -drive", "", "blockdev iscsi"),
    ("there is no such device", _LEAVE, "", "mtdblock sd tpmdev option-rom dtb fw_cfg"),
    ("objects of QEMU's own model are not here", _LEAVE, "", "object global set add-fd"),
    ("there is no watchdog", _LEAVE, "", "watchdog watchdog-action"),
    ("pyvmm reads no configuration of QEMU's", "write the options out", "", "readconfig writeconfig compat"),
    ("pyvmm drops no privileges by itself", "let systemd-run, bwrap or setpriv do it", "", "sandbox runas chroot"),
    ("firmware is looked for where the host installs it", "write -bios PATH", "", "L"),
    ("the key before commands is Ctrl-A", _LEAVE, "", "echr"),
    ("it is about QEMU's own inside", _LEAVE,
     "singlestep enable-sync-profile async-teardown win2k-hack xen-attach xen-domid-restrict tdf no-kvm no-kvm-pit"
     " no-kvm-irqchip enable-fips", "msg seed plugin xen-domid balloon"),
)  # fmt: skip


def _table() -> Iterator[tuple[str, tuple[bool, str, str]]]:
    for why, instead, flags, valued in _GROUPS:
        for name in flags.split():
            yield name, (False, why, instead)
        for name in valued.split():
            yield name, (True, why, instead)


REFUSED = dict(_table())
"""By name: whether a value follows, why, and what to do."""


def refusal(name: str, value: str | None) -> Exception:
    """The line for an option that is not in pyvmm."""
    if name not in REFUSED:
        return refuse(f"-{name}", "not an option that pyvmm knows", "pyvmm qemu-kvm --help lists those")
    written = f"-{name}" if value is None else f"-{name} {value}"
    return refuse(written, REFUSED[name][1], REFUSED[name][2])
