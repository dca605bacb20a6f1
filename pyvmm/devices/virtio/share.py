"""virtio 9P device: a folder of the host, shared (csrc/virtio/virtio_9p.c, csrc/p9/)."""

from __future__ import annotations

import os

from pyvmm.devices.virtio.base import VirtioDevice
from pyvmm.devices.virtio.features import SHARE
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.board import Board
    from pyvmm.config import ShareSecurity, StrPath
    from pyvmm.devices.virtio.base import Place

TAG_BYTES: Final = 31
SECURITIES: Final = ("none", "mapped")


@record(frozen=True, slots=True)
class ShareCounters:
    """What the device has done since it was made, and what it holds now.

    `errors` are requests that were answered with an error. `fids` are the files that the guest has, open or only looked
    at; `descriptors` those of the host that are open for them.
    """

    requests: int
    errors: int
    bytes_read: int
    bytes_written: int
    fids: int
    descriptors: int


class Virtio9p(VirtioDevice):
    """A folder that the guest mounts: ``mount -t 9p -o trans=virtio,version=9p2000.L TAG /mnt``.

    Parameters
    ----------
    place
        Where it stands.
    path
        The folder. What is in it is all that the guest can reach.
    tag
        What it is mounted by: 1 to 31 bytes.
    security
        ``"none"``: owner and mode of files are the host's own, as far as this process may set them. ``"mapped"``: they
        are kept in extended attributes, as QEMU's ``mapped-xattr`` has them.
    read_only
        The guest can change nothing.
    max_descriptors
        Of the host, open at once at most; 0: half of what the process may have.

    Raises
    ------
    DeviceError
        No such folder, no extended attributes in it (mapped), a tag that cannot be, or the place is taken.
    """

    feature_bits = SHARE

    def __init__(
        self,
        board: Board,
        place: Place,
        path: StrPath,
        tag: str,
        *,
        security: ShareSecurity = "none",
        read_only: bool = False,
        max_descriptors: int = 0,
    ) -> None:
        if security not in SECURITIES:
            raise DeviceError(f"share {path}: security {security!r} is not {' or '.join(SECURITIES)}")
        if "\0" in tag or "\0" in os.fspath(path):
            raise DeviceError(f"share {path!r}, tag {tag!r}: there is a NUL in it")
        error = new_error()
        options = ffi.new("Virtio9pOptions *")
        texts = ffi.new("char[]", os.fsencode(path)), ffi.new("char[]", tag.encode())
        options.path, options.tag = texts
        options.security = SECURITIES.index(security)
        options.read_only, options.max_descriptors = read_only, max_descriptors
        pointer = lib.virtio_9p_new(board.pointer, place.native(board), options, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), place)
        self.path, self.tag = path, tag

    @property
    def counters(self) -> ShareCounters:
        """Requests and bytes so far, files and descriptors now."""
        native = ffi.new("P9Counters *")
        lib.virtio_9p_counters(self.pointer, native)
        return ShareCounters(**{name: int(getattr(native, name)) for name in ShareCounters.__match_args__})

    def save(self) -> bytes:
        """As in `NativeDevice`, of a share that is not mounted.

        Raises
        ------
        DeviceError
            The guest has files of it: descriptors of this host cannot be saved.
        """
        fids = self.counters.fids
        if fids:
            raise DeviceError(
                f"share {self.tag}: the guest has it mounted ({fids} files), which cannot be saved; unmount it there"
            )
        return super().save()
