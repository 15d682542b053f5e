"""Converts colors to sRGB by their ICC profile, as a color-managed viewer does.

Whether a profile is sRGB is decided by its transform, not by its name (`sRGB, linear` is not). Transforms are cached,
since a million photographs share a few profiles.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

CONVERTED = "converted to sRGB by its color profile"
UNUSABLE = "unusable color profile ignored"

SAME_LEVELS = 2
"""A profile that changes no color by more than this is taken as sRGB; programs round its curve differently."""

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


def to_srgb(image: Image.Image, profile_bytes: bytes) -> tuple[Image.Image, list[str]]:
    """Convert an image by its ICC profile.

    Args:
        image: of mode L, RGB or CMYK.
        profile_bytes: the profile.

    Returns:
        The image in RGB, or unchanged if the profile is sRGB or cannot be used; and remarks.
    """
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
