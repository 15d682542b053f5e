"""Weights between k-diffusion's inference format and ours: the same numbers, other names."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from hdit_core.checkpoint.denoiser import Weights, build_denoiser, read_weights
from hdit_core.checkpoint.kdiffusion import (
    config_to_kdiffusion,
    recipe_from_kdiffusion,
    state_from_kdiffusion,
    state_to_kdiffusion,
)
from hdit_core.checkpoint.tensors import Tensors, write_tensors
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.files import TEMPORARY, write_whole
from hdit_core.recipe.run import Recipe


def convert_weights(
    source: Path, target: Path, *, to: str, weights: Weights = "ema", trust_pickle: bool = False
) -> dict[str, Any]:
    """Write the weights of a run, checkpoint or file as one safetensors file, and return what it holds.

    Args:
        source: whatever `load_denoiser` takes; a `.pth` training checkpoint of k-diffusion with `trust_pickle` only.
        target: the file to write; it must not exist.
        to: `"hdit"` or `"k-diffusion"`.
        weights: of a run or a checkpoint, which of its two sets.
        trust_pickle: read a `.pth` file, by torch's restricted unpickler.

    Raises:
        UsageError: the target exists, or the source is a pickle and nobody vouched for it.
        CheckpointError: the source is missing, damaged, or not such a file.
    """
    if target.exists():
        raise UsageError(f"{target}: exists, and is not replaced; give another name, or remove it")
    if source.suffix in (".pth", ".pt", ".ckpt", ".pkl"):
        recipe, state = _read_pickle(source, weights, trust_pickle)
    else:
        recipe, state = read_weights(source, weights)
    build_denoiser(recipe, state, str(source))  # the tensors are those of the recipe's network
    if to == "k-diffusion":
        config = json.dumps(config_to_kdiffusion(recipe), indent=1)
        write_whole(target, save(state_to_kdiffusion(state, recipe), {"config": config}))
    else:
        temporary = target.with_name(f"{TEMPORARY}{target.name}")
        write_tensors(temporary, state, recipe.model_dump_json())
        temporary.rename(target)
    return {"file": str(target), "format": to, "tensors": len(state), "parameters": _count(state)}


def _read_pickle(path: Path, weights: Weights, trusted: bool) -> tuple[Recipe, Tensors]:
    if not trusted:
        raise UsageError(
            f"{path}: is a pickle, a format that can be made to run commands when it is read; if you know who wrote "
            "it, say --i-trust-this-pickle"
        )
    try:
        # the restricted unpickler even so: tensors, numbers and text are all that such a checkpoint needs
        content = torch.load(path, map_location="cpu", weights_only=True)
        recipe = recipe_from_kdiffusion(content["config"])
        return recipe, state_from_kdiffusion(content["model_ema" if weights == "ema" else "model"], recipe)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except CheckpointError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a training checkpoint of k-diffusion ({reason})") from None


def _count(state: Tensors) -> int:
    return sum(tensor.numel() for tensor in state.values())
