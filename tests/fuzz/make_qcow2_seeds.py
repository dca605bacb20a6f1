"""Write small qcow2 images as seeds for csrc/fuzz/fuzz_qcow2.c: make_qcow2_seeds.py FOLDER.

Each seed is a mode byte, eight bytes of offset and an image (see the fuzz target). Made with pyvmm alone.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pyvmm.block import convert_image, create_image, open_image


def write_seed(folder: Path, name: str, image: Path) -> None:
    """Write the image under each mode that differs."""
    for mode in (3, 5):
        offset = (mode * 9973).to_bytes(8, "little")
        (folder / f"{name}-{mode}").write_bytes(bytes([mode]) + offset + image.read_bytes())


def main(folder: Path) -> None:
    """Make the seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        path, packed = Path(temporary, "image"), Path(temporary, "packed")
        for compat, bits, cluster in (
            ("1.1", 16, 512),
            ("0.10", 16, 512),
            ("1.1", 1, 512),
            ("1.1", 64, 1024),
        ):
            create_image(path, "qcow2", 100000, compat=compat, refcount_bits=bits, cluster_size=cluster)
            with open_image(path, "qcow2") as image:
                image.pwrite(b"fuzz" * 300, 5000)
                image.pwrite(b"disk" * 100, 90000)
                image.write_zeroes(6000, 3000, unmap=compat == "0.10")
            write_seed(folder, f"{compat}-{bits}-{cluster}", path)
        for compression in ("zlib", "zstd"):
            convert_image(path, packed, "qcow2", compress=True, cluster_size=1024, compression=compression)
            write_seed(folder, compression, packed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
