"""TIFF as arrays: 8, 16 and 32 bits, integers and floats, any number of channels, by tifffile."""

import io
import logging
from typing import Any

import numpy as np
from jaxtyping import Shaped

from hdit_core.data.image.arrays.packages import tifffile
from hdit_core.data.image.arrays.pixel_format import MOST_CHANNELS
from hdit_core.data.image.decode import LARGEST_IMAGE_PIXELS
from hdit_core.data.image.tiff import check_data, check_raw
from hdit_core.data.image.unusable import UnusableImageError

_COMPRESSIONS = {1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate", 50000: "Zstandard"}
_BLACK_IS_ZERO, _RGB = 1, 2


def _page(data: bytes) -> Any:
    """Return the only page of a TIFF, after checks of its header; no pixel is decoded."""
    check_raw(data)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is raised, or checked here
    pages = tifffile("TIFF with other values than 8-bit greyscale and RGB").TiffFile(io.BytesIO(data)).pages
    if len(pages) != 1:
        raise UnusableImageError(
            f"TIFF with {len(pages)} pages; save channels as samples of one page, or as .npy [height, width, channels]"
        )
    page = pages[0]
    height, width, channels = page.imagelength, page.imagewidth, page.samplesperpixel
    if not 0 < width * height <= LARGEST_IMAGE_PIXELS or page.imagedepth != 1:
        raise UnusableImageError(f"{width}x{height} pixels; expected 1 to {LARGEST_IMAGE_PIXELS // 10**6} million")
    if not 1 <= channels <= MOST_CHANNELS:
        raise UnusableImageError(f"{channels} channels; expected 1 to {MOST_CHANNELS}")
    return page


def _check_page(page: Any, size_bytes: int) -> None:
    """Refuse what has no defined values, and data that are missing."""
    if page.photometric not in (_BLACK_IS_ZERO, _RGB):
        raise UnusableImageError(f"TIFF of photometric interpretation {int(page.photometric)}; expected grey or RGB")
    if page.compression not in _COMPRESSIONS:
        names = ", ".join(dict.fromkeys(_COMPRESSIONS.values()))
        raise UnusableImageError(f"TIFF with compression {int(page.compression)}; expected one of {names}")
    if page.dtype is None or page.dtype.kind not in "uif" or page.bitspersample not in (8, 16, 32, 64):
        raise UnusableImageError(f"TIFF with {page.bitspersample} bits per value; expected 8, 16 or 32")
    if page.is_tiled and page.tilewidth * page.tilelength > LARGEST_IMAGE_PIXELS:
        raise UnusableImageError(f"TIFF with tiles of {page.tilewidth}x{page.tilelength} pixels")
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    wanted = int(np.prod(page.chunked))
    if len(parts) < wanted or any(count < 1 or first + count > size_bytes for first, count in parts):
        raise UnusableImageError("damaged or truncated TIFF: a strip or tile is missing")
    if page.compression == 1 and sum(page.databytecounts) < page.nbytes:
        raise UnusableImageError("damaged or truncated TIFF: fewer bytes than its header says")


def tiff_format(data: bytes) -> tuple[np.dtype, int]:
    """Return data type and channels of a TIFF.

    Raises:
        UnusableImageError: it has none that an array can keep.
    """
    page = _page(data)
    _check_page(page, len(data))
    return page.dtype, page.samplesperpixel


def read_tiff_array(data: bytes) -> Shaped[np.ndarray, "H W C"]:
    """Return the values of a TIFF as they are stored; color profiles are not applied.

    Raises:
        UnusableImageError: it is too large, damaged, or of a kind without defined values.
    """
    page = _page(data)
    _check_page(page, len(data))
    check_data(data)
    array = page.asarray()
    shape = page.imagelength, page.imagewidth, page.samplesperpixel
    if page.planarconfig == 2 and page.samplesperpixel > 1:  # one plane per channel
        array = np.moveaxis(array.reshape(shape[2], shape[0], shape[1]), 0, -1)
    return array.reshape(shape)
