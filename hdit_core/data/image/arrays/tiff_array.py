"""TIFF as arrays: 8, 16 and 32 bits, integers and floats, any number of channels, by tifffile.

A stack, with a page for each channel, is one image where its reader asks for that.
"""

import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from hdit_core.data.image.arrays.packages import tifffile
from hdit_core.data.image.arrays.pixel_format import MOST_CHANNELS
from hdit_core.data.image.decode import LARGEST_IMAGE_PIXELS
from hdit_core.data.image.tiff_checks import check_data, check_raw, is_tiff
from hdit_core.data.image.unusable import UnusableImageError

_COMPRESSIONS = {1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate", 50000: "Zstandard"}
_BLACK_IS_ZERO, _RGB = 1, 2


def _all_pages(data: bytes) -> Sequence[Any]:
    check_raw(data)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # problems are raised, or checked here
    pages: Sequence[Any] = (
        tifffile("TIFF with values other than 8-bit grayscale and RGB").TiffFile(io.BytesIO(data)).pages
    )
    return pages


def is_stack(data: bytes) -> bool:
    """Return whether a file is a TIFF of several pages."""
    return is_tiff(data) and len(_all_pages(data)) > 1


def _pages(data: bytes, as_channels: bool) -> list[Any]:
    """Return the pages of a TIFF, a single one or one for each channel, after checks; no pixel is decoded."""
    pages = _all_pages(data)
    if len(pages) > 1 and not as_channels:
        raise UnusableImageError(
            f"TIFF with {len(pages)} pages; if they are the channels of one image, give --pages-as-channels; else save "
            "one page per file"
        )
    if not 1 <= len(pages) <= MOST_CHANNELS:
        raise UnusableImageError(f"TIFF with {len(pages)} pages; expected 1 to {MOST_CHANNELS}")
    for page in pages:
        _check_page(page, len(data))
    kinds = {(page.imagelength, page.imagewidth, page.samplesperpixel, page.dtype) for page in pages}
    if len(pages) > 1 and (len(kinds) > 1 or pages[0].samplesperpixel != 1):
        raise UnusableImageError(
            f"TIFF with {len(pages)} pages that cannot be the channels of one image; expected pages of one channel, of "
            "the same size and data type"
        )
    return list(pages)


def _check_page(page: Any, size_bytes: int) -> None:
    """Refuse what is too large or has no defined values, and data that are missing."""
    height, width, channels = page.imagelength, page.imagewidth, page.samplesperpixel
    if not 0 < width * height <= LARGEST_IMAGE_PIXELS or page.imagedepth != 1:
        raise UnusableImageError(f"{width}x{height} pixels; expected 1 to {LARGEST_IMAGE_PIXELS // 10**6} million")
    if not 1 <= channels <= MOST_CHANNELS:
        raise UnusableImageError(f"{channels} channels; expected 1 to {MOST_CHANNELS}")
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


def tiff_format(data: bytes, pages_as_channels: bool = False) -> tuple[np.dtype, int]:
    """Return data type and channels of a TIFF.

    Raises:
        UnusableImageError: it has none that an array can represent.
    """
    pages = _pages(data, pages_as_channels)
    return pages[0].dtype, len(pages) * pages[0].samplesperpixel


def read_tiff_array(data: bytes, pages_as_channels: bool = False) -> Shaped[np.ndarray, "H W C"]:
    """Return the stored values of a TIFF; color profiles are not applied.

    Args:
        data: the file.
        pages_as_channels: several pages of one channel each are the channels of one image.

    Raises:
        UnusableImageError: it is too large, damaged, of a kind without defined values, or has several pages.
    """
    pages = _pages(data, pages_as_channels)
    check_data(data, every_page=len(pages) > 1)
    return np.concatenate([_values(page) for page in pages], axis=-1) if len(pages) > 1 else _values(pages[0])


def _values(page: Any) -> Shaped[np.ndarray, "H W C"]:
    array: Shaped[np.ndarray, ...] = page.asarray()
    shape = page.imagelength, page.imagewidth, page.samplesperpixel
    if page.planarconfig == 2 and page.samplesperpixel > 1:  # one plane per channel
        array = np.moveaxis(array.reshape(shape[2], shape[0], shape[1]), 0, -1)
    return array.reshape(shape)


def tiff_bytes(array: Shaped[np.ndarray, "H W C"]) -> bytes:
    """Return an array as a TIFF file of one page, RGB if it has three channels, without loss.

    Raises:
        UnusableImageError: tifffile is not installed.
    """
    buffer, is_rgb = io.BytesIO(), array.shape[-1] == 3
    tifffile("TIFF").imwrite(
        buffer,
        array if array.shape[-1] > 1 else array[..., 0],
        photometric="rgb" if is_rgb else "minisblack",
        planarconfig="contig" if array.shape[-1] > 1 else None,
        compression="zlib",
        metadata=None,
    )
    return buffer.getvalue()
