"""Token positions and their axial rotary embedding (HDiT paper, section 3.3)."""

import math
from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdit_core.devices import at_least_float32, copy_to
from hdit_core.model.linear import Initial, Shape, constant, nan_init
from hdit_core.recipe.model import Positions

Rotation = tuple[Tensor, Tensor]  # cosines [H, W, N, D], 1 for features that are not rotated; sines [H, W, N, D / 4]


def grid_positions(height: int, width: int, device: torch.device) -> Float[Tensor, "H W 2"]:
    """Return the center (y, x) of each cell: the longer side spans [-1, 1], the shorter one proportionally less.

    Always in float32, and as the mean of rounded edges: the positions that the reference implementation uses.
    """
    longer = max(height, width)

    def centers(cells: int) -> Tensor:
        edges = torch.linspace(-cells / longer, cells / longer, cells + 1, dtype=torch.float32, device=device)
        return (edges[:-1] + edges[1:]) / 2

    return torch.stack(torch.meshgrid(centers(height), centers(width), indexing="ij"), dim=-1)


def coarser(positions: Float[Tensor, "H W 2"]) -> Float[Tensor, "H2 W2 2"]:
    """Return the positions of 2 x 2 merged tokens: their means, summed in row-major order as in the reference."""
    first, second, third, fourth = rearrange(positions, "(h a) (w b) yx -> (a b) h w yx", a=2, b=2)
    return (first + second + third + fourth) / 4


def rotary_frequencies(numbers: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return `[N, K]` frequencies in [pi, 10 pi), evenly spaced in the logarithm and interleaved over heads.

    They are not random; `numbers` is unused and there because every initializer takes it.
    """
    heads, count = shape
    step = np.arange(count)[None, :] * heads + np.arange(heads)[:, None]
    return (math.pi * 10 ** (step / (heads * count))).astype(np.float32)


FREQUENCIES: dict[Positions, Initial] = {"rotary": rotary_frequencies, "additive": constant(0.0)}
"""The initial rotary frequencies for each value of `model.positions`; zero frequencies do not rotate."""


class FixedTensor(nn.Module):
    """A module whose buffers stay in at least float32 when the network is cast to 16 bits.

    In bfloat16 frequencies near 10 pi would be off by up to 0.06 radians.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def keep_wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == at_least_float32(moved.dtype) else tensor.to(moved.device)

        return super()._apply(keep_wide, recurse)


class AxialRotary(FixedTensor):
    """The axial rotary embedding of one level's queries and keys. Its frequencies are stored in checkpoints.

    Args:
        heads, head_dim: of the level.
        exact_angles: whether angles are computed in the dtype of the frequencies instead of float32. This matters only
            in float64, where the reference does so for global attention and not for local attention.
        frequencies: initializer; zero frequencies, for additive positions, do not rotate.
    """

    frequencies: Tensor

    def __init__(
        self, heads: int, head_dim: int, exact_angles: bool, frequencies: Initial = rotary_frequencies
    ) -> None:
        super().__init__()
        self.register_buffer("frequencies", nan_init(heads, head_dim // 8))
        self.initial = {"frequencies": frequencies}
        self.exact_angles = exact_angles

    def forward(self, positions: Float[Tensor, "H W 2"]) -> Rotation:
        """Return cosines and sines of the angles: y times each frequency, then x times each frequency.

        A head has D/4 angles. Each rotates two features of the first half of D.
        """
        exact = at_least_float32(self.frequencies.dtype)  # a checkpoint may store them in 16 bits
        dtype = exact if self.exact_angles else positions.dtype
        position = rearrange(positions.to(dtype), "h w yx -> h w 1 yx 1")
        angles = position * rearrange(self.frequencies.to(dtype), "n k -> n 1 k")
        angles = rearrange(angles, "h w n yx k -> h w n (yx k)").to(exact)
        cos, ones = angles.cos(), torch.ones_like(angles)
        return torch.cat([cos, cos, ones, ones], dim=-1), angles.sin()


def sine_positions(height: int, width: int, features: int, device: torch.device) -> Float[Tensor, "H W C"]:
    """Return additive sine-cosine position embeddings of row and column (rows A to C of the paper's ablation).

    The frequencies are those of DiT and MAE, 10000^(-k / (C/4)) radians per cell, k < C/4. DiT and MAE put columns
    first; with a learned patch embedding the order makes no difference.
    """
    quarter = features // 4
    frequencies = 10_000 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

    def embedding(cells: int) -> Tensor:
        angles = torch.arange(cells, dtype=torch.float64)[:, None] * frequencies
        return copy_to(device, torch.cat([angles.sin(), angles.cos()], dim=-1), torch.float32)

    rows, columns = embedding(height), embedding(width)
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)


class RotationCache:
    """Caches the rotations of a network until the image size or the frequencies change."""

    def __init__(self) -> None:
        self._size = (0, 0)
        self._frequencies: list[tuple[Tensor, int]] = []
        self._rotations: list[Rotation | None] = []

    def get(
        self, size: tuple[int, int], frequencies: list[Tensor], make: Callable[[], list[Rotation | None]]
    ) -> list[Rotation | None]:
        """Return the rotations of each level.

        Args:
            size: height and width of the images.
            frequencies: of each level. Rotations are recomputed if one was replaced, as by a move to another device,
                or written to, as by loading a checkpoint.
            make: computes the rotations.
        """
        if any(tensor.is_inference() for tensor in frequencies):  # inference tensors have no version counter
            return make()
        if size != self._size or not self._unchanged(frequencies):
            with torch.inference_mode(False):  # a later training step may use them
                self._rotations = make()
            self._size, self._frequencies = size, [(tensor, tensor._version) for tensor in frequencies]
        return self._rotations

    def _unchanged(self, frequencies: list[Tensor]) -> bool:
        return len(frequencies) == len(self._frequencies) and all(
            tensor is before and tensor._version == version
            for tensor, (before, version) in zip(frequencies, self._frequencies, strict=True)
        )

    def __deepcopy__(self, memo: object) -> "RotationCache":
        return RotationCache()
