"""Making, checking, converting and comparing images: what `pyvmm image` does, as functions."""

from __future__ import annotations

import os

from pyvmm.block.image import (
    FIX,
    FORMATS,
    NO_BACKING,
    READ_ONLY,
    Image,
    encode_format,
    open_handle,
    open_image,
)
from pyvmm.errors import ImageError
from pyvmm.native import check, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    Progress = Callable[[int, int], None]
    """Called with bytes done and bytes in all."""

PREALLOCATION: Final = {"off": 0, "metadata": 1, "falloc": 2, "full": 3}
COMPRESSION: Final = {"zlib": 0, "zstd": 1}
REPAIR: Final = {None: 0, "leaks": 1, "all": 2}
_STEP: Final = 64 << 20  # bytes between two calls of a progress function; a multiple of every cluster size


@record(frozen=True)
class CheckResult:
    """What a check found: counts of clusters, and what a repair put right.

    `first` is the first finding in words, empty when there is none.
    """

    corruptions: int
    leaks: int
    corruptions_fixed: int
    leaks_fixed: int
    errors: int
    total_clusters: int
    allocated_clusters: int
    compressed_clusters: int
    fragmented_clusters: int
    image_end_offset: int
    first: str

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong now."""
        return not (self.corruptions or self.leaks or self.errors)


def _choice(path: str, option: str, value: str, choices: dict[str, int]) -> int:
    if value not in choices:
        raise ImageError(f"{path}: {option}={value}: use one of {', '.join(choices)}")
    return choices[value]


def _backing(path: str, backing_file: str, backing_format: str | None, size: int | None) -> tuple[str, int]:
    """The backing file's format (which is never guessed to be raw) and the overlay's size."""
    place = os.path.join(os.path.dirname(path), backing_file.removeprefix("file:"))
    if os.path.exists(path) and os.path.exists(place) and os.path.samefile(path, place):
        raise ImageError(f"{path}: cannot be its own backing file")
    with open_image(place, backing_format, read_only=True) as below:
        if below.probed_raw:
            raise ImageError(
                f"{path}: backing file {place} has no format that can be probed: say backing_format=raw (-F raw)"
            )
        return below.format, below.size if size is None else size


def create_image(
    path: str | os.PathLike[str],
    format: str = "qcow2",
    size: int | None = None,
    *,
    backing_file: str | os.PathLike[str] | None = None,
    backing_format: str | None = None,
    cluster_size: int = 65536,
    compat: str = "1.1",
    refcount_bits: int = 16,
    lazy_refcounts: bool = False,
    compression: str = "zlib",
    preallocation: str = "off",
) -> None:
    """Make an empty image, in place of what `path` held.

    Parameters
    ----------
    size
        Virtual size in bytes, rounded up to 512; None takes the backing file's.
    backing_file
        qcow2 only; a relative name is relative to the new image's folder.
    backing_format
        None is right for a qcow2 backing file; raw must be said.
    cluster_size
        512 to 2 MiB, a power of two.
    compat
        ``"0.10"`` (version 2) or ``"1.1"`` (version 3).
    refcount_bits
        1, 2, 4 ... 64; 16 for compat 0.10.
    compression
        ``"zlib"`` or ``"zstd"``, for clusters that `convert_image` compresses.
    preallocation
        ``"off"``, ``"metadata"``, ``"falloc"`` or ``"full"``.

    Raises
    ------
    ImageError
        An option that cannot be, a file that is in use, a missing backing file.
    """
    name = os.fspath(path)
    if format not in FORMATS:
        raise ImageError(f"{name}: unknown image format {format!r}: use raw or qcow2")
    options = ffi.new("BlockCreate *")
    keep = []
    if backing_file is not None and format == "qcow2":
        backing = os.fspath(backing_file)
        backing_format, size = _backing(name, backing, backing_format, size)
        keep = [ffi.new("char[]", os.fsencode(backing)), ffi.new("char[]", backing_format.encode())]
        options.backing_file, options.backing_format = keep
    elif backing_file is not None:
        raise ImageError(f"{name}: a {format} image has no backing file: use qcow2")
    if size is None:
        raise ImageError(f"{name}: a new image needs a size")
    if not 0 <= size < 1 << 63:
        raise ImageError(f"{name}: size {size} is not from 0 to 2^63 bytes")
    if not 0 < cluster_size < 1 << 32 or not 0 < refcount_bits < 1 << 32:
        raise ImageError(f"{name}: cluster_size {cluster_size}, refcount_bits {refcount_bits}: out of range")
    options.size = size
    options.cluster_size = cluster_size
    options.version = _choice(name, "compat", compat, {"0.10": 2, "1.1": 3, "v2": 2, "v3": 3})
    options.refcount_bits = refcount_bits
    options.lazy_refcounts = lazy_refcounts
    options.compression = _choice(name, "compression_type", compression, COMPRESSION)
    options.preallocation = _choice(name, "preallocation", preallocation, PREALLOCATION)
    error = new_error()
    result = lib.block_create(os.fsencode(name), encode_format(format, name), options, error)
    check(result, error, exception=ImageError)


def check_image(
    path: str | os.PathLike[str], format: str | None = None, *, repair: str | None = None
) -> CheckResult:
    """Compare a qcow2 image's refcounts with what it refers to.

    Parameters
    ----------
    repair
        None changes nothing; ``"leaks"`` frees what nothing refers to; ``"all"`` counts everything anew.

    Raises
    ------
    ImageError
        The image cannot be opened, or has no metadata to check (raw).
    """
    if repair not in REPAIR:
        raise ImageError(f"{os.fspath(path)}: repair {repair!r}: use leaks or all")
    flags = FIX | NO_BACKING | (0 if repair else READ_ONLY)
    result, error = ffi.new("BlockCheck *"), new_error()
    with open_handle(path, format, "writeback", flags) as image:
        check(lib.block_check(image.handle, REPAIR[repair], result, error), error, exception=ImageError)
    numbers = {
        field: int(getattr(result, field)) for field in CheckResult.__dataclass_fields__ if field != "first"
    }
    return CheckResult(first=ffi.string(result.first).decode(errors="replace"), **numbers)


def _copy(source: Image, target: Image, empty: bool, compress: bool, progress: Progress | None) -> None:
    size, error = source.size, new_error()
    for offset in range(0, size, _STEP):
        length = min(_STEP, size - offset)
        result = lib.block_copy(source.handle, target.handle, offset, length, empty, compress, error)
        check(result, error, exception=ImageError)
        if progress is not None:
            progress(offset + length, size)


def convert_image(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    format: str = "qcow2",
    *,
    source_format: str | None = None,
    compress: bool = False,
    create: bool = True,
    cache: str = "unsafe",
    progress: Progress | None = None,
    **options: Any,
) -> None:
    """Copy a disk into a new image of another format, without its backing chain; zeros become holes.

    Parameters
    ----------
    compress
        Write compressed clusters (qcow2 only).
    create
        False writes into an image that exists and is large enough.
    options
        Those of `create_image` (cluster_size, compat, ...).

    Raises
    ------
    ImageError
        Either image cannot be opened, read or written; a target that is made here is removed again on failure.
    """
    name = os.fspath(target)
    if compress and (format != "qcow2" or not create):
        raise ImageError(f"{name}: only a new qcow2 image can be written compressed")
    with open_image(source, source_format, read_only=True) as read:
        if os.path.exists(name) and os.path.samefile(source, name):
            raise ImageError(f"{name}: cannot convert an image onto itself")
        if create:
            create_image(name, format, read.size, **options)
        try:
            with open_image(name, format, cache) as write:
                if write.size < read.size:
                    raise ImageError(f"{name}: {write.size} bytes are fewer than the source's {read.size}")
                _copy(read, write, create, compress, progress)
                write.flush()
        except BaseException:
            if create and os.path.isfile(name):
                os.unlink(name)
            raise


def compare_images(a: Image, b: Image, progress: Progress | None = None) -> int | None:
    """The first offset at which two disks differ, or None. What one has beyond the other's end must be zeros."""
    size, error = min(a.size, b.size), new_error()
    for offset in range(0, size, _STEP):
        result = lib.block_compare(a.handle, b.handle, offset, min(_STEP, size - offset), error)
        if result >= 0:
            return int(result)
        check(result + 1, error, exception=ImageError)
        if progress is not None:
            progress(offset, size)
    longer = a if a.size > b.size else b
    for extent in longer.map(size):
        for offset in range(extent.start, extent.start + extent.length, _STEP):
            if extent.zero:
                break
            data = longer.pread(min(_STEP, extent.start + extent.length - offset), offset)
            rest = data.lstrip(b"\0")
            if rest:
                return offset + len(data) - len(rest)
    return None
