"""Lossless conversion of state dicts between k-diffusion's `image_transformer_v2` and hdit.

All tensors map one to one except the rotary frequencies: k-diffusion stores them once per layer, hdit once per level.
`recipe.py` converts the config.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from hdit_core.errors import CheckpointError
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.run import Recipe

PREFIXES = {  # hdit: k-diffusion; the first match is used
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
PARTS = {  # hdit: k-diffusion; replaced anywhere after the prefix
    ".attention.": ".self_attn.",
    ".feed_forward.": ".ff.",
    ".norm.modulation.": ".norm.linear.",
    ".qkv.": ".qkv_proj.",
    ".out.": ".out_proj.",
    ".up.": ".up_proj.",
    ".down.": ".down_proj.",
}


def kdiffusion_names(name: str, recipe: Recipe) -> list[str]:
    """Return the name or names under which k-diffusion stores a tensor of hdit."""
    if name.startswith("rotary."):
        return list(_rotary_names(int(name.split(".")[1]), recipe))
    if name.startswith("splits.") and name.endswith(".mix"):
        return [name.removesuffix("mix") + "fac"]
    prefix, new_prefix = next(((old, new) for old, new in PREFIXES.items() if name.startswith(old)), ("", ""))
    rest = "." + name.removeprefix(prefix)
    for part, replacement in PARTS.items():
        rest = rest.replace(part, replacement)
    return [new_prefix + rest[1:]]


def _rotary_names(index: int, recipe: Recipe) -> Iterator[str]:
    depth, innermost = recipe.model.levels[index].depth, index == len(recipe.model.levels) - 1
    for level in ["mid_level"] if innermost else [f"down_levels.{index}", f"up_levels.{index}"]:
        for layer in range(depth):
            yield f"{level}.{layer}.self_attn.pos_emb.freqs"


def _hdit_shapes(recipe: Recipe) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = HourglassTransformer(recipe.model)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)


def state_from_kdiffusion(state: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """Return a k-diffusion state dict with hdit's names; tensors are not copied.

    Args:
        state: of k-diffusion's network.
        recipe: from its config, by `recipe_from_kdiffusion`.

    Raises:
        CheckpointError: a tensor is missing, unknown or has a wrong shape, or layers of one level have different rotary
            frequencies, which k-diffusion never writes and hdit cannot represent.
    """
    converted: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, shape in _hdit_shapes(recipe).items():
        names = kdiffusion_names(name, recipe)
        for source_name in names:
            if source_name not in state:
                raise CheckpointError(f"k-diffusion state: lacks the tensor {source_name}, which its config requires")
            if (tensor := state[source_name]).shape != shape:
                raise CheckpointError(
                    f"k-diffusion state: {source_name} has shape {list(tensor.shape)}, "
                    f"its config requires {list(shape)}"
                )
            if tensor is not state[names[0]] and not _equal(tensor, state[names[0]]):
                raise CheckpointError(
                    f"k-diffusion state: {source_name} differs from {names[0]}; expected the same frequencies in all "
                    "layers of a level"
                )
        converted[name] = state[names[0]]
        used.update(names)
    if surplus := sorted(set(state) - used):
        raise CheckpointError(f"k-diffusion state: has the tensor {surplus[0]}, which its config does not have")
    return converted


def state_to_kdiffusion(state: Mapping[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """Return a state dict of hdit with k-diffusion's names.

    Tensors are not copied, except rotary frequencies, which are stored several times: safetensors refuses tensors that
    share memory.

    Raises:
        CheckpointError: the tensors are not those of the recipe's network.
    """
    expected = _hdit_shapes(recipe)
    if odd := sorted(set(expected) ^ set(state)):
        raise CheckpointError(
            f"state: {'lacks' if odd[0] in expected else 'has'} the tensor {odd[0]}, "
            f"which its recipe {'requires' if odd[0] in expected else 'does not have'}"
        )
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        first, *others = kdiffusion_names(name, recipe)
        converted |= {first: tensor} | {other: tensor.clone() for other in others}
    return converted
