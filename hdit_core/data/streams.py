"""The streams of `hdit_core.randomness` for a whole batch: the same numbers, several times faster."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.randomness import stream


def streams(seed: int, purpose: str, indices: Iterable[int]) -> Iterator[np.random.Generator]:
    """Yield `randomness.stream(seed, purpose, index)` for each index, each to be used before the next is taken.

    One generator is set back to each place in turn: 2 microseconds an image, where making one takes 17.
    """
    generator = stream(seed, purpose, 0)
    state: dict[str, Any] = generator.bit_generator.state  # type: ignore[assignment]
    for index in indices:
        state["state"]["counter"][3] = index
        generator.bit_generator.state = state
        yield generator


def uniform(seed: int, purpose: str, numbers: Sequence[int]) -> Float64[np.ndarray, " B"]:
    """Return one number in [0, 1) for each image."""
    return np.array([generator.random() for generator in streams(seed, purpose, numbers)], np.float64)


def normal(seed: int, purpose: str, numbers: Sequence[int], shape: Sequence[int]) -> Float[Tensor, "B ..."]:
    """Return standard normal numbers of a shape for each image: `randomness.normal`, faster."""
    values = np.empty((len(numbers), *shape), np.float32)
    for place, generator in enumerate(streams(seed, purpose, numbers)):
        generator.standard_normal(dtype=np.float32, out=values[place])
    return torch.from_numpy(values)
