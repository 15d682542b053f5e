"""Where a token is, and the axial rotary embedding of it (HDiT paper, section 3.3; hdit-facts 4.5 and 4.6)."""

import math
from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from hdit_core.devices import at_least_float32
from hdit_core.model.linear import Initial, Shape, constant, nan_init
from hdit_core.recipe.model import Positions

Rotation = tuple[Tensor, Tensor]  # cosines [H, W, N, D], with 1 for what is not turned, and sines [H, W, N, D / 4]


def grid_positions(height: int, width: int, device: torch.device) -> Float[Tensor, "H W 2"]:
    """Return the centre (y, x) of each cell: the longer side spans [-1, 1], the shorter one as much as is its share.

    In float32 whatever the network computes in, and as the middle of rounded edges: what the reference's weights know.
    """
    longer = max(height, width)

    def centres(cells: int) -> Tensor:
        edges = torch.linspace(-cells / longer, cells / longer, cells + 1, dtype=torch.float32, device=device)
        return (edges[:-1] + edges[1:]) / 2

    return torch.stack(torch.meshgrid(centres(height), centres(width), indexing="ij"), dim=-1)


def coarser(positions: Float[Tensor, "H W 2"]) -> Float[Tensor, "H2 W2 2"]:
    """Return the positions of the merged tokens: the mean of their 2 x 2, added up row by row as the reference does."""
    first, second, third, fourth = rearrange(positions, "(h a) (w b) yx -> (a b) h w yx", a=2, b=2)
    return (first + second + third + fourth) / 4


def rotary_frequencies(numbers: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return N x K frequencies from pi up to, not including, 10 pi, evenly spaced in the logarithm, heads interleaved.

    They are not random: the stream is there because every tensor gets one.
    """
    heads, count = shape
    step = np.arange(count)[None, :] * heads + np.arange(heads)[:, None]
    return (math.pi * 10 ** (step / (heads * count))).astype(np.float32)


FREQUENCIES: dict[Positions, Initial] = {"rotary": rotary_frequencies, "additive": constant(0.0)}
"""The rotary frequencies of a network whose recipe asks for these `model.positions`."""


class FixedTensor(nn.Module):
    """A module with buffers that are never rounded to 16 bits, however the network is cast.

    A frequency of 10 pi in bfloat16 is wrong by 0.06 radians.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def keep_wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == at_least_float32(moved.dtype) else tensor.to(moved.device)

        return super()._apply(keep_wide, recurse)


class AxialRotary(FixedTensor):
    """The rotation of one level's queries and keys; its frequencies are part of a checkpoint.

    Args:
        frequencies: at first; all zero where positions are told in another way, and then nothing turns.
        exact_angles: form position times frequency in the dtype of the frequencies, not in float32. It matters in
            float64 only, where the reference does so for global attention and not for local.
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
        """Return cosines and sines of y times each frequency, then of x times each.

        There are D/4 of these angles for a head. Each turns two features, of the first half of D.
        """
        exact = at_least_float32(self.frequencies.dtype)  # a checkpoint may hold them in 16 bits
        dtype = exact if self.exact_angles else positions.dtype
        place = rearrange(positions.to(dtype), "h w yx -> h w 1 yx 1")
        angles = place * rearrange(self.frequencies.to(dtype), "n k -> n 1 k")
        angles = rearrange(angles, "h w n yx k -> h w n (yx k)").to(exact)
        cos, still = angles.cos(), torch.ones_like(angles)
        return torch.cat([cos, cos, still, still], dim=-1), angles.sin()


def sine_positions(height: int, width: int, features: int, device: torch.device) -> Float[Tensor, "H W C"]:
    """Return sines and cosines of each cell's row, then of its column, to be added to tokens (the paper's rows A to C).

    The waves are those of DiT and MAE, 10000^(-k / (C/4)) radians a cell, k < C/4. These have columns first, which a
    network that learns its patches cannot tell.
    """
    quarter = features // 4
    waves = 10_000 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

    def along(cells: int) -> Tensor:
        angles = torch.arange(cells, dtype=torch.float64)[:, None] * waves
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(device, torch.float32)

    rows, columns = along(height), along(width)
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)


class RotationCache:
    """The rotations that a network used last, kept for as long as the size and the frequencies stay what they were."""

    def __init__(self) -> None:
        self._size = (0, 0)
        self._frequencies: list[tuple[Tensor, int]] = []
        self._rotations: list[Rotation | None] = []

    def get(
        self, size: tuple[int, int], frequencies: list[Tensor], make: Callable[[], list[Rotation | None]]
    ) -> list[Rotation | None]:
        """Return the rotations of each level.

        Args:
            size: of the images.
            frequencies: what they depend on besides; where one was replaced (by another device's) or written to (by a
                checkpoint's), rotations are made anew.
            make: makes them.
        """
        if any(tensor.is_inference() for tensor in frequencies):  # nobody counts what is written to these
            return make()
        if size != self._size or not self._unchanged(frequencies):
            with torch.inference_mode(False):  # a later training step may need them
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
