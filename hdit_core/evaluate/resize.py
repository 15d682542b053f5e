"""clean-fid's resize (Parmar et al. 2022): Pillow's antialiased bicubic on float32 levels, clipped, never rounded."""

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image


def resize(image_u8: UInt8[np.ndarray, "H W C"], side_px: int) -> Float32[np.ndarray, "S S 3"]:
    """Return an image as a feature network takes it: square, three channels, levels from 0 to 255.

    The numbers are those of `cleanfid.resize.build_resizer("clean")`, bit for bit. A grey image is resized once and
    repeated to three channels.

    Args:
        image_u8: 1 or 3 channels.
        side_px: height and width of the result.
    """
    channels = [_resize_channel(image_u8[..., channel], side_px) for channel in range(image_u8.shape[-1])]
    return np.stack(channels * (3 // len(channels)), axis=-1)


def _resize_channel(levels_u8: UInt8[np.ndarray, "H W"], side_px: int) -> Float32[np.ndarray, "S S"]:
    channel = Image.fromarray(levels_u8.astype(np.float32))
    return np.asarray(channel.resize((side_px, side_px), Image.Resampling.BICUBIC)).clip(0, 255)
