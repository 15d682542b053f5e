"""The nine-parameter augmentation of Karras et al. (2022, appendix F.2), as used by the reference for HDiT.

All operations are composed into one affine map, which is sampled once: bicubic (the convolution kernel with a = -0.75),
mirrored about the outermost pixels, then clipped to [-1, 1]. (The reference samples with cubic splines, mirrors in the
same way, and does not clip.) An image that is only flipped keeps its pixels exactly. Nine numbers condition the network
on the augmentation.

The reading process draws the parameters of each image; resampling, as expensive as decoding, is one operation per batch
on the training device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import grid_sample

from hdit_core.randomness import streams, uniform

NUM_PARAMETERS = 9

SCALE_STEP = 0.2  # log2 of the scale and of the squeeze at one standard deviation
SHIFT_STEP = 1 / 8  # shift as a fraction of the image's side, at one standard deviation

Numbers = Float64[np.ndarray, " B"]


@dataclass(frozen=True)
class Augmentation:
    """The parameters of each image, in the order of the conditioning vector; zeros for none."""

    flip_x: Float64[np.ndarray, " B"]  # 0 or 1: horizontal flip
    flip_y: Float64[np.ndarray, " B"]  # 0 or 1
    scale: Float64[np.ndarray, " B"]  # 2^(0.2 scale) times as large
    rotation: Float64[np.ndarray, " B"]  # radians, counterclockwise on the screen
    squeeze: Float64[np.ndarray, " B"]  # 2^(0.2 squeeze) times as long in one direction, 2^(-0.2 squeeze) across
    squeeze_angle: Float64[np.ndarray, " B"]  # angle of that direction, radians, clockwise from the x axis
    shift_x: Float64[np.ndarray, " B"]  # in eighths of the width, to the right
    shift_y: Float64[np.ndarray, " B"]  # in eighths of the height, down

    def is_flip_only(self) -> Bool[np.ndarray, " B"]:
        """Return which images need no resampling."""
        return (
            (self.scale == 0) & (self.rotation == 0) & (self.squeeze == 0) & (self.shift_x == 0) & (self.shift_y == 0)
        )


def draw(seed: int, numbers: Sequence[int], probability: float) -> Augmentation:
    """Draw the augmentation of each image from its own streams.

    Args:
        seed: seed of the run.
        numbers: indices of the images in the run.
        probability: probability of each of the five groups: flip y, scale, rotation, squeeze, shift. Flip x has 1/2.
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
    """Return the conditioning vector of each image; zeros for no augmentation."""
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


def _maps(batch: int, entries: Mapping[tuple[int, int], ArrayLike]) -> Float64[np.ndarray, "B 3 3"]:
    """Return identity maps of points (x, y, 1) with some entries replaced."""
    maps = np.tile(np.eye(3), (batch, 1, 1))
    for (row, column), values in entries.items():
        maps[:, row, column] = values
    return maps


def _scalings(along_x: Numbers, along_y: Numbers) -> Float64[np.ndarray, "B 3 3"]:
    return _maps(len(along_x), {(0, 0): along_x, (1, 1): along_y})


def _rotations(angles: Numbers) -> Float64[np.ndarray, "B 3 3"]:
    """Return rotations from the x axis towards the y axis: clockwise on the screen, since y points down."""
    cos, sin = np.cos(angles), np.sin(angles)
    return _maps(len(angles), {(0, 0): cos, (0, 1): -sin, (1, 0): sin, (1, 1): cos})


def _translations(along_x: Numbers, along_y: Numbers) -> Float64[np.ndarray, "B 3 3"]:
    return _maps(len(along_x), {(0, 2): along_x, (1, 2): along_y})


def affine(augmentation: Augmentation, height: int, width: int) -> Float64[np.ndarray, "B 3 3"]:
    """Return the map of points (x, y, 1) of each image, in pixels from the center, y down.

    The reference's order: the image is shifted first, then squeezed, rotated, scaled, and flipped last.
    """
    a = augmentation
    size, stretch = 2 ** (SCALE_STEP * a.scale), 2 ** (SCALE_STEP * a.squeeze)
    return (
        _scalings(1 - 2 * a.flip_x, 1 - 2 * a.flip_y)
        @ _scalings(size, size)
        @ _rotations(-a.rotation)
        @ (_rotations(a.squeeze_angle) @ _scalings(stretch, 1 / stretch) @ _rotations(-a.squeeze_angle))
        @ _translations(SHIFT_STEP * width * a.shift_x, SHIFT_STEP * height * a.shift_y)
    )


@dataclass(frozen=True)
class AffineWarp:
    """The pending resampling of some images of a batch, in one operation."""

    places: Int64[Tensor, " K"]  # indices of these images in the batch
    sources: Float[Tensor, "K 2 3"]  # maps a point (x, y, 1) of the result to one of the image; see `affine`

    def to(self, device: torch.device | str) -> "AffineWarp":
        """Return the same on a device."""
        return AffineWarp(self.places.to(device, non_blocking=True), self.sources.to(device, non_blocking=True))

    def pin_memory(self) -> "AffineWarp":
        """Return the same in page-locked memory."""
        return AffineWarp(self.places.pin_memory(), self.sources.pin_memory())

    def __call__(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the images, on the same device, in [-1, 1]."""
        if not len(self.places):
            return images
        return images.index_copy(0, self.places, resample(images[self.places], self.sources))


def resample(images: Float[Tensor, "K C H W"], sources: Float[Tensor, "K 2 3"]) -> Float[Tensor, "K C H W"]:
    """Return images whose points are sampled at the positions given by the maps.

    Each pixel is computed independently, so on one device the results do not depend on the batch.
    """
    height, width = images.shape[-2:]
    half_height, half_width = (height - 1) / 2, (width - 1) / 2
    y = torch.arange(height, device=images.device)[:, None] - half_height
    x = torch.arange(width, device=images.device) - half_width
    along_x, along_y, shift = sources[:, :, None, None].unbind(-1)
    from_x, from_y = (along_x * x + along_y * y + shift).unbind(1)
    grid = torch.stack([from_x / max(half_width, 0.5), from_y / max(half_height, 0.5)], -1)  # outermost pixels: -1, 1
    return grid_sample(images, grid, "bicubic", padding_mode="reflection", align_corners=True).clamp(-1, 1)


def _flipped(images: Float[Tensor, "B C H W"], augmentation: Augmentation) -> Float[Tensor, "B C H W"]:
    """Return the images, with the flips of those that are only flipped."""
    only = augmentation.is_flip_only()
    for axis, flips in ((-1, augmentation.flip_x), (-2, augmentation.flip_y)):
        chosen = torch.from_numpy((flips == 1) & only)
        images = torch.where(chosen[:, None, None, None], images.flip(axis), images)
    return images


def mirrored(images: Float[Tensor, "B C H W"], seed: int, numbers: Sequence[int]) -> Float[Tensor, "B C H W"]:
    """Return the images, each mirrored with probability 1/2 by its own random number; deterministic."""
    chosen = torch.from_numpy(uniform(seed, "mirror", numbers) < 0.5)
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def augment(
    images: Float[Tensor, "B C H W"], seed: int, numbers: Sequence[int], probability: float
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B 9"], AffineWarp | None]:
    """Augment images, each by its own random numbers; resampling is left to the training device.

    Args:
        images: images in [-1, 1].
        seed: seed of the run.
        numbers: indices of the images in the run.
        probability: probability of each augmentation; 0 turns off all of them, including horizontal flips.

    Returns:
        The images in [-1, 1]; their conditioning vectors, zeros for none; and the pending resampling, None for none.
    """
    if not probability:
        return images, images.new_zeros(len(images), NUM_PARAMETERS), None
    augmentation = draw(seed, numbers, probability)
    places = np.flatnonzero(~augmentation.is_flip_only())
    sources = np.linalg.inv(affine(augmentation, *images.shape[-2:])[places])[:, :2]
    warp = AffineWarp(torch.from_numpy(places), torch.from_numpy(sources).float())
    return _flipped(images, augmentation), condition(augmentation), warp if len(places) else None
