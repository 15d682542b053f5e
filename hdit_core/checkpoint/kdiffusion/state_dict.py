"""k-diffusion's inference checkpoints of HDiT (`image_transformer_v2`), from and to ours, losslessly.

This file has the key map. The one tensor that does not map one to one is the rotary frequencies: the reference stores
those of a level once for each of its layers, we store them once. Its config is dealt with in `kdiffusion_recipe.py`.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from hdit_core.checkpoint.kdiffusion.recipe import config_to_kdiffusion, recipe_from_kdiffusion
from hdit_core.errors import CheckpointError
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.run import Recipe

__all__ = [
    "config_to_kdiffusion",
    "recipe_from_kdiffusion",
    "state_from_kdiffusion",
    "state_to_kdiffusion",
    "their_names",
]

PREFIXES = {  # ours: theirs; the first that fits
    "conditioning.time_features.frequencies": "time_emb.weight",
    "conditioning.augment_features.frequencies": "aug_emb.weight",
    "conditioning.time_in.": "time_in_proj.",
    "conditioning.augment_in.": "aug_in_proj.",
    "conditioning.vector_in.": "mapping_cond_in_proj.",
    "conditioning.classes.": "class_emb.",
    "conditioning.mapping.": "mapping.",
    "down.": "down_levels.",
    "middle.": "mid_level.",
    "up.": "up_levels.",
}
PARTS = {  # ours: theirs; wherever they stand after the prefix
    ".attention.": ".self_attn.",
    ".feed_forward.": ".ff.",
    ".norm.modulation.": ".norm.linear.",
    ".qkv.": ".qkv_proj.",
    ".out.": ".out_proj.",
    ".up.": ".up_proj.",
    ".down.": ".down_proj.",
}


def their_names(name: str, recipe: Recipe) -> list[str]:
    """Return the name, or names, under which k-diffusion stores one of our tensors."""
    if name.startswith("rotary."):
        return list(_rotary_names(int(name.split(".")[1]), recipe))
    if name.startswith("splits.") and name.endswith(".mix"):
        return [name.removesuffix("mix") + "fac"]
    ours, theirs = next(((o, t) for o, t in PREFIXES.items() if name.startswith(o)), ("", ""))
    rest = "." + name.removeprefix(ours)
    for part, replacement in PARTS.items():
        rest = rest.replace(part, replacement)
    return [theirs + rest[1:]]


def _rotary_names(index: int, recipe: Recipe) -> Iterator[str]:
    depth, innermost = recipe.model.levels[index].depth, index == len(recipe.model.levels) - 1
    for way in ["mid_level"] if innermost else [f"down_levels.{index}", f"up_levels.{index}"]:
        for layer in range(depth):
            yield f"{way}.{layer}.self_attn.pos_emb.freqs"


def _our_names(recipe: Recipe) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = HourglassTransformer(recipe.model)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def state_from_kdiffusion(state: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """Return a k-diffusion state dict under our names; tensors are handed on as they are.

    Args:
        state: of the reference's network.
        recipe: what `recipe_from_kdiffusion` made of the config that came with it.

    Raises:
        CheckpointError: a tensor is missing, left over, of another shape than the recipe asks for, or the layers of one
            level have different rotary frequencies, which the reference never writes and we could not keep.
    """
    ours: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, shape in _our_names(recipe).items():
        names = their_names(name, recipe)
        for theirs in names:
            if theirs not in state:
                raise CheckpointError(f"k-diffusion state: lacks the tensor {theirs}, which its config asks for")
            if (found := state[theirs]).shape != shape:
                raise CheckpointError(
                    f"k-diffusion state: {theirs} has shape {list(found.shape)}, its config asks for {list(shape)}"
                )
            if found is not state[names[0]] and not _same(found, state[names[0]]):
                raise CheckpointError(
                    f"k-diffusion state: {theirs} differs from {names[0]}; expected one set of frequencies a level"
                )
        ours[name] = state[names[0]]
        used.update(names)
    if surplus := sorted(set(state) - used):
        raise CheckpointError(f"k-diffusion state: has the tensor {surplus[0]}, which its config does not know")
    return ours


def state_to_kdiffusion(state: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """Return our state dict under k-diffusion's names; tensors are handed on as they are.

    The rotary frequencies, which fill several places, are copied: safetensors refuses shared memory.

    Raises:
        CheckpointError: the tensors are not those of the recipe's network.
    """
    expected = _our_names(recipe)
    if odd := sorted(set(expected) ^ set(state)):
        raise CheckpointError(
            f"state: {'lacks' if odd[0] in expected else 'has'} the tensor {odd[0]}, "
            f"which its recipe {'asks for' if odd[0] in expected else 'does not know'}"
        )
    theirs: dict[str, Tensor] = {}
    for name, tensor in state.items():
        first, *others = their_names(name, recipe)
        theirs |= {first: tensor} | {other: tensor.clone() for other in others}
    return theirs
