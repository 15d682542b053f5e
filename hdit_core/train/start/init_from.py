"""Initial weights from another run: from the same network, or from one for smaller images.

A network grows by outer levels, one for each doubling of the image size (HDiT paper, table 1, duplicates the
shallowest level). The patch size stays the same, so the old network's outermost grid becomes the grid one level
further in. Conditioning, levels, merges, splits and rotary frequencies are copied exactly, with the level in their
names increased by the number of new levels.

A network also grows by condition channels and by a conditioning vector (or a longer one), each with zero weights: its
first outputs are those of the network that it grew from, whatever the conditions.

The new levels with their merges and splits, `patch_in`, `out_norm` and `patch_out` are initialized as in any new
network; the zeros of `patch_out` make the first output zero.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from hdit_core.checkpoint.denoiser import load_denoiser
from hdit_core.checkpoint.safetensors_file import Tensors
from hdit_core.errors import UsageError
from hdit_core.generate.provenance import weights_sha256
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.base_table import Table
from hdit_core.recipe.diff import differences
from hdit_core.recipe.model import ModelRecipe
from hdit_core.recipe.run import Recipe

LEVELLED = re.compile(r"(rotary|down|up|merges|splits)\.(\d+)\.(.+)")
OUTERMOST = ("patch_in.", "out_norm.", "patch_out.")
PATCH_IN, VECTOR_IN, TIME_IN = "patch_in.proj.weight", "conditioning.vector_in.weight", "conditioning.time_in.weight"
NOT_COMPARED = {
    "image_size",
    "levels",
    "dropout",
    "mapping_dropout",
    "attention_backend",
    "condition_channels",
    "condition_scale",
    "mapping_cond_dim",
}
"""Keys that do not affect what given weights compute, or are compared separately."""


@dataclass(frozen=True)
class InitialWeights:
    """The initial weights of a run.

    Attributes:
        tensors: by their names in the new network; all others are initialized as usual.
        sha256: of the source's weights.
        notes: messages on what is copied, and on settings that differ from the source's.
    """

    tensors: Tensors
    sha256: str
    notes: tuple[str, ...]


NOTHING = InitialWeights({}, "", ())


def load_initial_weights(recipe: Recipe) -> InitialWeights:
    """Read `train.init_from`: the EMA weights of a run or checkpoint, or the weights of a file.

    Raises:
        CheckpointError: it does not exist, or is damaged.
        UsageError: the recipe's network is neither the same nor a grown one; names the first tensor that does not fit.
    """
    path = recipe.train.init_from
    assert path is not None
    source = load_denoiser(path)
    added = len(recipe.model.levels) - len(source.recipe.model.levels)
    _check_sizes(recipe.model, source.recipe.model, added, f"train.init_from = {path}")
    with torch.device("meta"):
        new_state = HourglassTransformer(recipe.model).state_dict()
    old_state = _with_new_inputs(source.network.state_dict(), recipe.model, source.recipe.model)
    tensors = _copied(new_state, old_state, added, f"train.init_from = {path}")
    sha256 = weights_sha256(source)
    old, new = (f"{count} tensor{'s' if count != 1 else ''}" for count in (len(tensors), len(new_state) - len(tensors)))
    grown = f"; new: {added} outer level{'s' if added > 1 else ''}, patch_in, out_norm, patch_out ({new})"
    inputs = "".join(f"; zero weights for {new_input}" for new_input in _new_inputs(recipe.model, source.recipe.model))
    notes = [f"initial weights: {old} of {path} ({sha256[:16]})" + (grown if added else "") + inputs]
    if changes := list(_differences(source.recipe, recipe, added)):
        notes.append(f"{path} was trained with other settings: {'; '.join(changes)}")
    return InitialWeights(tensors, sha256, tuple(notes))


def _check_sizes(model: ModelRecipe, source: ModelRecipe, added: int, where: str) -> None:
    if added < 0:
        raise UsageError(
            f"{where}: its network has {len(source.levels)} levels, model.levels has {len(model.levels)}; levels can "
            "be added, not removed"
        )
    height, width = (side << added for side in source.image_size)
    if added and model.image_size != (height, width):
        raise UsageError(
            f"{where}: was trained on images of {source.image_size[0]}x{source.image_size[1]}; with {added} more "
            f"level{'s' if added > 1 else ''}, model.image_size must be [{height}, {width}], not "
            f"{list(model.image_size)}"
        )
    if added and model.patch_size != source.patch_size:
        raise UsageError(
            f"{where}: has patches of {list(source.patch_size)}, model.patch_size is {list(model.patch_size)}; a "
            "grown network keeps the patch size"
        )


def _with_new_inputs(state: Mapping[str, Tensor], model: ModelRecipe, source: ModelRecipe) -> dict[str, Tensor]:
    """Return the source's tensors with zero weights for condition channels and numbers of the vector that are new."""
    grown = dict(state)
    channels, numbers = (
        getattr(model, key) - getattr(source, key) for key in ("condition_channels", "mapping_cond_dim")
    )
    if channels > 0:
        by_pixel = rearrange(state[PATCH_IN], "w (p c) -> w p c", c=source.input_channels)
        grown[PATCH_IN] = rearrange(pad(by_pixel, (0, channels)), "w p c -> w (p c)")
    if numbers > 0:
        none = state[TIME_IN].new_zeros(len(state[TIME_IN]), 0)
        grown[VECTOR_IN] = pad(state.get(VECTOR_IN, none), (0, numbers))
    return grown


def _new_inputs(model: ModelRecipe, source: ModelRecipe) -> Iterator[str]:
    """Yield the inputs that the source does not have, for people."""
    if (channels := model.condition_channels - source.condition_channels) > 0:
        yield f"{channels} more condition channel{'s' if channels > 1 else ''}"
    if (numbers := model.mapping_cond_dim - source.mapping_cond_dim) > 0:
        yield f"{numbers} more number{'s' if numbers > 1 else ''} of the conditioning vector"


def _copied(target: Mapping[str, Tensor], source: Mapping[str, Tensor], added: int, where: str) -> Tensors:
    """Return the source's tensors by their new names; checks that none is missing and that all shapes fit."""
    renamed = {_renamed(name, added): (name, tensor) for name, tensor in source.items() if not _is_left(name, added)}
    for name, tensor in target.items():
        if _is_new(name, added):
            continue
        if name not in renamed:
            raise UsageError(f"{where}: has no tensor for {name} of the recipe's network")
        old_name, old = renamed[name]
        if old.shape != tensor.shape:
            raise UsageError(
                f"{where}: {old_name} has shape {tuple(old.shape)}, {name} of the recipe's network has shape "
                f"{tuple(tensor.shape)}"
            )
    if surplus := sorted(set(renamed) - set(target)):
        raise UsageError(f"{where}: has the tensor {renamed[surplus[0]][0]}, which the recipe's network does not have")
    return {name: tensor for name, (_, tensor) in renamed.items()}


def _renamed(name: str, added: int) -> str:
    match = LEVELLED.fullmatch(name)
    return f"{match[1]}.{int(match[2]) + added}.{match[3]}" if match else name


def _is_left(name: str, added: int) -> bool:
    """Return whether a grown network does not copy a tensor."""
    return bool(added) and name.startswith(OUTERMOST)


def _is_new(name: str, added: int) -> bool:
    match = LEVELLED.fullmatch(name)
    return _is_left(name, added) or (match is not None and int(match[2]) < added)


def _differences(source: Recipe, recipe: Recipe, added: int) -> Iterator[str]:
    """Yield settings that differ although all tensors fit, and change what the weights compute."""
    tables: list[tuple[str, Table, Table]] = [("model", source.model, recipe.model)]
    for index, level in enumerate(source.model.levels, added):
        tables.append((f"model.levels[{index}]", level, recipe.model.levels[index]))
    for where, before, now in tables:
        for key, old, new in differences(*(table.model_dump(exclude=NOT_COMPARED) for table in (before, now))):
            yield f"{where}.{key} is {old!r} there and {new!r} in the recipe"
    scales = [model.condition_scales for model in (source.model, recipe.model)]
    if scales[0] != scales[1][: len(scales[0])]:
        yield f"model.condition_scale is {list(scales[0])} there and {list(scales[1])} in the recipe"
    shared = {"sigma_data", "objective", "start", "start_noise"}
    for key, old, new in differences(*(each.diffusion.model_dump(include=shared) for each in (source, recipe))):
        yield f"diffusion.{key} is {old!r} there and {new!r} in the recipe"
