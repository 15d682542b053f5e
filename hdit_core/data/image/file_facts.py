"""The metadata of an image file that Pillow does not read, and checks of it."""

from dataclasses import dataclass

from hdit_core.data.image.color.cicp import ColorSpace
from hdit_core.data.image.unusable import UnusableImageError

LEAST_ZEROS = 64
"""Compressed data do not end with this many zero bytes; an incompletely written file does."""


@dataclass(frozen=True)
class FileFacts:
    """What is known about a file before its pixels are decoded."""

    data: bytes  # the file to decode, without parts that a decoder fails on
    profile: bytes | None = None  # the ICC profile, if Pillow does not find it
    space: ColorSpace | None = None
    remarks: tuple[str, ...] = ()


def check_zero_tail(data: bytes, end: int) -> None:
    """Refuse compressed data that end in zeros, since they were not written completely.

    Raises:
        UnusableImageError: they end in zeros.
    """
    if end > LEAST_ZEROS and not any(data[end - LEAST_ZEROS : end]):
        raise UnusableImageError("damaged: filled with zeros at its end")


def check_first_frame(frame: tuple[int, int, int, int], width: int, height: int) -> None:
    """Refuse an animation whose first frame covers only a part of the picture.

    Args:
        frame: left, top, width and height of the first frame.

    Raises:
        UnusableImageError: it does.
    """
    if frame != (0, 0, width, height):
        raise UnusableImageError(
            f"the first frame of the animation covers only {frame[2]}x{frame[3]} pixels of {width}x{height}"
        )
