"""Inpainting: what a mask marks is drawn anew to fit the rest, which stays as it is.

The denoised image is replaced by the picture wherever that is known, so that each sampler carries the known part along
at the right noise level by itself. What is drawn early knows little of what it has to fit; so each part of the way is
walked several times, with noise added in between to go back up (RePaint: Lugmayr et al. 2022, algorithm 1).
"""

import hashlib
import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hdit_core.diffusion.samplers.sampler_state import Denoise
from hdit_core.generate.pipeline import Draw, SamplingPipeline

PARTS = 10  # that the way is cut in when it is walked again
PURPOSE = "resample"


def parts_of(steps: int, rounds: int) -> Iterator[tuple[int, int]]:
    """Yield where each part of the way begins and ends, in steps; with one round the way is whole.

    So samplers that remember their last steps forget nothing where nothing is walked twice.
    """
    parts = min(PARTS, steps) if rounds > 1 else 1
    edges = [part * steps // parts for part in range(parts + 1)]
    yield from pairwise(edges)


def seed_of_round(seed: int, turn: int) -> int:
    """Return the seed of the noise of a round; of the first it is the seed itself."""
    if turn == 0:
        return seed
    digest = hashlib.blake2b(f"{seed} {PURPOSE} {turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def inpaint(
    pipeline: SamplingPipeline, picture: Float[Tensor, "1 C H W"], mask: Bool[Tensor, "1 1 H W"], rounds: int = 4
) -> Draw:
    """Return what draws pictures that are new where the mask is True and the given picture, exactly, elsewhere.

    With a mask that is True everywhere and one round image i is the one of `hdit sample`.

    Args:
        picture: in [-1, 1].
        mask: True where it is to be drawn anew.
        rounds: how often each part of the way is walked; the cost is that of as many images.
    """

    def fitted(denoise: Denoise) -> Denoise:
        return lambda x, sigma: torch.where(mask, denoise(x, sigma), picture.to(x.dtype))

    def draw(numbers: list[int], classes: list[int] | None) -> Float[Tensor, "B C H W"]:
        sigmas, denoise = pipeline.sigmas, fitted(pipeline.conditioned(classes))
        x = torch.where(mask, 0.0, picture) + float(sigmas[0]) * pipeline.noise(numbers)
        walked = 0
        for begin, end in parts_of(len(sigmas) - 1, rounds):
            for turn in range(rounds):
                if turn > 0:  # back up to where the part began
                    added = math.sqrt(float(sigmas[begin]) ** 2 - float(sigmas[end]) ** 2)
                    x = x + added * pipeline.noise(numbers, PURPOSE, walked)
                motion = pipeline.brownian_noise(numbers, seed_of_round(pipeline.seed, turn))
                x = pipeline.sample(x, sigmas[begin : end + 1], motion, denoise)
                walked += 1
        return torch.where(mask, x, picture)

    return draw
