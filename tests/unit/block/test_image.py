"""The Image object, and the functions of pyvmm.block, without QEMU's tools."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from pyvmm.block import check_image, compare_images, convert_image, create_image, open_image
from pyvmm.errors import ImageError

MIB = 1 << 20


@pytest.mark.parametrize("cache", ["writeback", "none", "writethrough", "unsafe"])
def test_cache_modes(cache: str, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_image(path, "qcow2", MIB)
    try:
        image = open_image(path, cache=cache)
    except ImageError as error:
        if "O_DIRECT" not in str(error):
            raise
        pytest.skip("no O_DIRECT in the temporary folder")
    with image:
        image.pwrite(b"abc", 4095)
        image.flush()
        assert image.pread(5, 4094) == b"\0abc\0"
    with open_image(path) as image:
        assert image.pread(3, 4095) == b"abc"


def test_buffers(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_image(path, "raw", 8192)
    with open_image(path, "raw") as image:
        image.pwrite(np.arange(256, dtype=np.uint16), 100)
        back = np.zeros(256, dtype=np.uint16)
        assert image.readinto(back, 100) == 512
        assert (back == np.arange(256)).all()
        with pytest.raises(ImageError, match="outside the disk"):
            image.pread(2, 8191)
        with pytest.raises(ImageError, match="outside the disk"):
            image.pwrite(b"x", -1)
    with pytest.raises(ImageError, match="is closed"):
        image.pread(1, 0)
    image.close()


def test_read_only_and_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_image(path, "qcow2", MIB)
    before = path.read_bytes()
    with open_image(path, read_only=True) as image:
        assert image.read_only
        with pytest.raises(ImageError, match="Read-only"):
            image.pwrite(b"x", 0)
    with open_image(path, snapshot=True) as image:
        image.pwrite(b"thrown away", 500_000)
        image.flush()
        assert image.pread(11, 500_000) == b"thrown away"
        with open_image(path, read_only=True) as other:
            assert other.pread(11, 500_000) == bytes(11)
    assert path.read_bytes() == before


def test_probed_raw_is_said_and_guarded(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_image(path, "raw", MIB)
    with open_image(path) as image:
        assert image.format == "raw"
        assert image.probed_raw
        with pytest.raises(ImageError, match="not permitted"):
            image.pwrite(b"QFI\xfb".ljust(512, b"\0"), 0)
        image.pwrite(b"boot sector", 0)
    with open_image(path, "raw") as image:
        assert not image.probed_raw


def test_map_and_info(tmp_path: Path) -> None:
    base, top = tmp_path / "base", tmp_path / "top"
    create_image(base, "qcow2", MIB)
    with open_image(base) as image:
        image.pwrite(b"x" * 65536, 131072)
    create_image(top, "qcow2", backing_file="base")
    with open_image(top) as image:
        image.pwrite(b"y" * 65536, 0)
        image.write_zeroes(65536, 65536)
        kinds = [(e.start, e.length, e.depth, e.zero, e.data) for e in image.map()]
        info = image.info()
    assert kinds[:3] == [
        (0, 65536, 0, False, True),
        (65536, 65536, 0, True, False),
        (131072, 65536, 1, False, True),
    ]
    assert sum(length for _, length, *_ in kinds) == MIB
    assert (info.backing_file, info.backing_format, info.full_backing_file) == ("base", "qcow2", str(base))


def test_overlay_of_raw_must_say_so(tmp_path: Path) -> None:
    create_image(tmp_path / "base", "raw", MIB)
    with pytest.raises(ImageError, match="-F raw"):
        create_image(tmp_path / "top", "qcow2", backing_file="base")
    create_image(tmp_path / "top", "qcow2", backing_file="base", backing_format="raw")


def test_convert_reports_progress_and_keeps_holes(tmp_path: Path) -> None:
    raw, qcow2, back = tmp_path / "raw", tmp_path / "qcow2", tmp_path / "back"
    create_image(raw, "raw", 200 * MIB)
    with open_image(raw, "raw") as image:
        image.pwrite(b"here" * 1000, 150 * MIB + 100)
    seen: list[tuple[int, int]] = []
    convert_image(
        raw, qcow2, "qcow2", source_format="raw", progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (200 * MIB, 200 * MIB)
    assert qcow2.stat().st_blocks * 512 < MIB
    convert_image(qcow2, back, "raw")
    assert back.stat().st_blocks * 512 < MIB
    with open_image(raw, "raw", read_only=True) as a, open_image(back, "raw") as b:
        assert compare_images(a, b) is None
        b.pwrite(b"\1", 160 * MIB + 3)
        assert compare_images(a, b) == 160 * MIB + 3
    with pytest.raises(ImageError, match="onto itself"):
        convert_image(raw, raw, "raw", source_format="raw")


def test_compare_disks_of_different_sizes(tmp_path: Path) -> None:
    create_image(tmp_path / "a", "raw", MIB)
    create_image(tmp_path / "b", "qcow2", 2 * MIB)
    with open_image(tmp_path / "a", "raw") as a, open_image(tmp_path / "b") as b:
        assert compare_images(a, b) is None
        b.pwrite(b"\1", 2 * MIB - 5)
        assert compare_images(a, b) == 2 * MIB - 5


def test_resize(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_image(path, "qcow2", MIB, cluster_size=512)
    with open_image(path) as image:
        image.pwrite(b"\xff" * MIB, 0)
        image.resize(64 * MIB)
        image.pwrite(b"end", 64 * MIB - 3)
        with pytest.raises(ImageError, match="--shrink"):
            image.resize(MIB // 2)
        image.resize(MIB // 2, shrink=True)
        image.resize(2 * MIB)
        assert image.pread(2 * MIB, 0) == b"\xff" * (MIB // 2) + bytes(3 * MIB // 2)
    assert check_image(path).clean


@pytest.mark.parametrize("preallocation", ["off", "metadata", "falloc", "full"])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_preallocation(format: str, preallocation: str, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_image(path, format, 3 * MIB, preallocation=preallocation)
    with open_image(path, format) as image:
        assert image.pread(3 * MIB, 0) == bytes(3 * MIB)
        if format == "qcow2":
            assert next(image.map()).present == (preallocation != "off")
            assert check_image_is_clean_later(path, image)
    if preallocation in ("falloc", "full"):
        assert path.stat().st_blocks * 512 >= 3 * MIB


def check_image_is_clean_later(path: Path, image: object) -> bool:
    """Close the image and check it."""
    image.close()  # type: ignore[attr-defined]
    return check_image(path).clean


def test_threads_share_an_image(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_image(path, "qcow2", 16 * MIB, cluster_size=4096)
    failures: list[str] = []
    with open_image(path, cache="unsafe") as image:

        def work(lane: int) -> None:
            rng = np.random.default_rng(lane)
            mine = np.zeros(
                MIB, dtype=np.uint8
            )  # every lane has its own 1 KiB of each 8 KiB: clusters are shared
            for turn in range(400):
                block = int(rng.integers(0, 1024))
                at = block * 1024
                mine[at : at + 1024] = turn % 251 + 1
                image.pwrite(mine[at : at + 1024].tobytes(), block * 8192 + lane * 1024)
                if turn % 50 == 49:
                    image.flush()
                if turn % 7 == 0:
                    image.discard(8 * MIB + int(rng.integers(0, 4 * MIB)), 100_000)
                    image.pwrite(b"z" * 50_000, 8 * MIB + int(rng.integers(0, 4 * MIB)))
            for block in range(1024):
                if (
                    image.pread(1024, block * 8192 + lane * 1024)
                    != mine[block * 1024 : block * 1024 + 1024].tobytes()
                ):
                    failures.append(f"lane {lane} block {block}")

        threads = [threading.Thread(target=work, args=(lane,)) for lane in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    result = check_image(path)
    assert result.corruptions == 0, result.first
