"""Linux's ata_piix on the IDE controller: a disk and a disc, by bus-master DMA and by PIO, and the same under QEMU."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.guests.cached import cached_initramfs
from tests.boot.guests import Boot, Session, Vmm, check_image, need, qemu_img

pytestmark = [pytest.mark.boot, pytest.mark.timeout(1800)]

MIB = 1 << 20
DISK = 24 * MIB
WRITTEN = (5 * MIB + 8192, 3 * MIB)
"""Where the guest writes, and how much."""


def sha256(data: bytes) -> str:
    """As sha256sum prints it."""
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="session")
def contents() -> bytes:
    """What is on the disk at first."""
    return random.Random(1810).randbytes(DISK)


@pytest.fixture(scope="session")
def ata_initramfs(guest_cache: Path, cloud_kernel: Path) -> Path:
    """A busybox initramfs that loads the drivers of IDE disks and CD-ROM drives."""
    need("busybox")
    return cached_initramfs(modules=("ata_piix", "sd_mod", "sr_mod", "isofs"))


@pytest.fixture(scope="session")
def iso(tmp_path_factory: pytest.TempPathFactory, contents: bytes) -> Path:
    """An ISO 9660 file system with a big and a small file."""
    need("xorriso")
    folder = tmp_path_factory.mktemp("iso")
    (folder / "tree/deep").mkdir(parents=True)
    (folder / "tree/small").write_text("a small file\n")
    (folder / "tree/deep/big").write_bytes(contents[: 6 * MIB + 123])
    command = ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", "disc.iso", "tree"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "disc.iso"


def make_disk(folder: Path, name: str, contents: bytes) -> Path:
    """A qcow2 with these contents."""
    need("qemu-img")
    raw, disk = folder / f"{name}.raw", folder / f"{name}.qcow2"
    raw.write_bytes(contents)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, disk)
    raw.unlink()
    return disk


def use_drives(session: Session, contents: bytes) -> list[str]:
    """Everything that a user does with the two drives; returns what the guest said, to be compared between machines."""
    said = []

    def tell(command: str) -> str:
        result = session.run(command)
        said.append(f"{command}: {result.code}: {result.output}")
        return result.output

    drop = "echo 3 > /proc/sys/vm/drop_caches"
    session.check("for i in $(seq 100); do [ -b /dev/sda ] && [ -b /dev/sr0 ] && break; sleep 0.2; done")
    tell("cat /sys/block/sda/size /sys/block/sr0/size /sys/block/sda/ro /sys/block/sr0/removable")
    tell("cat /sys/class/ata_device/dev[12].0/class /sys/class/ata_device/dev[12].0/xfer_mode")
    assert tell("sha256sum /dev/sda").split()[0] == sha256(contents)
    start, length = WRITTEN
    source = "yes 'what the guest writes' | head -c"
    # Sector by sector at first, then in big pieces.
    tell(f"{source} 8192 | dd of=/dev/sda bs=512 seek={start // 512} conv=notrunc,fsync 2>/dev/null")
    tell(
        f"{source} {length} | dd of=/dev/sda bs=64k seek={start // 512 * 512} oflag=seek_bytes conv=fsync 2>/dev/null"
    )
    session.check(drop)
    assert tell("sha256sum /dev/sda").split()[0] == sha256(after_writing(contents))
    assert tell("dd if=/dev/sda bs=512 skip=32345 count=3 2>/dev/null | sha256sum").split()[0] == sha256(
        contents[32345 * 512 : 32348 * 512]
    )
    tell(
        "mount -t iso9660 -o ro /dev/sr0 /tmp && cat /tmp/small && ls -l /tmp /tmp/deep | awk '{print $5, $9}'"
    )
    assert tell("sha256sum /tmp/deep/big").split()[0] == sha256(contents[: 6 * MIB + 123])
    tell("umount /tmp && eject /dev/sr0; dd if=/dev/sr0 of=/dev/null count=1 2>&1")
    tell("eject -t /dev/sr0; sleep 1; sha256sum /dev/sr0")
    tell("dd if=/dev/zero of=/dev/sr0 count=1 2>&1 | head -1")
    tell("dmesg | grep -E -i 'ata.*(exception|error|failed|timeout)' | sed 's/^[^]]*] //'")
    return said


def after_writing(contents: bytes) -> bytes:
    """The disk's contents as the guest leaves them."""
    start, length = WRITTEN
    text = (b"what the guest writes\n" * (length // 22 + 1))[:length]
    return contents[:start] + text + contents[start + length :]


@pytest.mark.parametrize("mode", ["dma", "pio"])
def test_linux_uses_both_drives(
    vmm: Vmm,
    qemu: Vmm,
    boot: Boot,
    exercised: Callable[[str], None],
    cloud_kernel: Path,
    ata_initramfs: Path,
    iso: Path,
    tmp_path: Path,
    contents: bytes,
    mode: str,
) -> None:
    """What is read is what is there, what is written is on the image afterwards, and QEMU's guest says the same."""
    append = "console=ttyS0 quiet" + (" libata.dma=0" if mode == "pio" else "")
    said = {}
    for each in (vmm, qemu):
        disk = make_disk(tmp_path, each.name, contents)
        with boot(
            [*each.kernel(cloud_kernel, ata_initramfs, append, memory=256), *each.ide(disk, iso)]
        ) as session:
            session.expect("\nUP\r+\n")
            session.plain_shell()
            said[each.name] = use_drives(session, contents)
            assert session.poweroff("poweroff -f") == 0
        check_image(disk)
        qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, tmp_path / "after.raw")
        assert sha256((tmp_path / "after.raw").read_bytes()) == sha256(after_writing(contents))
    assert said[vmm.name] == said[qemu.name]
    assert any("XFER_MW_DMA_2" in line for line in said[vmm.name]) == (mode == "dma")
    exercised(f"Linux ata_piix, {mode}")
