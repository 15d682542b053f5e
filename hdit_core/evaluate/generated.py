"""A checkpoint as a set of images to score: drawn as they are asked for, and kept nowhere."""

import hashlib
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8

from hdit_core.diffusion.precondition import Denoiser
from hdit_core.evaluate.pictures import ImageSet, Read
from hdit_core.generate.generate import generate
from hdit_core.images import to_uint8


def generated_images(denoiser: Denoiser, path: str, n: int, seed: int) -> ImageSet:
    """Return images 0 to n - 1 of a seed, rounded to bytes as if they had been saved, classes in turn.

    Args:
        denoiser: what draws them, by its recipe's sampling settings.
        path: where it was loaded from, for the passport.
        n: how many.
        seed: of the starts and the sampler's noise.
    """
    source = {
        "kind": "checkpoint",
        "path": path,
        "weights_sha256": _weights_sha256(denoiser),
        "seed": seed,
        "labels": "balanced" if denoiser.recipe.model.num_classes else "none",
        "sampling": denoiser.recipe.sample.model_dump(mode="json"),
    }
    return ImageSet(source, n, _draw(denoiser, n, seed))


def _draw(denoiser: Denoiser, n: int, seed: int) -> Iterator[Read]:
    for batch in generate(denoiser, range(n), seed=seed):
        yield from (partial(_given, image_u8) for image_u8 in to_uint8(batch.images))


def _given(image_u8: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
    return image_u8


def _weights_sha256(denoiser: Denoiser) -> str:
    """Return the sha256 of names, dtypes and values of all tensors, wherever they were loaded from."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(denoiser.network.state_dict().items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        sha256.update(rearrange(tensor.cpu(), "... -> (...)").contiguous().view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()
