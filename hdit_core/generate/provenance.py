"""What determines the pixels of a set of samples, so that two different sets are never mixed."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange

from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.recipe.sample import SampleRecipe


def weights_sha256(denoiser: Denoiser) -> str:
    """Return the sha256 of the names, dtypes and values of all tensors, independent of the file they came from."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(denoiser.state_dict().items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        sha256.update(rearrange(tensor.cpu(), "... -> (...)").contiguous().view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def guide_provenance(guide: Guide) -> dict[str, Any]:
    """Return what determines the effect of a guide, as plain values."""
    return {"weights_sha256": weights_sha256(guide.denoiser), "weight": guide.weight}


def provenance(pipeline: SamplingPipeline, class_id: int | None = None) -> dict[str, Any]:
    """Return what determines the pixels of image i for any i, as plain values; batch size and device do not.

    Args:
        pipeline: generates the images.
        class_id: of all images; None where classes are cycled or there are none.
    """
    guide = {"guide": guide_provenance(pipeline.guide)} if pipeline.guide else {}
    return {
        "weights_sha256": weights_sha256(pipeline.denoiser),
        "seed": pipeline.seed,
        "image_size": list(pipeline.image_size),
        "class": class_id,
        "settings": pipeline.settings.model_dump(mode="json", exclude={"batch_size"}),
        **guide,
    }


def with_new_settings(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded provenance, completed by the defaults of settings that an earlier hdit did not have."""
    known = dict(recorded.get("settings", {}))
    defaults = SampleRecipe().model_dump(mode="json", include=set(current.get("settings", {})) - set(known))
    return {**recorded, "settings": defaults | known}
