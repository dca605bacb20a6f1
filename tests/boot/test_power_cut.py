"""``kill -9`` while a Linux guest writes to a qcow2: what it flushed is there, and the image has no corruption."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pexpect
import pytest

from pyvmm.block import create_image, open_image
from pyvmm.guests.initramfs import build_initramfs
from tests.boot.guests import Vmm, need
from tests.conftest import RecordExercised

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900)]

BLOCK = 4096
STRIDE = 7
"""Blocks between two writes: each lands in another cluster, so that tables and refcounts grow all the time."""
MODULES = (
    "virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci", "block/virtio_blk",
)  # fmt: skip
INIT = f"""\
#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev 2>/dev/null
for module in {" ".join(Path(name).name for name in MODULES)}; do
    [ -f /modules/$module.ko ] && insmod /modules/$module.ko
done
[ -b /dev/vda ] || {{ echo "no disk"; exit; }}
i=0
while true; do
    yes "block $i" | head -c {BLOCK} > /block
    dd if=/block of=/dev/vda bs={BLOCK} seek=$((i * {STRIDE})) conv=notrunc,fsync 2>/dev/null && echo "flushed $i"
    i=$((i + 1))
done
"""


def expected(number: int) -> bytes:
    line = f"block {number}\n".encode()
    return (line * (BLOCK // len(line) + 1))[:BLOCK]


@pytest.fixture(scope="module")
def writer(cloud_kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initramfs that writes and flushes block after block, and says so."""
    need("busybox")
    drivers = next((cloud_kernel.parents[1] / "lib" / "modules").glob("*/kernel/drivers"))
    files = {}
    for name in MODULES:
        module = drivers / f"{name}.ko"
        if module.exists():  # some are built into the kernel
            files[f"/modules/{module.name}"] = module.read_bytes()
    return build_initramfs(tmp_path_factory.mktemp("writer") / "writer.gz", INIT, files=files)


@pytest.mark.parametrize("cluster_size", [512, 65536])
def test_kill_in_the_middle_of_writes(
    cluster_size: int,
    vmm: Vmm,
    cloud_kernel: Path,
    writer: Path,
    tmp_path: Path,
    record_exercised: RecordExercised,
) -> None:
    """Every block that the guest was told is flushed is in the image after SIGKILL."""
    need("qemu-img")
    disk = tmp_path / "disk.qcow2"
    create_image(disk, "qcow2", 1 << 30, cluster_size=cluster_size)
    argv = [*vmm.kernel(cloud_kernel, writer, "console=ttyS0 quiet", memory=128), str(disk)]
    child = pexpect.spawn(argv[0], argv[1:], timeout=300)
    child.expect(rb"flushed 40\r")
    child.kill(signal.SIGKILL)
    rest = child.read()
    child.close()
    last = max([40, *(int(number) for number in re.findall(rb"flushed (\d+)\r", rest))])
    check = subprocess.run(["qemu-img", "check", disk], capture_output=True, text=True, check=False)
    assert check.returncode in (0, 3), check.stdout + check.stderr  # 3: leaked clusters, no corruption
    with open_image(disk, "qcow2", read_only=True) as image:
        for number in range(last + 1):
            assert image.pread(BLOCK, number * STRIDE * BLOCK) == expected(number), (
                f"block {number} of {last}"
            )
    record_exercised(engine=vmm.engine, guest="Linux, killed while it writes")
