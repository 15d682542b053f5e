"""The optional packages that read and write what Pillow cannot."""

from typing import Any

from hdit_core.data.image.unusable import UnusableImageError

INSTALL = "pip install 'hdit-toolkit[arrays]'"


def imagecodecs(what: str) -> Any:
    """Return the package imagecodecs.

    Args:
        what: what needs it, for the message.

    Raises:
        UnusableImageError: it is not installed.
    """
    try:
        import imagecodecs
    except ImportError:
        raise UnusableImageError(f"{what} needs imagecodecs, which is not installed; run: {INSTALL}") from None
    return imagecodecs


def tifffile(what: str) -> Any:
    """Return the package tifffile, which needs imagecodecs for compressed files.

    Args:
        what: what needs it, for the message.

    Raises:
        UnusableImageError: it is not installed.
    """
    imagecodecs(what)
    try:
        import tifffile
    except ImportError:
        raise UnusableImageError(f"{what} needs tifffile, which is not installed; run: {INSTALL}") from None
    return tifffile
