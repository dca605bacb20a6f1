"""Disk images, raw and qcow2: opened, made, checked, converted. The data path is C (csrc/block), without the GIL."""

from __future__ import annotations

from pyvmm.block.image import CACHE_MODES, Extent, Image, ImageInfo, open_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.block.tools import CheckResult, check_image, compare_images, convert_image, create_image

__all__ = [
    "CACHE_MODES",
    "CheckResult",
    "Extent",
    "Image",
    "ImageInfo",
    "check_image",
    "compare_images",
    "convert_image",
    "create_image",
    "open_image",
]


def __getattr__(name: str) -> object:
    """What a machine does not need to start: making, checking, converting and comparing images."""
    if name not in __all__:
        raise AttributeError(f"module 'pyvmm.block' has no attribute {name!r}")
    from pyvmm.block import tools

    value: object = getattr(tools, name)
    globals()[name] = value
    return value
