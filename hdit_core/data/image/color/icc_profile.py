"""Converts colors to sRGB by their ICC profile, as a color-managed viewer does.

Whether a profile is sRGB is decided by its transform, not by its name (`sRGB, linear` is not). Transforms are cached,
since a million photographs share a few profiles.
"""

import io
import struct
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from hdit_core.data.image.color.cicp import refuse_high_dynamic_range

CONVERTED = "converted to sRGB by its color profile"
UNUSABLE = "unusable color profile ignored"

SAME_LEVELS = 2
"""A profile that changes no color by more than this is taken as sRGB; programs round its curve differently."""

_FIRST_TAG = 132

_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def _probe() -> Image.Image:
    """Return all mixtures of six levels of red, green and blue."""
    levels = np.linspace(0, 255, 6).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(6, 36, 3))


def _probe_grey() -> Image.Image:
    return Image.fromarray(np.arange(256, dtype=np.uint8)[None])


def _keeps_all(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether a transform leaves every color unchanged."""
    if mode == "CMYK":
        return False
    before = _probe() if mode == "RGB" else _probe_grey()
    after = np.asarray(ImageCms.applyTransform(before, transform)).astype(int)
    return bool(np.abs(after - np.asarray(before.convert("RGB"))).max() <= SAME_LEVELS)


@lru_cache(maxsize=64)
def _transform(profile_bytes: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return the mode of pixels that a profile describes, and their transform to sRGB; None if they are sRGB.

    Raises:
        ValueError: it describes another space, or is damaged.
    """
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes))
        mode = _MODES.get(profile.profile.xcolor_space)
        if mode is None:
            raise ValueError(f"pixels of the kind {profile.profile.xcolor_space}")
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
        return mode, None if _keeps_all(transform, mode) else transform
    except (OSError, ImageCms.PyCMSError, TypeError) as problem:
        raise ValueError(str(problem)) from None


def _transfer(profile: bytes) -> int:
    """Return the transfer function in a profile's tag `cicp`, by its number in H.273; 0 without one.

    The color transform of such a profile is a tone mapping of its maker's, or that of sRGB.
    """
    for at in range(_FIRST_TAG, min(_FIRST_TAG + 12 * int.from_bytes(profile[128:132]), len(profile) - 11), 12):
        kind, place, _ = struct.unpack_from(">4sII", profile, at)
        if kind == b"cicp" and place + 12 <= len(profile):
            return profile[place + 9]
    return 0


def to_srgb(image: Image.Image, profile_bytes: bytes) -> tuple[Image.Image, list[str]]:
    """Convert an image by its ICC profile.

    Args:
        image: of mode L, RGB or CMYK.
        profile_bytes: the profile.

    Returns:
        The image in RGB, or unchanged if the profile is sRGB or cannot be used; and remarks.

    Raises:
        UnusableImageError: it has a high dynamic range, which 8-bit sRGB cannot show.
    """
    refuse_high_dynamic_range(_transfer(profile_bytes))
    try:
        mode, transform = _transform(profile_bytes)
        if transform is None:
            return image, []
        if image.mode == "L" and mode == "RGB":
            image = image.convert("RGB")
        converted = ImageCms.applyTransform(image, transform) if image.mode == mode else None
    except (ValueError, ImageCms.PyCMSError):
        converted = None
    return (image, [UNUSABLE]) if converted is None else (converted, [CONVERTED])
