"""Images larger than the training size: the network sees overlapping tiles, and their denoised pixels are blended.

The blend happens at every evaluation of the denoiser, so that the sampler, its noise and guidance work on the whole
image, and no seam can grow from step to step (MultiDiffusion: Bar-Tal et al. 2023, eq. 5). Tiles are added in a fixed
order: how many are evaluated at once changes nothing.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hdit_core.devices import at_least_float32
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import UsageError
from hdit_core.recipe.model import ModelRecipe


@dataclass(frozen=True)
class Tiling:
    """How an image is divided.

    Attributes:
        size: largest height and width of a tile in pixels; images that fit are not divided.
        overlap: smallest number of pixels that neighboring tiles share.
    """

    size: tuple[int, int]
    overlap: int

    def __post_init__(self) -> None:
        """Refuse an overlap as large as a tile, with a UsageError."""
        if not 0 <= self.overlap < min(self.size):
            size = f"{self.size[0]}x{self.size[1]}"
            raise UsageError(
                f"--overlap {self.overlap}: expected 0 to {min(self.size) - 1} pixels with tiles of {size}"
            )

    @classmethod
    def of(cls, model: ModelRecipe, size: tuple[int, int], overlap: int | None) -> "Tiling":
        """Return tiles of a size, which overlap by a quarter of the shorter side where that is not given.

        Raises:
            UsageError: the network cannot process tiles of that size, or they overlap by all of it.
        """
        for _, problem in model.size_problems(size):
            trained = "x".join(map(str, model.image_size))
            raise UsageError(f"--tile {size[0]}x{size[1]}: {problem}; the training size is {trained}")
        return cls(size, min(size) // 4 if overlap is None else overlap)

    def divides(self, size: tuple[int, int]) -> bool:
        """Return whether an image of that size has more than one tile."""
        return any(length > tile for length, tile in zip(size, self.size, strict=True))

    def corners(self, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Yield the top left corner of each tile, row by row."""
        yield from product(*(self._starts(length, tile) for length, tile in zip(size, self.size, strict=True)))

    def _starts(self, length: int, tile: int) -> list[int]:
        """Return the first pixels of the tiles along one axis, evenly spread from edge to edge."""
        if length <= tile:
            return [0]
        gaps = math.ceil((length - tile) / (tile - self.overlap))
        return [index * (length - tile) // gaps for index in range(gaps + 1)]

    def weights(self, size: tuple[int, int]) -> Float[Tensor, "H W"]:
        """Return the weight of each pixel of a tile in the blend: it falls linearly over the overlap to the edges."""
        height, width = (min(length, tile) for length, tile in zip(size, self.size, strict=True))
        return self._ramp(height)[:, None] * self._ramp(width)[None, :]

    def _ramp(self, length: int) -> Float[Tensor, "L"]:
        positions = torch.arange(length)
        return (torch.minimum(positions, length - 1 - positions) + 1).clamp(max=self.overlap + 1).float()


class TiledDenoiser(Denoiser):
    """A denoiser of images of any size: those larger than a tile are denoised tile by tile."""

    def __init__(self, denoiser: Denoiser, tiling: Tiling, tiles_at_once: int) -> None:
        """
        Args:
            denoiser: of one tile.
            tiling: how images are divided.
            tiles_at_once: most tiles in one evaluation of the network.
        """
        super().__init__(denoiser.network, denoiser.recipe)
        self.tiling, self.tiles_at_once = tiling, tiles_at_once

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        sigma: Float[Tensor, "B"] | Float[Tensor, ""] | float,
        class_ids: Int64[Tensor, "B"] | None = None,
        augment_cond: Float[Tensor, "B 9"] | None = None,
        mapping_cond: Float[Tensor, "B E"] | None = None,
        condition: Float[Tensor, "B K H W"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Return the denoised images; arguments as in `Denoiser.forward`."""
        size = (x.shape[2], x.shape[3])
        if not self.tiling.divides(size):
            return super().forward(x, sigma, class_ids, augment_cond, mapping_cond, condition)
        sigma = torch.as_tensor(sigma, dtype=at_least_float32(x.dtype), device=x.device).expand(len(x))
        weights = self.tiling.weights(size).to(x.device)
        total, blended = torch.zeros(size, device=x.device), torch.zeros(x.shape, device=x.device)
        tiles = [(image, corner) for corner in self.tiling.corners(size) for image in range(len(x))]
        for start in range(0, len(tiles), self.tiles_at_once):
            group = tiles[start : start + self.tiles_at_once]
            rows = torch.tensor([image for image, _ in group], device=x.device)
            denoised = super().forward(
                _cut(x, group, weights.shape),
                sigma[rows],
                None if class_ids is None else class_ids[rows],
                None if augment_cond is None else augment_cond[rows],
                None if mapping_cond is None else mapping_cond[rows],
                None if condition is None else _cut(condition, group, weights.shape),
            )
            for (image, (top, left)), tile in zip(group, denoised, strict=True):
                area = (slice(top, top + weights.shape[0]), slice(left, left + weights.shape[1]))
                blended[image, :, *area] += weights * tile
                if image == 0:
                    total[area] += weights
        return (blended / total).to(x.dtype)


def _cut(images: Tensor, tiles: list[tuple[int, tuple[int, int]]], size: torch.Size) -> Float[Tensor, "T C H W"]:
    """Return the tiles of images."""
    height, width = size
    return torch.stack([images[image, :, top : top + height, left : left + width] for image, (top, left) in tiles])
