"""What a set of samples is made from: everything that decides its pixels, so that two sets never mix."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange

from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.recipe.sample import SampleRecipe


def weights_sha256(denoiser: Denoiser) -> str:
    """Return the sha256 of names, dtypes and values of all tensors, wherever they were loaded from."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(denoiser.state_dict().items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        sha256.update(rearrange(tensor.cpu(), "... -> (...)").contiguous().view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def guide_provenance(guide: Guide) -> dict[str, Any]:
    """Return what decides where images are led, as plain values."""
    return {"weights_sha256": weights_sha256(guide.denoiser), "weight": guide.weight}


def provenance(
    denoiser: Denoiser,
    settings: SampleRecipe,
    seed: int,
    image_size: tuple[int, int],
    class_id: int | None,
    guide: Guide | None = None,
) -> dict[str, Any]:
    """Return what decides the pixels of image i, whatever i, as plain values; batches and devices are not part of it.

    Args:
        denoiser: the model.
        settings: of the sampler.
        seed: of the images.
        image_size: rows and columns in pixels.
        class_id: of all images, None where each class has its turn or there are none.
        guide: a worse model that they are led away from.
    """
    drawn = settings.model_dump(mode="json", exclude={"batch_size"})
    led = {"guide": guide_provenance(guide)} if guide else {}
    return {
        "weights_sha256": weights_sha256(denoiser),
        "seed": seed,
        "image_size": list(image_size),
        "class": class_id,
        "settings": drawn,
        **led,
    }


def with_new_settings(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record, with those settings that an earlier hdit did not know as they are by default: without effect."""
    known = dict(there.get("settings", {}))
    defaults = SampleRecipe().model_dump(mode="json", include=set(here.get("settings", {})) - set(known))
    return {**there, "settings": defaults | known}
