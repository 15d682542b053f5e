"""What preparation takes from EXIF: the orientation of the stored image, and the color space that a camera names."""

from typing import Any

from PIL import Image

from hdit_core.data.image.color.cicp import ADOBE_RGB, NOT_NAMED, ColorSpace
from hdit_core.data.image.png import CORRUPT_EXIF

_ORIENTATION_TAG = 0x0112
_EXIF_TAGS, _INTEROPERABILITY, _COLOR_SPACE = 0x8769, 0xA005, 0xA001
_ADOBE, _UNCALIBRATED = 2, 0xFFFF

# EXIF orientation: the operation that turns the stored image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_upright(image: Image.Image, exif: Image.Exif | None) -> tuple[Image.Image, list[str]]:
    """Return an image with its EXIF orientation applied, and remarks; corrupt EXIF is ignored, with a remark."""
    if exif is None:
        return image, [CORRUPT_EXIF]
    orientation = exif.get(_ORIENTATION_TAG)
    if orientation not in _UPRIGHT:
        return image, []
    return image.transpose(_UPRIGHT[orientation]), ["turned upright by EXIF orientation"]


def read_exif(header: Image.Image) -> Image.Exif | None:
    """Return the EXIF of an opened file, None if it is corrupt."""
    try:
        exif = header.getexif()
        exif.get(_ORIENTATION_TAG)
    except Exception:  # Pillow's parser can raise any exception on a broken tag
        return None
    return exif


def camera_space(exif: Image.Exif | None) -> ColorSpace | None:
    """Return Adobe RGB if a camera names it in EXIF (DCF), an unknown space if it says that it is not sRGB, or None."""
    named = _ifd(exif, _EXIF_TAGS).get(_COLOR_SPACE)
    by_interoperability = named == _UNCALIBRATED and str(_ifd(exif, _INTEROPERABILITY).get(1)).strip("\0 ") == "R03"
    if named == _ADOBE or by_interoperability:
        return ColorSpace(*ADOBE_RGB)
    return ColorSpace(*NOT_NAMED) if named == _UNCALIBRATED else None


def _ifd(exif: Image.Exif | None, tag: int) -> dict[int, Any]:
    """Return a directory of tags; empty if it is missing or broken."""
    try:
        return exif.get_ifd(tag) if exif else {}
    except Exception:  # as above; Pillow 12 fails if the directory of interoperability is missing
        return {}
