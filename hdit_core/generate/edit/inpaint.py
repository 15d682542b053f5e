"""Inpainting: regenerates the masked region of an image so that it fits the rest, which stays unchanged.

The denoised image is replaced by the input wherever that is known, so that every sampler keeps the known region at the
right noise level. Early steps know little of the final surroundings; therefore each section of the schedule is run
several times, with noise added in between to return to its start (RePaint: Lugmayr et al. 2022, algorithm 1).
"""

import hashlib
import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hdit_core.diffusion.samplers.sampler_state import Denoise
from hdit_core.generate.pipeline import GenerateBatch, SamplingPipeline

SECTIONS = 10  # of the schedule, where they are run more than once
PURPOSE = "resample"


def sections_of(steps: int, rounds: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last step of each section of the schedule; with one round there is a single section.

    Multistep samplers thereby keep their history where nothing is run twice.
    """
    sections = min(SECTIONS, steps) if rounds > 1 else 1
    edges = [section * steps // sections for section in range(sections + 1)]
    yield from pairwise(edges)


def seed_of_round(seed: int, turn: int) -> int:
    """Return the seed of a round's noise; round 0 has the seed itself."""
    if turn == 0:
        return seed
    digest = hashlib.blake2b(f"{seed} {PURPOSE} {turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def inpaint(
    pipeline: SamplingPipeline, image: Float[Tensor, "1 C H W"], mask: Bool[Tensor, "1 1 H W"], rounds: int = 4
) -> GenerateBatch:
    """Return a function that generates images which equal the input, exactly, outside the mask.

    With a mask that covers everything, and one round, image i is image i of `hdit sample`.

    Args:
        image: in [-1, 1].
        mask: True where the image is regenerated.
        rounds: how often each section of the schedule is run; the cost grows in proportion.
    """
    image = image.to(pipeline.device)

    def with_known_pixels(denoise: Denoise) -> Denoise:
        return lambda x, sigma: torch.where(mask, denoise(x, sigma), image.to(x.dtype))

    def generate_batch(indices: list[int], classes: list[int] | None) -> Float[Tensor, "B C H W"]:
        sigmas, denoise = pipeline.sigmas, with_known_pixels(pipeline.conditioned(classes))
        x = torch.where(mask, 0.0, image) + float(sigmas[0]) * pipeline.noise(indices)
        runs = 0
        for begin, end in sections_of(len(sigmas) - 1, rounds):
            for turn in range(rounds):
                if turn > 0:  # back up to the noise level at the start of the section
                    added = math.sqrt(float(sigmas[begin]) ** 2 - float(sigmas[end]) ** 2)
                    x = x + added * pipeline.noise(indices, PURPOSE, runs)
                noise = pipeline.brownian_noise(indices, seed_of_round(pipeline.seed, turn))
                x = pipeline.sample(x, sigmas[begin : end + 1], noise, denoise)
                runs += 1
        return torch.where(mask, x, image)

    return generate_batch
