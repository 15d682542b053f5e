"""Random numbers that are a pure function of (seed, purpose, index): one stream per image, never one per process.

So nothing depends on the number of ranks, workers, micro-batches or restarts. numpy's Philox is a counter: the seed and
the purpose are its key, the index its highest word, and streams never meet. (torch's CPU generator keeps 32 bits of a
seed, so that two of 50,000 images could share their noise.) Numbers are drawn on the CPU, the same for every device.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def stream(seed: int, purpose: str, index: int, part: int = 0) -> np.random.Generator:
    """Return the random numbers of one image (or one parameter, one step) for one purpose.

    Args:
        seed: the run's, 0 <= seed < 2^64.
        purpose: what the numbers are for, a fixed word such as `"noise"`; different words, independent numbers.
        index: which image, 0 <= index < 2^64.
        part: a further division of the stream, such as the node of a Brownian tree.
    """
    word = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    return np.random.Generator(np.random.Philox(key=np.array([seed, word], np.uint64), counter=[0, 0, part, index]))


def normal(
    seed: int, purpose: str, indices: Sequence[int], shape: Sequence[int], part: int = 0
) -> Float[Tensor, "B ..."]:
    """Return standard normal numbers of the given shape for each index, float32 on the CPU."""
    rows = [stream(seed, purpose, int(index), part).standard_normal(tuple(shape), np.float32) for index in indices]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty((0, *shape))
