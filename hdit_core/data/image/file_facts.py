"""What a file says besides its pixels, as far as Pillow does not read it."""

from dataclasses import dataclass

from hdit_core.data.image.color_space import ColorSpace
from hdit_core.data.image.unusable import UnusableImageError

LEAST_ZEROS = 64
"""Compressed data do not end with so many zero bytes; a file that was not written to its end does."""


@dataclass(frozen=True)
class FileFacts:
    """What is known of a file before its pixels are decoded."""

    data: bytes  # what is to be decoded: the file, or the file without what a decoder stumbles over
    profile: bytes | None = None  # the ICC profile, where Pillow does not find it
    space: ColorSpace | None = None
    remarks: tuple[str, ...] = ()


def check_zero_tail(data: bytes, end: int) -> None:
    """Refuse compressed data that end in zeros: they were not written to their end.

    Raises:
        UnusableImageError: they were not.
    """
    if end > LEAST_ZEROS and not any(data[end - LEAST_ZEROS : end]):
        raise UnusableImageError("damaged: filled with zeros at its end")


def check_first_frame(frame: tuple[int, int, int, int], width: int, height: int) -> None:
    """Refuse an animation whose first frame is a part of the picture.

    Args:
        frame: left, top, width and height of the first frame.
        width: of the picture.
        height: of the picture.

    Raises:
        UnusableImageError: it is.
    """
    if frame != (0, 0, width, height):
        raise UnusableImageError(
            f"the first frame of the animation covers only {frame[2]}x{frame[3]} pixels of {width}x{height}"
        )
