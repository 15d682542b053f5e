"""Classifier-free guidance on the denoised images: D_u + w (D_c - D_u) (Ho and Salimans, eq. 6; HDiT, section 5.2)."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.walk import Denoise
from hdit_core.errors import UsageError


def _twice(cond: Tensor | None) -> Tensor | None:
    return None if cond is None else torch.cat([cond, cond])


def guided(
    denoiser: Denoiser,
    class_ids: Int64[Tensor, "B"] | None = None,
    weight: float = 1.0,
    augment_cond: Float[Tensor, "B 9"] | None = None,
    mapping_cond: Float[Tensor, "B E"] | None = None,
    batched: bool = True,
) -> Denoise:
    """Return `denoise(x, sigma)`, what a sampler asks for, with the conditioning bound to it.

    Weight 1 is the plain conditional model and weight 0 the unconditional one, each at the cost of one pass; any other
    weight costs two.

    Args:
        denoiser: the model.
        class_ids: class of each image; None for models without classes.
        weight: of guidance, w.
        augment_cond, mapping_cond: the same in both passes; None as in the denoiser.
        batched: run the two passes as one batch, whose first half is unconditional; else one after the other, in half
            of the memory. On a CPU both ways give the same bits.

    Raises:
        UsageError: guidance without classes.
    """
    if weight != 1 and class_ids is None:
        raise UsageError(
            f"sample.guidance = {weight} needs classes, and this model is given none; use sample.guidance = 1"
        )
    if weight == 1 or class_ids is None:
        return lambda x, sigma: denoiser(x, sigma, class_ids, augment_cond, mapping_cond)

    no_class = torch.full_like(class_ids, denoiser.recipe.model.num_classes)
    if weight == 0:
        return lambda x, sigma: denoiser(x, sigma, no_class, augment_cond, mapping_cond)

    def apart(x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
        without = denoiser(x, sigma, no_class, augment_cond, mapping_cond)
        return without + weight * (denoiser(x, sigma, class_ids, augment_cond, mapping_cond) - without)

    if not batched:
        return apart

    both_classes = torch.cat([no_class, class_ids])
    both_augment, both_mapping = _twice(augment_cond), _twice(mapping_cond)

    def at_once(x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
        both = denoiser(torch.cat([x, x]), torch.cat([sigma, sigma]), both_classes, both_augment, both_mapping)
        without, with_class = both.chunk(2)
        return without + weight * (with_class - without)

    return at_once
