"""The nine-parameter augmentation of Karras et al. (2022, appendix F.2) as the reference trains HDiT with it.

All of it is one affine map, sampled once: bicubic (the convolution kernel with a = -0.75), what lies outside mirrored
about the outermost pixels, then clipped to [-1, 1]. (The reference samples with cubic splines, mirrors alike, and does
not clip.) An image that is only flipped keeps its pixels exactly. The network is told what was done in nine numbers.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn.functional import grid_sample

from hdit_core.randomness import streams, uniform

NUM_PARAMETERS = 9

SCALE_STEP = 0.2  # log2 of the scale and of the squeeze at one standard deviation
SHIFT_STEP = 1 / 8  # of the image's side, at one standard deviation


@dataclass(frozen=True)
class Augmentation:
    """What is done to each image, in the order of the conditioning vector; zeros do nothing."""

    flip_x: Float64[np.ndarray, " B"]  # 0 or 1: left and right change places
    flip_y: Float64[np.ndarray, " B"]  # 0 or 1
    scale: Float64[np.ndarray, " B"]  # 2^(0.2 scale) times as large
    rotation: Float64[np.ndarray, " B"]  # radians, counterclockwise as one sees the image
    squeeze: Float64[np.ndarray, " B"]  # 2^(0.2 squeeze) times as long in one direction, 2^(-0.2 squeeze) across
    squeeze_angle: Float64[np.ndarray, " B"]  # of that direction, radians, clockwise from the x axis
    shift_x: Float64[np.ndarray, " B"]  # in eighths of the width, to the right
    shift_y: Float64[np.ndarray, " B"]  # in eighths of the height, down

    def is_flip_only(self) -> Bool[np.ndarray, " B"]:
        """Return which images need no resampling."""
        return (
            (self.scale == 0) & (self.rotation == 0) & (self.squeeze == 0) & (self.shift_x == 0) & (self.shift_y == 0)
        )


def draw(seed: int, numbers: Sequence[int], probability: float) -> Augmentation:
    """Draw the augmentation of each image from its own streams (hdit-facts 4.9).

    Args:
        seed: the run's.
        numbers: of the images in the run.
        probability: of each of the five groups: flip y, scale, rotation, squeeze, shift. Flip x has one half.
    """
    groups, signs, angles, sizes = (
        np.stack(columns)
        for columns in zip(
            *(
                (g.random(5), g.random(), g.uniform(-np.pi, np.pi, 2), g.standard_normal(4))
                for g in streams(seed, "augment", numbers)
            ),
            strict=True,
        )
    )
    on = (groups < probability).astype(np.float64)
    return Augmentation(
        flip_x=(uniform(seed, "flip", numbers) < 0.5).astype(np.float64),
        flip_y=(signs < 0.5) * on[:, 0],
        scale=sizes[:, 0] * on[:, 1],
        rotation=angles[:, 0] * on[:, 2],
        squeeze=sizes[:, 1] * on[:, 3],
        squeeze_angle=angles[:, 1] * on[:, 3],
        shift_x=sizes[:, 2] * on[:, 4],
        shift_y=sizes[:, 3] * on[:, 4],
    )


def condition(augmentation: Augmentation) -> Float[Tensor, "B 9"]:
    """Return what the network is told, in the order of hdit-facts 4.9; zeros for nothing."""
    a = augmentation
    columns = [
        a.flip_x,
        a.flip_y,
        a.scale,
        np.cos(a.rotation) - 1,
        np.sin(a.rotation),
        a.squeeze * np.cos(a.squeeze_angle),
        a.squeeze * np.sin(a.squeeze_angle),
        a.shift_x,
        a.shift_y,
    ]
    return torch.from_numpy(np.stack(columns, axis=1)).float()


def _scaling(along_x: float, along_y: float) -> Float64[np.ndarray, "3 3"]:
    return np.diag([along_x, along_y, 1.0])


def _rotation(angle: float) -> Float64[np.ndarray, "3 3"]:
    """Return the turn from the x axis towards the y axis: clockwise as one sees it, since y points down."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _translation(along_x: float, along_y: float) -> Float64[np.ndarray, "3 3"]:
    return np.array([[1, 0, along_x], [0, 1, along_y], [0, 0, 1]])


def affine(augmentation: Augmentation, place: int, height: int, width: int) -> Float64[np.ndarray, "3 3"]:
    """Return where a point (x, y, 1) of one image goes, in pixels from the centre, y down.

    The reference's order: the image is shifted first, then squeezed, rotated, scaled, and flipped last.
    """
    flip_x, flip_y, scale, rotation, squeeze, angle, shift_x, shift_y = (float(v[place]) for v in astuple(augmentation))
    stretch = 2 ** (SCALE_STEP * squeeze)
    return (
        _scaling(1 - 2 * flip_x, 1 - 2 * flip_y)
        @ _scaling(2 ** (SCALE_STEP * scale), 2 ** (SCALE_STEP * scale))
        @ _rotation(-rotation)
        @ (_rotation(angle) @ _scaling(stretch, 1 / stretch) @ _rotation(-angle))
        @ _translation(SHIFT_STEP * width * shift_x, SHIFT_STEP * height * shift_y)
    )


def warp(image: Float[Tensor, "C H W"], matrix: Float64[np.ndarray, "3 3"]) -> Float[Tensor, "C H W"]:
    """Move every point of an image to where the matrix sends it."""
    height, width = image.shape[-2:]
    half_height, half_width = (height - 1) / 2, (width - 1) / 2
    y, x = np.mgrid[-half_height : half_height + 0.5, -half_width : half_width + 0.5]
    from_x, from_y, _ = einsum(np.linalg.inv(matrix), np.stack([x, y, np.ones_like(x)]), "i j, j h w -> i h w")
    units = np.stack(
        [from_x / max(half_width, 0.5), from_y / max(half_height, 0.5)], axis=-1
    )  # outermost pixels: -1, 1
    grid = torch.from_numpy(units[None])
    warped = grid_sample(image[None], grid.to(image.dtype), "bicubic", padding_mode="reflection", align_corners=True)
    return warped[0].clamp(-1, 1)


def apply(images: Float[Tensor, "B C H W"], augmentation: Augmentation) -> Float[Tensor, "B C H W"]:
    """Return the augmented images; one after the other, so that no image depends on what it is batched with."""
    flip_only = augmentation.is_flip_only()
    height, width = images.shape[-2:]
    done = []
    for place, image in enumerate(images):
        if flip_only[place]:
            flips = (-1,) * bool(augmentation.flip_x[place]) + (-2,) * bool(augmentation.flip_y[place])
            done.append(image.flip(flips))
        else:
            done.append(warp(image, affine(augmentation, place, height, width)))
    return torch.stack(done)


def augment(
    images: Float[Tensor, "B C H W"], seed: int, numbers: Sequence[int], probability: float
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B 9"]]:
    """Augment images, each by its own random numbers.

    Args:
        images: in [-1, 1].
        seed: the run's.
        numbers: of the images in the run.
        probability: of each augmentation, in [0, 1]; 0 turns all of them off, the mirror image too.

    Returns:
        The images in [-1, 1], and what was done to each as the network is told it (hdit-facts 4.9); zeros for nothing.
    """
    if not probability:
        return images, images.new_zeros(len(images), NUM_PARAMETERS)
    augmentation = draw(seed, numbers, probability)
    return apply(images, augmentation), condition(augmentation)
