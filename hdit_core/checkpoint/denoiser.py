"""Loading a denoiser from a run, a checkpoint, an exported model, or a file of hdit or k-diffusion."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hdit_core.checkpoint.ema.snapshots import find_post_hoc_ema, parse_ema_std, part_name
from hdit_core.checkpoint.kdiffusion.config_to_recipe import recipe_from_kdiffusion
from hdit_core.checkpoint.kdiffusion.state_dict import state_from_kdiffusion
from hdit_core.checkpoint.layout import CHECKPOINT_NAME, checkpoint_folders, checkpoint_step, local_model, recipe_file
from hdit_core.checkpoint.load import Checkpoint, newest_checkpoint, open_checkpoint
from hdit_core.checkpoint.safetensors_file import Tensors, read_tensors
from hdit_core.devices import compute_dtype, precision_of
from hdit_core.diffusion.precondition import Denoiser, ModelSource
from hdit_core.errors import CheckpointError, RecipeError, UsageError, first_line
from hdit_core.model.attention.neighborhood_backends import selected_backends
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.model import AttentionBackend
from hdit_core.recipe.read import check_recipe, read_recipe
from hdit_core.recipe.run import Recipe

logger = logging.getLogger("hdit")

Weights = str
"""`"ema"`, `"model"` (raw, not averaged), or an EMA length (sigma_rel) such as `"0.08"`."""


MAX_DIGITS, MOST_LETTERS = 19, 100  # of numbers and names in a file's metadata

EXPORTED = "weights.safetensors"
"""The file that only folders of `hdit export` contain."""


def load_denoiser(
    path: str | Path,
    weights: Weights = "ema",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    attention_backend: AttentionBackend = "auto",
) -> Denoiser:
    """Load a denoiser: `denoiser(x, sigma, class_ids, augment_cond, mapping_cond)`.

    Args:
        path: a run (its newest valid checkpoint is used), a checkpoint, a folder of `hdit export`, a safetensors file
            of hdit, or an inference checkpoint of k-diffusion; or an address of one, see `remote_models.py`.
        weights: for a run or a checkpoint, the EMA weights (`"ema"`), the raw ones (`"model"`), or those of another EMA
            length, such as `"0.08"`: one of `train.ema_profiles`, or for a run one that `hdit ema` reconstructed.
            Files and exported models contain one kind only.
        device: of the model.
        dtype: of the model's parameters and buffers; default: as saved, and the widest one if they are mixed.
        attention_backend: kernel of neighborhood attention. The recipe's is not used: it was chosen for the machine of
            the training.

    Raises:
        CheckpointError: there is nothing at the path, it is corrupt or not a checkpoint, or it has no such EMA.
        UsageError: the attention backend cannot run on the device, or `weights` is invalid.
    """
    recipe, state, source = read_weights(Path(path), weights)
    recipe = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"attention_backend": attention_backend})}
    )
    denoiser = build_denoiser(recipe, state, str(path), source).to(device=device, dtype=dtype)
    denoiser.eval().requires_grad_(False)
    if attention_backend != "auto":
        attention_notes(denoiser)  # raises errors early
    return denoiser


def attention_notes(denoiser: Denoiser) -> list[str]:
    """Return the kernels of the denoiser's neighborhood attention on its device, one line each.

    Raises:
        UsageError: the requested attention backend cannot run on the device.
    """
    return [choice.note for choice in selected_backends(denoiser.recipe.model, *_device_and_dtype(denoiser))]


def setup_notes(denoiser: Denoiser) -> list[str]:
    """Return what the denoiser uses on its device, one line each: the precision on a GPU, and `attention_notes`.

    Raises:
        UsageError: the requested attention backend cannot run on the device.
    """
    precision = precision_of(*_device_and_dtype(denoiser))
    return [*([f"precision: {precision}"] if precision else []), *attention_notes(denoiser)]


def _device_and_dtype(denoiser: Denoiser) -> tuple[torch.device, torch.dtype]:
    """Return the device of the denoiser, and the dtype of its matrix products there."""
    parameter = next(denoiser.parameters())
    dtype = compute_dtype(denoiser.recipe.train.precision, parameter.device)
    return parameter.device, parameter.dtype if dtype == torch.float32 else dtype  # there is no autocast in float32


def read_weights(path: Path, weights: Weights = "ema") -> tuple[Recipe, Tensors, ModelSource]:
    """Return the recipe, the model's tensors and their origin, of anything that `load_denoiser` accepts.

    Raises:
        CheckpointError, UsageError: as `load_denoiser`.
    """
    part, path = part_name(weights), local_model(path)
    if path.is_file():
        return _read_file(path)
    if not path.is_dir():
        others = checkpoint_folders(path.parent.parent) if CHECKPOINT_NAME.fullmatch(path.name) else []
        steps = ", ".join(str(checkpoint_step(folder)) for folder in others)
        hint = f"; the run has those of steps {steps}" if steps else ""
        raise CheckpointError(f"{path}: no such run, checkpoint or file{hint}")
    if (path / EXPORTED).is_file():
        return _read_file(path / EXPORTED)
    if (path / "manifest.json").exists():
        checkpoint = open_checkpoint(path)
    elif checkpoint_folders(path):
        checkpoint = _newest(path)
    else:
        raise CheckpointError(f"{path}: {_no_checkpoint(path)}")
    if part in ("ema", "model") or (checkpoint.folder / f"{part}.safetensors").exists():
        return checkpoint.recipe, checkpoint.tensors(part), _source_of(checkpoint, weights)
    recipe, tensors, source = _read_file(find_post_hoc_ema(path, parse_ema_std(weights)))
    return recipe, tensors, replace(source, run=_shortest(path), weights=weights)


def check_weights(path: Path | str, wanted: Weights | None, found: ModelSource) -> None:
    """Refuse weights that a file or an exported folder, which has one kind only, does not have.

    Args:
        path: for the message.
        wanted: as the user chose them; None for any.
        found: origin of the weights that were read.

    Raises:
        UsageError: they are of another kind; those of a file that names none are accepted.
    """
    if wanted is None or found.weights in (None, wanted):
        return
    try:
        is_same = part_name(wanted) == part_name(found.weights or "")
    except UsageError:  # of a name in a file's metadata that no part has
        is_same = False
    if not is_same:
        raise UsageError(f"{path}: has the weights {found.weights}, not {wanted}; leave out --weights")


def _source_of(checkpoint: Checkpoint, weights: Weights) -> ModelSource:
    run, state = checkpoint.folder.resolve().parents[1], checkpoint.state
    return ModelSource(_shortest(run), state.step, state.num_images, weights)


def _shortest(run: Path) -> str:
    """Return the path of a run relative to the working directory, or absolute if it is outside."""
    run, here = run.resolve(), Path.cwd()
    return str(run.relative_to(here) if run.is_relative_to(here) and run != here else run)


def source_metadata(source: ModelSource) -> dict[str, str]:
    """Return the origin of weights as metadata of a safetensors file, with the run's name in place of its path."""
    return {key: str(value) for key, value in source_record(source).items()}


def source_record(source: ModelSource) -> dict[str, Any]:
    """Return the origin of weights as JSON values, with the run's name in place of its path."""
    return replace(source, run=source.run and Path(source.run).name).to_json()


def _source_from(metadata: Mapping[str, str]) -> ModelSource:
    """Return the origin of the weights in a file; unknown if the file does not name it."""
    step, images_seen = (
        int(text) if (text := metadata.get(key, "")).isdecimal() and len(text) < MAX_DIGITS else None
        for key in ("step", "images_seen")
    )
    run, weights = metadata.get("run"), metadata.get("weights") or metadata.get("std")
    return ModelSource(run and run[:MOST_LETTERS], step, images_seen, weights and weights[:MOST_LETTERS])


def _no_checkpoint(folder: Path) -> str:
    """Return why a folder without checkpoints cannot be loaded."""
    try:
        train = read_recipe(str(recipe_file(folder))).train
    except RecipeError:
        return "neither a run with checkpoints nor a checkpoint"
    first = min(train.checkpoint_every_images, train.num_images)
    return f"no checkpoint yet; the first one is saved after {first:,} images"


def check_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors whose names, shapes or kinds of numbers are not those of a model.

    Raises:
        CheckpointError: naming the first tensor that is missing, misshapen, of whole numbers or unknown.
    """
    for name, tensor in expected.items():
        if name not in found:
            raise CheckpointError(f"{where}: lacks the tensor {name}, which its recipe requires")
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(found[name].shape)}, its recipe requires {tuple(tensor.shape)}"
            )
        if tensor.is_floating_point() and not found[name].is_floating_point():
            raise CheckpointError(f"{where}: {name} is {found[name].dtype}, its recipe requires a floating-point type")
    if surplus := sorted(set(found) - set(expected)):
        raise CheckpointError(f"{where}: has the tensor {surplus[0]}, which its recipe does not have")


def build_denoiser(
    recipe: Recipe, state: Mapping[str, Tensor], where: str, source: ModelSource | None = None
) -> Denoiser:
    """Return the denoiser of a recipe with these tensors.

    Parameters of several floating-point types are cast to the widest one, since the layers need a common type.

    Raises:
        CheckpointError: the tensors are not those of the recipe's model.
    """
    try:
        with torch.device("meta"):
            network = HourglassTransformer(recipe.model)
    except (RuntimeError, TypeError) as error:
        if "overflow" not in str(error).lower():  # no tensor has so many elements
            raise
        raise CheckpointError(f"{where}: its recipe has a network that is too large ({first_line(error)})") from None
    check_fit(network.state_dict(), state, where)
    network.load_state_dict(dict(state), assign=True)
    dtypes = {parameter.dtype for parameter in network.parameters()}
    if len(dtypes) > 1:
        network.to(reduce(torch.promote_types, dtypes))
    return Denoiser(network, recipe, source)


def _newest(run: Path) -> Checkpoint:
    checkpoint, errors = newest_checkpoint(run)
    assert checkpoint is not None  # the caller checked that
    for error in errors:
        logger.warning("%s; %s is used instead", error, checkpoint.folder.name)
    return checkpoint


def _read_file(path: Path) -> tuple[Recipe, Tensors, ModelSource]:
    tensors, metadata = read_tensors(path)
    try:
        if "hdit" in metadata:
            return check_recipe(json.loads(metadata["recipe"]), str(path)), tensors, _source_from(metadata)
        if "config" in metadata:
            recipe = recipe_from_kdiffusion(json.loads(metadata["config"]))
            return recipe, state_from_kdiffusion(tensors, recipe), _source_from(metadata)
    except (KeyError, ValueError, RecursionError, RecipeError) as error:
        raise CheckpointError(f"{path}: its metadata is corrupt: {error}") from None
    raise CheckpointError(f"{path}: contains neither a recipe of hdit nor a config of k-diffusion")
