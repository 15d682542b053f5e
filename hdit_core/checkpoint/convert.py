"""Lossless conversion of weights between the inference formats of k-diffusion and hdit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from hdit_core.checkpoint.denoiser import (
    Weights,
    build_denoiser,
    check_weights,
    read_weights,
    source_metadata,
    source_record,
)
from hdit_core.checkpoint.kdiffusion.config_to_recipe import config_to_kdiffusion, recipe_from_kdiffusion
from hdit_core.checkpoint.kdiffusion.pmrf import is_pmrf, recipe_of_pmrf, state_of_pmrf
from hdit_core.checkpoint.kdiffusion.state_dict import state_from_kdiffusion, state_to_kdiffusion
from hdit_core.checkpoint.safetensors_file import Tensors, read_metadata, read_tensors, write_tensors
from hdit_core.diffusion.precondition import ModelSource
from hdit_core.errors import CheckpointError, UsageError, first_line
from hdit_core.files import atomic_file, read_json, write_atomic
from hdit_core.recipe.run import Recipe

KDIFFUSION_CONFIG = "kdiffusion_config"  # metadata key for settings without a recipe key
PMRF_ARGUMENTS = "hyper_parameters"  # key of Lightning's checkpoints
LARGEST_CONFIG_BYTES = 1 << 20
PICKLE_SUFFIXES = (".pth", ".pt", ".ckpt", ".pkl")


def convert_weights(
    source: Path, target: Path, *, to: str, weights: Weights | None = None, trust_pickle: bool = False
) -> dict[str, Any]:
    """Write the weights of a run, checkpoint or file to one safetensors file, and return a summary of it.

    Args:
        source: anything that `load_denoiser` accepts, or with `trust_pickle` a `.pth` training checkpoint of
            k-diffusion, or a `.ckpt` or a hub folder of PMRF.
        target: the file to write; it must not exist.
        to: `"hdit"` or `"k-diffusion"`.
        weights: for a run or a checkpoint, as in `load_denoiser`; for a `.pth` file `"ema"` or `"model"`. None: "ema",
            or those of a file or folder that has one kind only.
        trust_pickle: allow `.pth` files, which are read with torch's restricted unpickler.

    Returns:
        Path, format, origin of the weights, number of tensors and number of parameters, as for `--json`.

    Raises:
        UsageError: the target exists, the source has no such weights, or it is a pickle and `trust_pickle` is false.
        CheckpointError: the source is missing, corrupt, or not such a file.
    """
    if target.exists():
        raise UsageError(f"{target}: already exists and is never replaced; choose another name, or remove it")
    recipe, state, config, found = _read_source(source, weights, trust_pickle)
    denoiser = build_denoiser(recipe, state, str(source))  # checks the tensors' names and shapes
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    if to == "k-diffusion":
        config = config or json.dumps(config_to_kdiffusion(recipe), indent=1)
        write_atomic(target, save(state_to_kdiffusion(state, recipe), {"config": config, **source_metadata(found)}))
    else:
        original = {KDIFFUSION_CONFIG: config} if config else {}
        with atomic_file(target) as temporary:
            write_tensors(temporary, state, recipe.model_dump_json(), **source_metadata(found), **original)
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    return {"file": str(target), "format": to, **source_record(found), "tensors": len(state), "parameters": parameters}


def _read_source(
    source: Path, weights: Weights | None, trust_pickle: bool
) -> tuple[Recipe, Tensors, str | None, ModelSource]:
    """Return recipe, weights, the original k-diffusion config if there is one, and the origin of the weights."""
    if source.suffix in PICKLE_SUFFIXES:
        taken = weights or "ema"
        return *_read_pickle(source, taken, trust_pickle), ModelSource(weights=taken)
    if _is_pmrf_folder(source):
        return *_read_pmrf_folder(source), None, ModelSource()
    recipe, state, found = read_weights(source, weights or "ema")
    check_weights(source, weights, found)
    return recipe, state, _original_config(source), found


def _original_config(path: Path) -> str | None:
    """Return the original k-diffusion config from a k-diffusion file, or from a file that was converted from one."""
    metadata = read_metadata(path) if path.is_file() else {}
    return metadata.get(KDIFFUSION_CONFIG if "hdit" in metadata else "config")


def _read_pickle(path: Path, weights: Weights, trusted: bool) -> tuple[Recipe, Tensors, str | None]:
    if not trusted:
        raise UsageError(
            f"{path}: a pickle, which can execute arbitrary code when it is read; if you trust its author, add "
            "--i-trust-this-pickle"
        )
    if weights not in ("ema", "model"):
        raise UsageError(f"{path}: --weights {weights}: a pickle has ema and model weights; give one of these")
    try:
        # the restricted unpickler all the same: such a checkpoint needs only tensors, numbers and text
        content = torch.load(path, map_location="cpu", weights_only=True)
        if is_pmrf(content.get(PMRF_ARGUMENTS)):
            return *_from_pmrf(content, weights, path), None
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
        raise CheckpointError(
            f"{path}: not a training checkpoint of k-diffusion or PMRF ({first_line(error)})"
        ) from None


def _from_pmrf(content: Mapping[str, Any], weights: Weights, path: Path) -> tuple[Recipe, Tensors]:
    """Return the flow in a Lightning checkpoint of PMRF."""
    recipe = recipe_of_pmrf(content[PMRF_ARGUMENTS], str(path))
    if weights == "ema" and "ema" not in content:
        raise CheckpointError(f"{path}: has no averaged weights; take the others with --weights model")
    averages = content["ema"] if weights == "ema" else None
    return recipe, state_of_pmrf(content["state_dict"], averages, recipe, str(path))


def _is_pmrf_folder(folder: Path) -> bool:
    """Return whether this is a folder of PMRF as on the Hugging Face hub."""
    try:
        arguments = read_json(folder / "config.json", LARGEST_CONFIG_BYTES)
    except (OSError, ValueError):
        return False
    return is_pmrf(arguments) and (folder / "model.safetensors").is_file()


def _read_pmrf_folder(folder: Path) -> tuple[Recipe, Tensors]:
    recipe = recipe_of_pmrf(read_json(folder / "config.json", LARGEST_CONFIG_BYTES), str(folder))
    tensors, _ = read_tensors(folder / "model.safetensors")
    return recipe, state_of_pmrf(tensors, None, recipe, str(folder))
