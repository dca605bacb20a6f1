"""Disk images, raw and qcow2: opened, made, checked, converted. The data path is C (csrc/block), without the GIL."""

from __future__ import annotations

from pyvmm.block.image import CACHE_MODES, Extent, Image, ImageInfo, open_image
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
