"""From a path to a denoiser that can be called: a run, a checkpoint, a file of ours, or one of k-diffusion's."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hdit_core.checkpoint.ema.snapshots import find_post_hoc_ema, parse_ema_std, part_name
from hdit_core.checkpoint.kdiffusion.recipe import recipe_from_kdiffusion
from hdit_core.checkpoint.kdiffusion.state_dict import state_from_kdiffusion
from hdit_core.checkpoint.layout import checkpoint_folders
from hdit_core.checkpoint.load import Checkpoint, newest_checkpoint, open_checkpoint
from hdit_core.checkpoint.safetensors_file import Tensors, read_tensors
from hdit_core.devices import compute_dtype
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import CheckpointError, RecipeError
from hdit_core.model.attention.backends import selected_backends
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.model import AttentionBackend
from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.run import Recipe

Weights = str
"""`"ema"`, `"model"`, or the length of an average: `"0.08"`."""


EXPORTED = "weights.safetensors"
"""What a folder of `hdit export` has in it, and neither a run nor a checkpoint."""


def load_denoiser(
    path: str | Path,
    weights: Weights = "ema",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    attention_backend: AttentionBackend = "auto",
) -> Denoiser:
    """Load a denoiser, ready to be called: `denoiser(x, sigma, class_ids, augment_cond, mapping_cond)`.

    Args:
        path: a run's folder (its newest intact checkpoint is taken), a checkpoint's folder, one that `hdit export`
            wrote, a safetensors file that hdit wrote, or an inference checkpoint of k-diffusion.
        weights: of a run or a checkpoint, the averaged weights (`"ema"`), the raw ones (`"model"`), or those of an
            average of another length, such as `"0.08"`: one of `train.ema_profiles`, or of a run what `hdit ema` made.
            A single file has only its own, and so has what was exported.
        device: where the network goes.
        dtype: of the network's parameters and buffers; default as they were saved.
        attention_backend: who computes neighborhood attention. Not the recipe's, which was chosen for the machine that
            trained.

    Raises:
        CheckpointError: there is nothing at the path, or it is damaged, or not what it says it is, or it has no such
            average.
        UsageError: the attention backend cannot run on the device, or the weights are none of the three kinds.
    """
    recipe, state = read_weights(Path(path), weights)
    recipe = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"attention_backend": attention_backend})}
    )
    denoiser = build_denoiser(recipe, state, str(path)).to(device=device, dtype=dtype).eval().requires_grad_(False)
    if attention_backend != "auto":
        attention_notes(denoiser)  # refuses here what could not run later
    return denoiser


def attention_notes(denoiser: Denoiser) -> list[str]:
    """Return who computes the denoiser's neighborhood attention where it is, a line for each choice.

    Raises:
        UsageError: the attention backend that was asked for cannot run there.
    """
    parameter = next(denoiser.parameters())
    dtype = compute_dtype(denoiser.recipe.train.precision, parameter.device)
    dtype = parameter.dtype if dtype == torch.float32 else dtype  # only then is there an autocast
    return [choice.note for choice in selected_backends(denoiser.recipe.model, parameter.device, dtype)]


def read_weights(path: Path, weights: Weights = "ema") -> tuple[Recipe, Tensors]:
    """Return the recipe and the network's tensors of whatever `load_denoiser` takes.

    Raises:
        CheckpointError, UsageError: as `load_denoiser`.
    """
    part = part_name(weights)
    if path.is_file():
        return _read_file(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such run, checkpoint or file")
    if (path / EXPORTED).is_file():
        return _read_file(path / EXPORTED)
    if (path / "manifest.json").exists():
        checkpoint = open_checkpoint(path)
    elif checkpoint_folders(path):
        checkpoint = _newest(path)
    else:
        raise CheckpointError(f"{path}: neither a run with checkpoints nor a checkpoint")
    if part in ("ema", "model") or (checkpoint.folder / f"{part}.safetensors").exists():
        return checkpoint.recipe, checkpoint.tensors(part)
    return _read_file(find_post_hoc_ema(path, parse_ema_std(weights)))


def check_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that are not, name for name and shape for shape, those of a network.

    Raises:
        CheckpointError: naming the first that is missing, misshapen or unknown.
    """
    for name, tensor in expected.items():
        if name not in found:
            raise CheckpointError(f"{where}: lacks the tensor {name}, which its recipe asks for")
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(found[name].shape)}, its recipe asks for {tuple(tensor.shape)}"
            )
    if surplus := sorted(set(found) - set(expected)):
        raise CheckpointError(f"{where}: has the tensor {surplus[0]}, which its recipe does not know")


def build_denoiser(recipe: Recipe, state: Mapping[str, Tensor], where: str) -> Denoiser:
    """Return the recipe's network with these tensors in it, wrapped as a denoiser.

    Raises:
        CheckpointError: the tensors are not those of the recipe's network.
    """
    with torch.device("meta"):
        network = HourglassTransformer(recipe.model)
    check_fit(network.state_dict(), state, where)
    network.load_state_dict(dict(state), assign=True)
    return Denoiser(network, recipe)


def _newest(run: Path) -> Checkpoint:
    checkpoint, complaints = newest_checkpoint(run)
    assert checkpoint is not None  # the caller saw that there is one
    for complaint in complaints:
        warnings.warn(f"{complaint}; {checkpoint.folder.name} is taken in its place", stacklevel=2)
    return checkpoint


def _read_file(path: Path) -> tuple[Recipe, Tensors]:
    tensors, metadata = read_tensors(path)
    try:
        if "hdit" in metadata:
            return check_recipe(json.loads(metadata["recipe"]), str(path)), tensors
        if "config" in metadata:
            recipe = recipe_from_kdiffusion(json.loads(metadata["config"]))
            return recipe, state_from_kdiffusion(tensors, recipe)
    except (KeyError, ValueError, RecursionError, RecipeError) as error:
        raise CheckpointError(f"{path}: its metadata is damaged: {error}") from None
    raise CheckpointError(f"{path}: holds neither hdit's recipe nor k-diffusion's config; it may be another program's")
