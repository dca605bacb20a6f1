"""The built-in guest on QEMU: its boot ways, every command of its shell, and what it leaves on the disk.

QEMU is the peer here: where guest and SeaBIOS agree with QEMU's devices, a failure under pyvmm is pyvmm's.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from tests.boot import builtin_session as session
from tests.boot.builtin_build import ROOT, build, guest, run

__all__ = ["guest"]  # the fixture

MKDISK = ROOT / "csrc" / "guest" / "mkdisk.py"
TRANSITIONAL = ("-device", "virtio-blk-pci,drive=disk,serial=builtin")
MODERN = ("-device", "virtio-blk-pci,drive=disk,disable-legacy=on")
LEGACY = ("-device", "virtio-blk-pci,drive=disk,disable-modern=on,disable-legacy=off")

pytestmark = [
    pytest.mark.boot,
    pytest.mark.skipif(
        not shutil.which("qemu-system-x86_64"), reason="no qemu-system-x86_64 (qemu-system-x86)"
    ),
]


def sector_of(disk: Path, lba: int, count: int = 1) -> bytes:
    """Return sectors of an image as qemu-img reads them."""
    raw = disk.with_suffix(".raw")
    run("qemu-img", "convert", "-O", "raw", disk, raw)
    return raw.read_bytes()[lba * 512 : (lba + count) * 512]


@pytest.fixture
def disk(guest: Path, tmp_path: Path) -> Path:
    """Return a copy of the guest's disk that may be written."""
    return Path(shutil.copy(guest / "builtin.qcow2", tmp_path / "disk.qcow2"))


@contextmanager
def qemu(disk: Path | None, *options: str | Path, accel: str = "tcg") -> Iterator[pexpect.spawn[str]]:
    """Start QEMU with the guest's console on a pseudo-terminal."""
    words = ["-M", "pc", "-accel", accel, "-m", "128", "-display", "none", "-nodefaults"]
    words += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    if disk:
        words += ["-drive", f"if=none,id=disk,file={disk}"]
    child = pexpect.spawn("qemu-system-x86_64", [*words, *map(str, options)], encoding="utf-8", timeout=60)
    child.delaybeforesend = None
    try:
        yield child
    finally:
        child.close(force=True)


@pytest.mark.parametrize("interface", [TRANSITIONAL, MODERN], ids=["transitional", "modern"])
def test_session(disk: Path, interface: tuple[str, ...]) -> None:
    """Every command answers, crashes are survived, and what was written is in the image afterwards."""
    with qemu(disk, *interface) as child:
        session.expect_boot(child)
        answers = session.run_session(child)
        # The last request's interrupt may come after its answer was seen: count when there were many.
        counted = session.run_session(child, [session.Step("disk")])["disk"]
        assert session.power_off(child) == 0
    assert "modern interface" in answers["disk"]
    assert not re.search(r"interrupts 0\b", counted), "INTx never arrived"
    assert "SYSCALL to ring 0, INT 80h to ring 0, INT3 to ring 0" in answers["ring3 none"]

    assert "No errors were found" in run("qemu-img", "check", disk)
    assert sector_of(disk, session.WRITE_LBA) == session.WRITE_TEXT.encode().ljust(512, b"\0")
    assert f": {zlib.crc32(sector_of(disk, 2048, 16)):08x}" in answers["disk sum 2048 16"]


def test_legacy_virtio(disk: Path) -> None:
    """Without modern capabilities the driver uses the registers behind I/O BAR 0 (virtio 1.2 §4.1.4.8)."""
    with qemu(disk, *LEGACY) as child:
        session.expect_boot(child)
        answers = session.run_session(child, session.DISK)
        assert session.power_off(child) == 0
    assert "legacy interface, queue of 256" in answers["disk"]
    assert sector_of(disk, session.WRITE_LBA).startswith(session.WRITE_TEXT.encode())


def test_read_only_disk(disk: Path) -> None:
    """VIRTIO_BLK_F_RO is respected: the command says so, and nothing is sent."""
    step = session.Step(f"disk write {session.WRITE_LBA} x", (r"the device is read-only",))
    with qemu(None, "-drive", f"if=none,id=disk,file={disk},readonly=on", *TRANSITIONAL) as child:
        session.expect_boot(child)
        session.run_session(child, [session.Step("disk", (r"read-only", r"RO\+")), step])
        assert session.power_off(child) == 0


def test_chs_boot_from_floppy(guest: Path, tmp_path: Path) -> None:
    """SeaBIOS has no INT 13h extensions for floppy disks: the boot sector reads by cylinder, head and sector."""
    floppy = tmp_path / "floppy.img"
    floppy.write_bytes((guest / "builtin.raw").read_bytes()[:1474560])
    step = session.Step("disk", (r"no virtio block device on the PCI bus",))
    with qemu(None, "-drive", f"if=floppy,format=raw,file={floppy}") as child:
        session.expect_boot(child, (*session.BOOT, r"disk +none: no virtio"))
        session.run_session(child, [step])
        assert session.power_off(child) == 0


def test_pvh_boot(guest: Path, disk: Path) -> None:
    """`-kernel` enters by the PVH note; the kernel finds the same disk."""
    with qemu(disk, "-kernel", guest / "guest-kernel.elf", *MODERN) as child:
        session.expect_boot(child, (*session.BOOT, r"disk +virtio-blk"))
        session.run_session(child, [*session.DISK, session.ring3("", r"Explained: HLT")])
        assert session.power_off(child) == 0


def test_more_memory_than_mapped(disk: Path) -> None:
    """RAM above 4 GiB is listed and left alone; SMEP is used where the CPU has it."""
    steps = [
        session.Step("mem", (r"000100000000 - 00017fffffff +2097152 KiB +usable",)),
        session.Step("pages", (r"SMEP on",)),
        session.ring3("", r"Explained: HLT"),
    ]
    with qemu(disk, "-m", "5G", "-cpu", "max", *TRANSITIONAL) as child:
        session.expect_boot(child)
        session.run_session(child, steps)
        assert session.power_off(child) == 0


def test_without_nx(disk: Path) -> None:
    """A CPU without execute-disable has no such bit in its page tables (it would be a reserved bit)."""
    steps = [
        session.Step("pages 0x200000", (r"writable, executable",)),
        session.Step("ring3 nx", (r"now executing the stack", r"the program returned 0")),
    ]
    with qemu(disk, "-cpu", "qemu64,-nx", *TRANSITIONAL) as child:
        session.expect_boot(child)
        session.run_session(child, steps)
        assert session.power_off(child) == 0


def test_32_bit_cpu_is_told(disk: Path) -> None:
    """Without long mode there is one line, not a triple fault."""
    with qemu(disk, "-cpu", "qemu32", *TRANSITIONAL) as child:
        child.expect(r"kernel: this CPU has no long mode \(CPUID 0x80000001 EDX bit 29\)")


def test_disk_behind_a_bridge(disk: Path) -> None:
    """The PCI scan follows bridges."""
    bridge = ("-device", "pci-bridge,id=bridge,chassis_nr=1")
    with qemu(disk, *bridge, "-device", "virtio-blk-pci,drive=disk,bus=bridge,addr=3") as child:
        session.expect_boot(child)
        session.run_session(child, [session.Step("pci", (r"PCI bridge", r"01:03\.0  1af4:1001"))])
        assert session.power_off(child) == 0


def test_console_without_interrupt(disk: Path) -> None:
    """COM1 on another IRQ than 4: the start-up test sees it, and input is polled."""
    words = [
        "-M",
        "pc",
        "-accel",
        "tcg",
        "-display",
        "none",
        "-nodefaults",
        "-chardev",
        "stdio,id=console,signal=off",
    ]
    words += ["-device", "isa-serial,chardev=console,iobase=0x3f8,irq=7", "-drive", f"if=virtio,file={disk}"]
    child = pexpect.spawn("qemu-system-x86_64", words, encoding="utf-8", timeout=60)
    try:
        child.expect(r"COM1, polled \(IRQ 4 does not arrive\)")
        child.expect(session.PROMPT)
        session.run_session(child, session.DISK)
        assert session.power_off(child) == 0
    finally:
        child.close(force=True)


@pytest.mark.parametrize("command", ["reboot", "crash triple"])
def test_reset(disk: Path, command: str) -> None:
    """`reboot` and a triple fault both reset the machine, which boots again."""
    with qemu(disk, *TRANSITIONAL) as child:
        session.expect_boot(child)
        child.send(command + "\r")
        session.expect_boot(child)
        assert session.power_off(child) == 0


def kvm_missing() -> str:
    """Return why KVM cannot be used here, or nothing."""
    try:
        handle = os.open("/dev/kvm", os.O_RDWR)
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    try:
        version = fcntl.ioctl(handle, 0xAE00)  # KVM_GET_API_VERSION
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    finally:
        os.close(handle)
    return "" if version == 12 else f"/dev/kvm: API version {version}"


@pytest.mark.skipif(bool(kvm_missing()), reason=kvm_missing() or "usable")
def test_session_on_kvm(disk: Path) -> None:
    """The same session where KVM runs ring 0, natively or by interpretation: no instruction of it may be refused."""
    with qemu(disk, "-cpu", "host,-arch-capabilities", *MODERN, accel="kvm") as child:
        session.expect_boot(child, timeout=240)
        session.run_session(child, timeout=240)
        assert session.power_off(child, timeout=240) == 0


def test_clang_builds_it(tmp_path: Path) -> None:
    """The second compiler makes a disk that boots as well."""
    if not shutil.which("clang"):
        pytest.skip("no clang")
    folder = build(tmp_path, "clang")
    with qemu(folder / "builtin.qcow2", *TRANSITIONAL) as child:
        session.expect_boot(child)
        session.run_session(child, [*session.DISK, *session.RINGS, *session.CRASHES])
        assert session.power_off(child) == 0


def test_image_is_clean_and_reproducible(guest: Path, tmp_path: Path) -> None:
    """qemu-img finds nothing to complain about, the MBR is valid, and building again gives the same bytes."""
    assert "No errors were found" in run("qemu-img", "check", guest / "builtin.qcow2")
    data = (guest / "builtin.raw").read_bytes()
    assert len(data) == 8 << 20
    assert data[510:512] == b"\x55\xaa"
    boot, kind, start, count = struct.unpack("<B3xB3xII", data[0x1BE:0x1CE])
    assert (boot, kind, start, start + count) == (0x80, 0xDA, 2048, 16384)
    parts = guest / "guest"
    run(sys.executable, MKDISK, "--mbr", parts / "mbr.bin", "--setup", parts / "setup.bin", "--kernel",
        parts / "kernel.bin", "--qcow2", tmp_path / "again.qcow2")  # fmt: skip
    assert (tmp_path / "again.qcow2").read_bytes() == (guest / "builtin.qcow2").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mbr.bin", b"\0" * 512, "must be 512 and end in 55 AA"),
        ("setup.bin", b"\0" * 512, "no magic at offset 4"),
        ("kernel.bin", b"\1" * 0x80000, "fit below 0x80000"),
    ],
)
def test_mkdisk_refuses(guest: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """A part that cannot boot is one line on standard error and leaves no image."""
    for part in ("mbr.bin", "setup.bin", "kernel.bin"):
        shutil.copy(guest / "guest" / part, tmp_path / part)
    (tmp_path / name).write_bytes(content)
    words = [
        sys.executable,
        str(MKDISK),
        "--mbr",
        "mbr.bin",
        "--setup",
        "setup.bin",
        "--kernel",
        "kernel.bin",
    ]
    done = subprocess.run(
        [*words, "--qcow2", "out.qcow2"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.qcow2").exists()
