"""Linux's virtio driver on every kind of ring: split and packed, with and without what the ring may have."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import DiskConfig, Machine
from pyvmm.devices.virtio import VirtioBlk
from pyvmm.guests.cached import cached_initramfs
from tests.boot.guests import need

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

MIB = 1 << 20
RINGS: dict[str, dict[str, bool]] = {
    "packed": {"RING_PACKED": True},
    "packed, no events": {"RING_PACKED": True, "EVENT_IDX": False},
    "packed, no tables": {"RING_PACKED": True, "INDIRECT_DESC": False},
    "packed, with data": {"RING_PACKED": True, "NOTIFICATION_DATA": True},
    "split, plain": {"EVENT_IDX": False, "INDIRECT_DESC": False, "RING_RESET": False},
    "split, in order": {"IN_ORDER": True},
}


@pytest.fixture(scope="session")
def blk_initramfs(guest_cache: Path, cloud_kernel: Path) -> Path:
    """A busybox initramfs that loads the driver of virtio disks."""
    need("busybox")
    return cached_initramfs(modules=("virtio_pci", "virtio_blk"))


def test_linux_reads_and_writes(
    exercised: Callable[[str], None], cloud_kernel: Path, blk_initramfs: Path, tmp_path: Path
) -> None:
    """What Linux reads is what is there, what it writes is on the image, and the ring was what was asked for."""
    contents = random.Random(28).randbytes(4 * MIB)
    written = b"".join(b"line %d of the guest\n" % n for n in range(30000))
    disks = []
    for index, features in enumerate(RINGS.values()):
        path = tmp_path / f"{index}.raw"
        path.write_bytes(contents)
        disks.append(DiskConfig(path, format="raw", features=features))
    script = "for n in $(seq 0 29999); do echo line $n of the guest; done > /tmp/lines"
    with Machine(
        memory=256 * MIB,
        kernel=cloud_kernel,
        initrd=blk_initramfs,
        append="console=ttyS0 quiet",
        disks=disks,
        serial="buffer",
        engine="translator",
    ) as machine:
        serial = machine.serial

        def run(command: str) -> str:
            serial.send(f"{command}; echo done-$?\r")
            return bytes(serial.expect(r"done-0\r?\n", timeout=120)).decode(errors="replace")

        serial.expect(r"\nUP\r+\n", timeout=120)
        run("stty -echo; " + script)
        for index, (name, features) in enumerate(RINGS.items()):
            disk = f"/dev/vd{chr(ord('a') + index)}"
            assert hashlib.sha256(contents).hexdigest() in run(f"sha256sum {disk}"), name
            run(f"dd if=/tmp/lines of={disk} bs=3k conv=notrunc,fsync 2>/dev/null")
            run(f"cmp -n {len(written)} /tmp/lines {disk} && echo 3 > /proc/sys/vm/drop_caches")
            run(f"cmp -n {len(written)} /tmp/lines {disk}")
            device = machine.devices[f"disk{index}"]
            assert isinstance(device, VirtioBlk)
            for feature, wanted in features.items():
                assert (feature in device.offered_features) is wanted
                # Linux 6.1 knows neither IN_ORDER nor NOTIFICATION_DATA, and resets queues of network devices only.
                if feature not in ("IN_ORDER", "NOTIFICATION_DATA", "RING_RESET"):
                    assert (feature in device.driver_features) is wanted, name
            assert device.queue_counters.faults == device.counters.errors == 0
            exercised(f"Linux virtio-blk, {name}")
    for disk in disks:
        assert Path(disk.path).read_bytes() == written + contents[len(written) :]
