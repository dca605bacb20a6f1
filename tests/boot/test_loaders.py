"""Kernels of every format that `--kernel` takes, really started: bzImage, PVH ELF, multiboot ELF and flat."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boot.guests import Boot, Vmm, need

pytestmark = [pytest.mark.boot, pytest.mark.timeout(1800)]

SOURCE = Path(__file__).with_name("multiboot_kernel.c")
LINKER_SCRIPT = """
ENTRY(start)
SECTIONS {
  . = 0x100000;
  .text : { *(.multiboot) *(.text*) }
  .rodata : { *(.rodata*) }
  .data : { *(.data*) }
  load_end = .;
  .bss : { *(.bss*) *(COMMON) }
  bss_end = .;
  /DISCARD/ : { *(.note*) *(.eh_frame*) *(.comment*) }
}
"""
DECOMPRESSORS = {
    b"\x1f\x8b": ["gzip", "-dc"],
    b"\xfd7zXZ": ["xz", "-dc", "--single-stream"],
    b"\x28\xb5\x2f\xfd": ["zstd", "-dc"],
    b"\x02\x21\x4c\x18": ["lz4", "-dc"],
}


@pytest.fixture(scope="module", params=["elf", "flat"])
def multiboot_kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multiboot kernel, as an ELF file or as a flat one with load addresses."""
    need("gcc", "ld", "objcopy")
    folder = tmp_path_factory.mktemp("multiboot")
    (folder / "kernel.ld").write_text(LINKER_SCRIPT)
    flags = [
        "-m32",
        "-Os",
        "-ffreestanding",
        "-fno-pic",
        "-fno-stack-protector",
        "-fcf-protection=none",
        "-Wall",
    ]
    flat = request.param == "flat"

    def run(*command: str) -> None:
        subprocess.run(command, cwd=folder, check=True)

    run("gcc", *flags, *(["-DFLAT"] if flat else []), "-c", str(SOURCE), "-o", "kernel.o")
    run("ld", "--no-warn-rwx-segments", "-m", "elf_i386", "-T", "kernel.ld", "-o", "kernel.elf", "kernel.o")
    if not flat:
        return folder / "kernel.elf"
    run("objcopy", "-O", "binary", "kernel.elf", "kernel.bin")
    return folder / "kernel.bin"


@pytest.fixture(scope="module")
def vmlinux(cloud_kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ELF file inside a bzImage: its payload (boot.rst, payload_offset and payload_length), decompressed."""
    data = cloud_kernel.read_bytes()
    setup = (data[0x1F1] + 1) * 512
    start = setup + int.from_bytes(data[0x248:0x24C], "little")
    payload = data[
        start : start + int.from_bytes(data[0x24C:0x250], "little") - 4
    ]  # 4 bytes of length follow
    command = next(command for magic, command in DECOMPRESSORS.items() if payload.startswith(magic))
    need(command[0])
    path = tmp_path_factory.mktemp("vmlinux") / "vmlinux"
    with path.open("wb") as out:
        subprocess.run(command, input=payload, stdout=out, stderr=subprocess.DEVNULL, check=False)
    assert path.read_bytes()[:4] == b"\x7fELF"
    return path


@pytest.fixture(scope="module")
def memtest_folder(guest_cache: Path) -> Path:
    """Where Debian's memtest86+ is unpacked."""
    need("apt-get", "dpkg-deb")
    folder = guest_cache / "memtest86+"
    if not (folder / "boot").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        fetch = ["apt-get", "download", "memtest86+"]
        done = subprocess.run(fetch, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"apt-get cannot download memtest86+: {done.stderr.strip().splitlines()[-1:]}")
        package = next(folder.glob("memtest86+*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    return folder


def test_multiboot(
    vmm: Vmm, boot: Boot, multiboot_kernel: Path, tmp_path: Path, exercised: Callable[[str], None]
) -> None:
    """The kernel finds the state and the information that the specification promises."""
    module = tmp_path / "module.txt"
    module.write_text("a module of 28 bytes at work")
    with boot(vmm.kernel(multiboot_kernel, module, "one two=3", memory=64)) as session:
        session.expect(r"magic=")
        session.expect(r"end=\r+\n")
        text = "magic=" + (session.child.before or "")
        code = session.wait()
    said = dict(re.findall(r"([^\r\n=]+)=([^\r\n]*)", text))
    assert said["magic"] == "2badb002"
    assert said["paging and protection"] == "00000001"
    assert said["interrupts and vm86"] == said["dirty bss"] == said["rpl"] == "00000000"
    assert said["flags"] == "0000004d"
    assert said["command line"].endswith("one two=3")
    assert (said["modules"], said["module size"]) == ("00000001", "0000001c")
    assert said["module"] == module.read_text()
    assert int(said["lower"], 16) == 639
    upper = 63 * 1024
    # Firmware's tables take the last of it.
    assert upper - 256 < int(said["upper"], 16) <= upper
    assert int(said["ram at 1m"], 16) // 1024 == int(said["upper"], 16)
    assert code == 0
    exercised("multiboot kernel")


def test_pvh(vmm: Vmm, boot: Boot, vmlinux: Path, initramfs: Path, exercised: Callable[[str], None]) -> None:
    """The uncompressed Linux kernel starts by its PVH note, with its initrd and command line."""
    append = "console=ttyS0 quiet pyvmm.test=pvh"
    with boot(vmm.kernel(vmlinux, initramfs, append, memory=256)) as session:
        session.expect("\nUP\r+\n")
        session.plain_shell()
        assert session.check("cat /proc/cmdline").strip() == append
        assert session.poweroff("poweroff -f") == 0
    exercised("Linux by PVH")


def test_linux_likes_the_acpi_tables(
    vmm: Vmm, boot: Boot, cloud_kernel: Path, initramfs: Path, exercised: Callable[[str], None]
) -> None:
    """Linux takes interrupts, devices and power-off from ACPI, and complains about nothing in it."""
    if vmm.name != "pyvmm":
        pytest.skip("about pyvmm's own ACPI tables")
    with boot(vmm.kernel(cloud_kernel, initramfs, "console=ttyS0 quiet", memory=128)) as session:
        session.expect("\nUP\r+\n")
        session.plain_shell()
        log = session.check("dmesg")
        for promise in (
            "ACPI: Interpreter enabled",
            "ACPI: Using IOAPIC for interrupt routing",
            "PM: (supports S0 S5)",
            "PCI: Using ACPI for IRQ routing",
            "PCI: Using host bridge windows from ACPI",
            "ACPI: PCI: Interrupt link LNKA configured for IRQ",
        ):
            assert promise in log
        complaints = re.findall(r".*(?:ACPI.*(?:Error|BIOS|Warning|[Ff]irmware [Bb]ug)|AE_[A-Z_]+).*", log)
        assert [line for line in complaints if "BIOS-e820" not in line] == []
        assert {"APIC", "DSDT", "FACP", "FACS", "HPET"} <= set(
            session.check("ls /sys/firmware/acpi/tables").split()
        )
        names = session.check("cat /sys/bus/acpi/devices/*/hid")
        for name in ("PNP0A03", "PNP0C0F", "PNP0501", "PNP0303", "PNP0B00", "PNP0000", "PNP0100"):
            assert name in names
        assert "acpi" in session.check("cat /proc/interrupts")
        assert session.poweroff("poweroff -f") == 0
    exercised("Linux with ACPI")


@pytest.mark.parametrize("name", ["memtest86+x64.bin", "memtest86+ia32.bin"])
def test_memtest(
    vmm: Vmm, boot: Boot, memtest_folder: Path, initramfs: Path, name: str, exercised: Callable[[str], None]
) -> None:
    """Memtest86+ is a bzImage that is no Linux: not relocatable, its own header code; 64-bit and 32-bit entry."""
    kernel = memtest_folder / "boot" / name
    with boot(vmm.kernel(kernel, initramfs, "console=ttyS0,115200", memory=32)) as session:
        session.expect(r"Memtest86\+")
        session.expect(r"Address test, walking ones")
    exercised("Memtest86+")
