"""Conversion of weights between the inference formats of k-diffusion and hdit: the same values, other names."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from hdit_core.checkpoint.denoiser import Weights, build_denoiser, read_weights
from hdit_core.checkpoint.kdiffusion.recipe import config_to_kdiffusion, recipe_from_kdiffusion
from hdit_core.checkpoint.kdiffusion.state_dict import state_from_kdiffusion, state_to_kdiffusion
from hdit_core.checkpoint.safetensors_file import Tensors, read_metadata, write_tensors
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.files import atomic_file, write_atomic
from hdit_core.recipe.run import Recipe

THEIR_CONFIG = "kdiffusion_config"  # in the metadata of hdit's file, to keep what a recipe has no key for


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
        CheckpointError: the source is missing, corrupt, or not such a file.
    """
    if target.exists():
        raise UsageError(f"{target}: exists, and is not replaced; give another name, or remove it")
    config: str | None
    if source.suffix in (".pth", ".pt", ".ckpt", ".pkl"):
        recipe, state, config = _read_pickle(source, weights, trust_pickle)
    else:
        recipe, state = read_weights(source, weights)
        config = _their_config(source)
    build_denoiser(recipe, state, str(source))  # the tensors are those of the recipe's network
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    if to == "k-diffusion":
        config = config or json.dumps(config_to_kdiffusion(recipe), indent=1)
        write_atomic(target, save(state_to_kdiffusion(state, recipe), {"config": config}))
    else:
        kept = {THEIR_CONFIG: config} if config else {}
        with atomic_file(target) as temporary:
            write_tensors(temporary, state, recipe.model_dump_json(), **kept)
    return {"file": str(target), "format": to, "tensors": len(state), "parameters": _count(state)}


def _their_config(path: Path) -> str | None:
    """Return the unchanged k-diffusion config of a file of k-diffusion, or of one converted from it."""
    metadata = read_metadata(path) if path.is_file() else {}
    return metadata.get(THEIR_CONFIG if "hdit" in metadata else "config")


def _read_pickle(path: Path, weights: Weights, trusted: bool) -> tuple[Recipe, Tensors, str]:
    if not trusted:
        raise UsageError(
            f"{path}: is a pickle, a format that can be made to run commands when it is read; if you know who wrote "
            "it, say --i-trust-this-pickle"
        )
    try:
        # the restricted unpickler even so: tensors, numbers and text are all that such a checkpoint needs
        content = torch.load(path, map_location="cpu", weights_only=True)
        recipe = recipe_from_kdiffusion(content["config"])
        part = "model_ema" if weights == "ema" else "model"
        if part not in content:
            raise CheckpointError(
                f"{path}: has no {part}, which --weights {weights} needs; it has {', '.join(content)}"
            )
        return recipe, state_from_kdiffusion(content[part], recipe), json.dumps(content["config"], indent=1)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except CheckpointError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a training checkpoint of k-diffusion ({reason})") from None


def _count(state: Tensors) -> int:
    return sum(tensor.numel() for tensor in state.values())
