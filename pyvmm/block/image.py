"""An open disk image as a Python object, over csrc/block/block.h.

Offsets and lengths are bytes of the guest's disk, of any alignment. Every call releases the GIL. Formats: raw, and
qcow2 versions 2 and 3 (QEMU docs/interop/qcow2.txt); encryption, external data files and extended L2 entries are
refused.
"""

from __future__ import annotations

import os

from pyvmm.errors import ImageError
from pyvmm.native import check, check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, Final

CACHE_MODES: Final = {"writeback": 0, "none": 1, "writethrough": 2, "unsafe": 3}
"""writeback: the host's page cache; none: O_DIRECT; writethrough: each write is on the disk when it returns;
unsafe: flushes are ignored."""

FORMATS: Final = ("raw", "qcow2")

READ_ONLY: Final = 1
SNAPSHOT: Final = 2
NO_LOCK: Final = 4
FIX: Final = 8
NO_BACKING: Final = 16

_DATA, _ZERO, _ALLOCATED, _OFFSET, _COMPRESSED = 1, 2, 4, 8, 16


@record(frozen=True)
class Extent:
    """Bytes [start, start+length) of the disk, which are all of one kind.

    `depth` counts the layers of the backing chain down to the one that has them; `present` is false when none has;
    `offset` is where they stand in that layer's file, None where they do not stand in one piece.
    """

    start: int
    length: int
    depth: int
    present: bool
    zero: bool
    data: bool
    compressed: bool
    offset: int | None


@record(frozen=True)
class ImageInfo:
    """What an image's header says; sizes in bytes. The qcow2 fields are zero, empty or false for raw."""

    path: str
    format: str
    virtual_size: int
    file_size: int
    disk_usage: int
    cluster_size: int = 0
    version: int = 0
    refcount_bits: int = 0
    compression: str = ""
    lazy_refcounts: bool = False
    dirty: bool = False
    corrupt: bool = False
    snapshots: int = 0
    bitmaps: bool = False
    backing_file: str | None = None
    backing_format: str | None = None

    @property
    def compat(self) -> str:
        """qemu-img's name of the version: ``"0.10"`` or ``"1.1"``."""
        return {2: "0.10", 3: "1.1"}.get(self.version, "")

    @property
    def full_backing_file(self) -> str | None:
        """The backing file's path as this process would open it."""
        if self.backing_file is None:
            return None
        return os.path.join(os.path.dirname(self.path), self.backing_file.removeprefix("file:"))


def encode_format(format: str | None, path: str) -> Any:
    """A format's name for C; None asks for a probe."""
    if format is None:
        return ffi.NULL
    if format not in FORMATS:
        raise ImageError(f"{path}: unknown image format {format!r}: use raw or qcow2")
    return format.encode()


class Image:
    """An open image. Use `open_image`; close it, or use it in a ``with`` statement.

    Attributes
    ----------
    handle
        The ``BlockImage *``, for C devices. NULL after `close`.
    """

    def __init__(self, handle: Any, path: str) -> None:
        self.handle = handle
        self.path = path
        self._pid = os.getpid()

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # A forked child has a copy of the object and no business with the file.
        if lib is not None and getattr(self, "handle", None) and os.getpid() == self._pid:
            self.close()

    def __repr__(self) -> str:
        if not self.handle:
            return f"<Image {self.path!r} closed>"
        return f"<Image {self.path!r} {self.format} {self.size} bytes>"

    def _open(self) -> Any:
        if not self.handle:
            raise ImageError(f"{self.path}: is closed")
        return self.handle

    def _check(self, result: int, what: str) -> int:
        if result < 0:
            fault = lib.block_fault(self.handle)
            if fault and result == -5:  # EIO
                raise ImageError(ffi.string(fault).decode(errors="replace"))
            raise ImageError(f"{self.path}: cannot {what}: {os.strerror(-result)}")
        return result

    @property
    def size(self) -> int:
        """Virtual size in bytes."""
        return int(lib.block_size(self._open()))

    @property
    def format(self) -> str:
        """``"raw"`` or ``"qcow2"``."""
        return str(ffi.string(lib.block_format(self._open())).decode())

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return bool(lib.block_is_read_only(self._open()))

    @property
    def probed_raw(self) -> bool:
        """Whether "raw" was only guessed. A guest may then not write an image header into sector 0."""
        return bool(lib.block_probed_raw(self._open()))

    @property
    def fault(self) -> str | None:
        """The first inconsistency met in the metadata since the image was opened, one line."""
        fault = lib.block_fault(self._open())
        return ffi.string(fault).decode(errors="replace") if fault else None

    def _range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ImageError(
                f"{self.path}: bytes {offset} + {length} are outside the disk ({self.size} bytes)"
            )

    def pread(self, length: int, offset: int) -> bytes:
        """Read `length` bytes.

        Raises
        ------
        ImageError
            Outside the disk, or the file cannot be read or is damaged there.
        """
        self._range(offset, length)
        data = bytearray(length)
        self.readinto(data, offset)
        return bytes(data)

    def readinto(self, buffer: Any, offset: int) -> int:
        """Fill a writable buffer (bytearray, numpy array...) from `offset`; return its length in bytes."""
        view = ffi.from_buffer("char[]", buffer, require_writable=True)
        self._range(offset, len(view))
        self._check(lib.block_pread(self._open(), view, len(view), offset), f"read at offset {offset}")
        return len(view)

    def pwrite(self, data: Any, offset: int) -> int:
        """Write the bytes of a buffer; return how many. On the disk after `flush`."""
        view = ffi.from_buffer("char[]", data)
        self._range(offset, len(view))
        self._check(lib.block_pwrite(self._open(), view, len(view), offset), f"write at offset {offset}")
        return len(view)

    def flush(self) -> None:
        """Return when all that was written is on stable storage (not for cache ``unsafe``)."""
        self._check(lib.block_flush(self._open()), "flush")

    def discard(self, offset: int, length: int) -> None:
        """Say that these bytes are not needed. Whole clusters then read as zeros where the format can say so."""
        self._range(offset, length)
        self._check(lib.block_discard(self._open(), offset, length), f"discard at offset {offset}")

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = True) -> None:
        """Make these bytes zeros; `unmap` gives their space back to the host where possible."""
        self._range(offset, length)
        result = lib.block_write_zeroes(self._open(), offset, length, unmap)
        self._check(result, f"write zeros at offset {offset}")

    def resize(self, size: int, *, shrink: bool = False) -> None:
        """Set the virtual size (rounded up to 512 bytes). Shrinking drops data and must be asked for."""
        error = new_error()
        check(lib.block_resize(self._open(), size, shrink, error), error, exception=ImageError)

    def map(self, offset: int = 0, length: int | None = None) -> Iterator[Extent]:
        """The runs of the disk that are of one kind, through the backing chain, neighbours of one kind joined."""
        end = self.size if length is None else offset + length
        self._range(offset, end - offset)
        last: Extent | None = None
        while offset < end:
            extent = self._extent(offset, end - offset)
            offset += extent.length
            if last is not None and _follows(last, extent):
                extent = _joined(last, extent)
            elif last is not None:
                yield last
            last = extent
        if last is not None:
            yield last

    def _extent(self, offset: int, length: int) -> Extent:
        status = ffi.new("BlockStatus *")
        self._check(
            lib.block_status(self._open(), offset, length, status), f"read the map at offset {offset}"
        )
        flags = status.flags
        return Extent(
            start=offset,
            length=status.length,
            depth=status.depth,
            present=bool(flags & _ALLOCATED),
            zero=bool(flags & _ZERO),
            data=bool(flags & _DATA),
            compressed=bool(flags & _COMPRESSED),
            offset=status.host_offset if flags & _OFFSET else None,
        )

    def info(self) -> ImageInfo:
        """What the header says."""
        raw = ffi.new("BlockInfo *")
        self._check(lib.block_info(self._open(), raw), "read the header")

        def text(field: Any) -> str | None:
            return ffi.string(field).decode(errors="surrogateescape") or None

        qcow2 = raw.version > 0
        return ImageInfo(
            path=self.path,
            format=self.format,
            virtual_size=raw.size,
            file_size=raw.file_size,
            disk_usage=raw.disk_usage,
            cluster_size=raw.cluster_size,
            version=raw.version,
            refcount_bits=raw.refcount_bits,
            compression=("zlib", "zstd")[raw.compression] if qcow2 else "",
            lazy_refcounts=bool(raw.lazy_refcounts),
            dirty=bool(raw.dirty),
            corrupt=bool(raw.corrupt),
            snapshots=raw.snapshots,
            bitmaps=bool(raw.bitmaps),
            backing_file=text(raw.backing_file),
            backing_format=text(raw.backing_format),
        )

    def close(self) -> None:
        """Flush, unlock and close. A second call does nothing."""
        handle, self.handle = self.handle, ffi.NULL
        if handle:
            lib.block_close(handle)


def _follows(last: Extent, extent: Extent) -> bool:
    kind = (last.depth, last.present, last.zero, last.data, last.compressed)
    if kind != (extent.depth, extent.present, extent.zero, extent.data, extent.compressed):
        return False
    if last.offset is None or extent.offset is None:
        return last.offset is extent.offset
    return last.offset + last.length == extent.offset


def _joined(last: Extent, extent: Extent) -> Extent:
    return Extent(**{**vars(last), "length": last.length + extent.length})


def open_handle(path: str | os.PathLike[str], format: str | None, cache: str, flags: int) -> Image:
    """Open with the flags of ``enum BlockOpenFlags``."""
    name = os.fspath(path)
    if cache not in CACHE_MODES:
        raise ImageError(f"{name}: unknown cache mode {cache!r}: use one of {', '.join(CACHE_MODES)}")
    if "\0" in name:
        raise ImageError(f"{name!r}: a file name has no zero bytes")
    error = new_error()
    handle = lib.block_open(os.fsencode(name), encode_format(format, name), CACHE_MODES[cache], flags, error)
    return Image(check_pointer(handle, error, exception=ImageError), name)


def open_image(
    path: str | os.PathLike[str],
    format: str | None = None,
    cache: str = "writeback",
    read_only: bool = False,
    snapshot: bool = False,
) -> Image:
    """Open a disk image and lock it against other writers (QEMU's locks).

    Parameters
    ----------
    path
        A file or block device.
    format
        ``"raw"`` or ``"qcow2"``; None probes for qcow2 and takes anything else for raw (see `Image.probed_raw`).
    cache
        A key of `CACHE_MODES`.
    read_only
        Refuse writes; others may read the image at the same time.
    snapshot
        Keep writes in an unlinked temporary file (in ``$TMPDIR`` or /var/tmp), thrown away on close.

    Raises
    ------
    ImageError
        One line that names file, offset and field. The file's bytes are then as they were.
    """
    flags = (READ_ONLY if read_only else 0) | (SNAPSHOT if snapshot else 0)
    return open_handle(path, format, cache, flags)
