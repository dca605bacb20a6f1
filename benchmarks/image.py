"""Disk images against qemu-img and qemu-io: CPU seconds of converting, and of random 4 KiB writes into a qcow2 image.

Our figures include starting Python. Disk contents: one third zeros, one third text, one third random bytes, in runs of
1 MiB; in $TMPDIR, which should be a real file system. Size of the disk: --size (default 2G).
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import compare, ratio, run_measured

from pyvmm.units import parse_size

PYVMM = [sys.executable, "-m", "pyvmm.cli.main", "image"]
GOAL = 1.0
WRITES = 40_000

WRITER = f"""
import random, sys
from pyvmm.block import open_image
rng = random.Random(1)
data = b"\\x11" * 4096
with open_image(sys.argv[1], "qcow2") as image:
    for _ in range({WRITES}):
        image.pwrite(data, rng.randrange(262144) * 4096)
    image.flush()
"""


def make_disk(path: Path, size: int) -> None:
    """Write the disk that is converted."""
    rng = random.Random(0)
    text = b"".join(b"line %d of the disk\n" % n for n in range(70_000))[: 1 << 20]
    with path.open("wb") as file:
        for offset in range(0, size, 1 << 20):
            kind = rng.randrange(3)
            if kind:
                file.seek(offset)
                file.write(text if kind == 1 else rng.randbytes(1 << 20))
        file.truncate(size)


def bench_convert(
    folder: Path, name: str, source: Path, formats: tuple[str, str], options: list[str]
) -> None:
    """Convert one way with both tools, in turns."""
    targets = folder / "ours", folder / "theirs"
    words = [*options, "-f", formats[0], "-O", formats[1], str(source)]
    runs = compare(
        lambda: run_measured([*PYVMM, "convert", *words, targets[0]]),
        lambda: run_measured(["qemu-img", "convert", *words, targets[1]]),
        name=name,
    )
    check = ["qemu-img", "compare", "-f", formats[1], "-F", formats[1], *map(str, targets)]
    subprocess.run(check, check=True, capture_output=True)
    ratio(f"image.{name}.cpu", *runs.cpu(), GOAL, peer_name="qemu-img")
    ratio(f"image.{name}.wall", *runs.wall(), GOAL, peer_name="qemu-img")
    for target in targets:
        target.unlink()


def bench_random_writes(folder: Path) -> None:
    """4 KiB writes all over a 1 GiB disk: first into an empty image, then into the same clusters again."""
    script = folder / "script"
    rng = random.Random(1)
    lines = [f"write -q -P 17 {rng.randrange(262144) * 4096} 4096" for _ in range(WRITES)]
    script.write_text("\n".join([*lines, "flush", "quit", ""]))
    images = {"ours": folder / "a.qcow2", "theirs": folder / "b.qcow2"}

    def create(which: str) -> None:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", images[which], "1G"], check=True)

    qemu = ["sh", "-c", f"exec qemu-io -f qcow2 {images['theirs']} < {script} > /dev/null"]
    for name, fresh in (("allocating-writes", True), ("rewrites", False)):

        def run(which: str, argv: list[str], fresh: bool = fresh) -> object:
            if fresh:
                create(which)
            return run_measured(argv)

        runs = compare(
            lambda run=run: run("ours", [sys.executable, "-c", WRITER, str(images["ours"])]),  # type: ignore[misc]
            lambda run=run: run("theirs", qemu),  # type: ignore[misc]
            name=name,
        )
        ratio(f"image.{name}.cpu", *runs.cpu(), GOAL, peer_name="qemu-io")
        ratio(f"image.{name}.wall", *runs.wall(), GOAL, peer_name="qemu-io")
    subprocess.run(["qemu-img", "check", "-q", images["ours"]], check=True)


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="2G", help="of the disk to convert")
    size = parse_size(parser.parse_args().size)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        raw, qcow2 = folder / "raw", folder / "qcow2"
        make_disk(raw, size)
        bench_convert(folder, "raw-to-qcow2", raw, ("raw", "qcow2"), [])
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)
        bench_convert(folder, "qcow2-to-raw", qcow2, ("qcow2", "raw"), [])
        qcow2.unlink()
        raw.unlink()
        make_disk(raw, size // 8)
        bench_convert(folder, "compress", raw, ("raw", "qcow2"), ["-c"])
        bench_random_writes(folder)


if __name__ == "__main__":
    main()
