"""A kernel or initrd file seen as bounds-checked bytes: the loaders read every field of a file through here.

The file is mapped, not read, so that a big kernel is copied once only: from the page cache to guest RAM.
Left out: compressed ELF files (`vmlinux.gz`); decompress them first.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

from pyvmm.errors import BootError


class KernelImage:
    """Bytes of one file, with a name for error messages.

    Parameters
    ----------
    name
        What messages begin with, normally the path.
    data
        The whole file.
    """

    def __init__(self, name: str, data: bytes | bytearray | memoryview | mmap.mmap) -> None:
        self.name = name
        self.data = memoryview(data).toreadonly()
        self.size = len(self.data)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, role: str = "kernel") -> KernelImage:
        """Map a file for reading.

        Raises
        ------
        BootError
            When it is missing, not a plain file, not readable or empty. `role` is what the message calls it.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise BootError(f"{path}: the {role} is not a plain file")
                if status.st_size == 0:
                    raise BootError(f"{path}: the {role} is an empty file")
                flags = mmap.MAP_PRIVATE | mmap.MAP_POPULATE
                return cls(str(path), mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ))
        except OSError as error:
            reason = "not a plain file" if isinstance(error, IsADirectoryError) else error.strerror
            raise BootError(f"{path}: cannot open the {role}: {reason}") from error

    def part(self, offset: int, size: int, field: str) -> memoryview:
        """Return `size` bytes from `offset`, without a copy.

        Raises
        ------
        BootError
            When they are not all inside the file; `field` says what they should have been.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise BootError(
                f"{self.name}: {field} at offset {offset:#x} ({size} bytes) ends beyond the file ({self.size} bytes): "
                "the file is cut short or corrupt, fetch it again"
            )
        return self.data[offset : offset + size]

    def number(self, offset: int, size: int, field: str) -> int:
        """Return the little-endian unsigned number of `size` bytes at `offset`; errors as `part`."""
        return int.from_bytes(self.part(offset, size, field), "little")

    def has(self, magic: bytes, offset: int = 0) -> bool:
        """Tell whether the bytes at `offset` are `magic`; False beyond the end of the file."""
        return bytes(self.data[offset : offset + len(magic)]) == magic

    def error(self, problem: str) -> BootError:
        """Return (not raise) a BootError about this file."""
        return BootError(f"{self.name}: {problem}")
