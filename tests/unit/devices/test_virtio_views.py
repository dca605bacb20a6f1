"""Looking at a virtio disk: its queue as tables and a picture, its requests as time lines, its answers to errors."""

from __future__ import annotations

import errno
import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.devices.virtio import PciPlace, VirtioBlk
from pyvmm.devices.virtio.view import QueueView
from pyvmm.errors import DeviceError
from tests.unit.devices.test_virtio_blk import DATA, DISK, HEADER, NOTIFY, QUEUE, RINGS, Driver

INDIRECT, EVENT_IDX, PACKED = 1 << 28, 1 << 29, 1 << 34


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    made = Driver(tmp_path / "disk.raw")
    yield made
    made.close()


def test_queue_without_a_driver(driver: Driver) -> None:
    (queue,) = driver.blk.queues
    assert "not set up by a driver, at most 256 descriptors" in str(queue)
    assert queue.view().descriptors == queue.view().avail() == queue.view().used() == ()
    assert "<table>" not in queue._repr_html_()
    with pytest.raises(DeviceError, match="no queue 1"):
        QueueView(driver.blk, 1)


def test_split_queue(driver: Driver) -> None:
    """One request is done, another waits: the tables have both, and looking changes nothing."""
    driver.start(INDIRECT | EVENT_IDX)
    driver.request(0, 1, 512)
    memory = driver.board.memory
    table = struct.pack("<QIHH", HEADER, 16, 1, 1) + struct.pack("<QIHH", HEADER + 16, 1, 2, 0)
    memory.write(DATA + 0x1000, table)
    memory.write(RINGS + 16 * 5, struct.pack("<QIHH", DATA + 0x1000, 32, 4, 0))  # an indirect table at 5
    memory.write(RINGS + 0x100 + 4 + 2, struct.pack("<H", 5))
    memory.write(RINGS + 0x102, struct.pack("<H", 2))
    before = memory.read(0, 0x10000)
    queue = driver.blk.queues[0]
    view = queue.view()
    assert (view.size, view.packed, view.event_idx) == (QUEUE, False, True)
    assert view.addresses == (RINGS, RINGS + 0x100, RINGS + 0x200)
    assert (view.avail_index, view.last_avail, view.used_index, view.avail_event) == (2, 1, 1, 1)
    assert (view.waiting, view.in_device) == (1, 0)
    assert [(e.position, e.head, e.state) for e in view.avail()] == [(0, 0, "taken"), (1, 5, "waiting")]
    assert [(e.head, e.written) for e in view.used()] == [(0, 513)]
    assert [(d.index, d.address, d.flag_names) for d in view.chain(0)] == [
        (0, HEADER, "NEXT"),
        (1, DATA, "NEXT WRITE"),
        (2, HEADER + 16, "WRITE"),
    ]
    (indirect,) = view.chain(5)
    assert [(d.index, d.address, d.length) for d in indirect.table] == [(0, HEADER, 16), (1, HEADER + 16, 1)]
    text = str(queue)
    assert "1 waiting, 0 in the device" in text
    assert "1         5     waiting" in text
    assert f"{HEADER:#x}" in text
    assert "INDIRECT" in text
    assert len(queue.table(every=True).splitlines()) > len(text.splitlines())
    assert "<td>INDIRECT</td>" in queue._repr_html_()
    picture = ET.fromstring(str(queue.svg()))
    assert sum(element.tag.endswith("path") for element in picture) == 2 * QUEUE
    assert memory.read(0, 0x10000) == before
    assert driver.blk.counters.reads == 1
    driver.poke(NOTIFY, 2, 0)
    assert queue.view().waiting == 0


def test_rich(driver: Driver) -> None:
    rich = pytest.importorskip("rich.console")
    driver.start()
    driver.request(0, 1, 512)
    console = rich.Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(driver.blk.queues[0])
    assert "available ring" in console.export_text()


def test_hostile_ring(driver: Driver) -> None:
    """A loop, an index far ahead and a table that is nowhere are shown as far as they go."""
    driver.start()
    memory = driver.board.memory
    memory.write(RINGS, struct.pack("<QIHH", 1 << 60, 16, 1, 0))
    memory.write(RINGS + 16, struct.pack("<QIHH", 1 << 63, 1 << 20, 4, 9999))
    memory.write(RINGS + 0x102, struct.pack("<H", 40000))
    view = driver.blk.queues[0].view()
    assert len(view.chain(0)) == QUEUE
    assert view.chain(1)[0].table == ()
    assert view.chain(65535) == ()
    assert view.waiting == QUEUE
    assert str(view)
    assert view._repr_html_()
    assert view.table(every=True)


def test_packed_queue(tmp_path: Path, driver: Driver) -> None:
    place = PciPlace(driver.pci, 5, modern_only=True, features={"RING_PACKED": True})
    blk = VirtioBlk(driver.board, place, driver.image)
    base = 0xE0100000
    function = driver.pci[5]
    function.write(0x20, 4, base)
    function.write(0x04, 2, 6)

    def poke(offset: int, size: int, value: int) -> None:
        driver.board.mmio.write(base + offset, size, value)

    poke(20, 1, 3)
    for word, bits in enumerate((0, PACKED >> 32 | 1)):
        poke(8, 4, word)
        poke(12, 4, bits)
    poke(20, 1, 11)
    poke(24, 2, 8)
    for register, address in ((32, RINGS), (40, RINGS + 0x100), (48, RINGS + 0x200)):
        poke(register, 8, address)
    poke(28, 2, 1)
    poke(20, 1, 15)
    memory = driver.board.memory
    memory.write(HEADER, struct.pack("<IIQB", 0, 0, 1, 0xEE))
    chain = struct.pack("<QIHH", HEADER, 16, 0, 1 | 1 << 7)
    chain += struct.pack("<QIHH", DATA, 512, 0, 3 | 1 << 7)
    chain += struct.pack("<QIHH", HEADER + 16, 1, 7, 2 | 1 << 7)
    memory.write(RINGS, chain)
    queue = blk.queues[0]
    view = queue.view()
    assert view.packed
    assert (view.waiting, view.in_device) == (3, 0)
    assert [d.state for d in view.descriptors[:4]] == ["waiting", "waiting", "waiting", ""]
    assert "NEXT WRITE AVAIL" in str(view)
    poke(NOTIFY, 2, 0)
    view = queue.view()
    assert (view.last_avail, view.next_used, view.waiting) == (3, 3, 0)
    assert view.descriptors[0].state == "used"
    assert view.descriptors[0].id == 7
    picture = ET.fromstring(str(queue.svg()))
    assert sum(element.tag.endswith("path") for element in picture) == 8
    blk.close()


def test_recording(driver: Driver) -> None:
    driver.start()
    with driver.blk.record(capacity=4) as recording:
        driver.request(0, 1, 4096)
        driver.request(1, 9, 512, to_device=True)
        (read, write) = recording.take()
        assert (read.kind, read.sector, read.bytes, read.status) == ("read", 1, 4096, "ok")
        assert (
            read.kick_ns <= read.pop_ns <= read.begin_ns <= read.end_ns <= read.used_ns <= read.interrupt_ns
        )
        assert write.kick_ns > read.used_ns
        with (
            pytest.raises(DeviceError, match="recorded already"),
            driver.blk.record(),
        ):
            pass
        driver.request(0, DISK // 512, 512)
    driver.request(0, 1, 512)
    assert [r.kind + " " + r.status for r in recording.records] == ["read ok", "write ok", "read error"]
    assert recording.lost == 0
    assert set(recording.medians) == {"notified", "taken", "I/O", "done", "interrupt", "all"}
    lines = recording.table(limit=2).splitlines()
    assert lines[0].split()[:4] == ["queue", "id", "request", "sector"]
    assert lines[1].split()[2:5] == ["read", "1", "4096"]
    assert lines[3] == "... and 1 more"
    picture = recording.plot()
    assert len(ET.fromstring(picture._repr_svg_())) > 15
    own = [
        float(e.get("x", ""))
        for e in ET.fromstring(str(recording.plot(aligned=True)))
        if e.get("height") == "11.00"
    ]
    assert own.count(130.0) >= 3  # each begins at the left
    with driver.blk.record(capacity=4) as recording:
        for sector in range(6):
            driver.request(0, sector, 512)
    assert ([r.sector for r in recording.records], recording.lost) == ([2, 3, 4, 5], 2)
    with pytest.raises(DeviceError, match="1 to"):
        driver.blk.record(capacity=0)


def test_pictures_are_saved(driver: Driver, tmp_path: Path) -> None:
    driver.start()
    driver.blk.queues[0].svg().save(tmp_path / "queue.svg")
    assert ET.parse(tmp_path / "queue.svg").getroot().tag.endswith("svg")
    with driver.blk.record() as recording:
        pass
    assert recording.table().endswith("no requests")
    assert recording.plot()._repr_svg_().startswith("<svg")


def test_several_queues(driver: Driver) -> None:
    blk = VirtioBlk(driver.board, PciPlace(driver.pci, 5), driver.image, queues=4)
    assert "MQ" in blk.offered_features
    assert len(blk.queues) == 4
    blk.close()
    for bad in ({"queues": 0}, {"queues": 65}, {"threads": [None, None]}, {"write_error": "ignore"}):
        with pytest.raises(DeviceError, match="virtio-blk"):
            VirtioBlk(driver.board, PciPlace(driver.pci, 5), driver.image, **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("disk", "message"),
    [
        ({"threads": 2}, "1 queues, 2 threads"),
        ({"queues": 65, "threads": 65}, "1 to 64"),
        ({"threads": 0}, "0 threads"),
        ({"interface": "ide", "write_error": "stop"}, "only a virtio disk stops the machine"),
    ],
)
def test_disks_that_cannot_be(tmp_path: Path, disk: dict[str, object], message: str) -> None:
    from pyvmm import DiskConfig, Machine
    from pyvmm.errors import ConfigError

    (tmp_path / "disk.raw").write_bytes(bytes(65536))
    config = DiskConfig(tmp_path / "disk.raw", format="raw", **disk)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        Machine(memory=1 << 20, disks=[config], engine="translator")


def test_host_file_limit(tmp_path: Path) -> None:
    """A file that may not grow (RLIMIT_FSIZE, setrlimit(2)): the driver gets errors; with room it writes on."""
    import resource

    made = Driver(tmp_path / "disk.raw")
    (tmp_path / "disk.raw").write_bytes(bytes(4096))  # the image is longer: writing makes the file grow
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        made.start()
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        try:
            assert made.request(1, 8, 4096, to_device=True) == 0
            assert made.request(1, 16, 4096, to_device=True) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert made.request(1, 16, 4096, to_device=True) == 0
        assert made.request(0, 8, 8192) == 0
        assert made.request(0, 64, 512) == 1  # beyond what there is
    finally:
        made.close()


def test_stopping_and_going_on(tmp_path: Path) -> None:
    import resource

    made = Driver(tmp_path / "disk.raw", write_error="stop")
    (tmp_path / "disk.raw").write_bytes(bytes(4096))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        made.start()
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
        try:
            assert made.request(1, 16, 4096, to_device=True) == 0xEE
            assert made.blk.stopped_by == errno.EFBIG
            assert any("the machine stops" in line for line in made.board.messages())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        made.blk.go_on()
        assert made.blk.stopped_by == 0
        assert made.board.memory.read(HEADER + 16, 1)[0] == 0
        assert made.image.pread(512, 8192) == made.board.memory.read(DATA, 512)
    finally:
        made.close()
