"""A new run that begins with the weights of another: of the same network, or of one for smaller images.

A network grows by outer levels, one for each doubling of the image's sides (HDiT paper, table 1, duplicates the
shallowest level; hdit-facts 1.1). Patches keep their size, so that the old network's outermost grid is the grid one
level further in, and all that it had from there inwards is taken bit by bit: conditioning, levels, merges, splits and
rotary frequencies, under names whose level is higher by as many as there are new ones.

New, and begun as in any fresh network, is what works on grids that the old one never had, or leads to and from them:
the new levels with their merges and splits, `patch_in`, `out_norm`, and `patch_out`, whose zeros make the first output
zero.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hdit_core.checkpoint.denoiser import load_denoiser
from hdit_core.checkpoint.safetensors_file import Tensors
from hdit_core.errors import UsageError
from hdit_core.generate.provenance import weights_sha256
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.model import ModelRecipe
from hdit_core.recipe.run import Recipe

LEVELLED = re.compile(r"(rotary|down|up|merges|splits)\.(\d+)\.(.+)")
OUTERMOST = ("patch_in.", "out_norm.", "patch_out.")
WITHOUT_MEANING = {"image_size", "levels", "dropout", "mapping_dropout", "attention_backend"}
"""Keys that say nothing of what given weights compute, or are compared by themselves."""


@dataclass(frozen=True)
class InitialWeights:
    """What a run begins with.

    Attributes:
        tensors: by their names in the new network; those that are not among them begin fresh.
        sha256: of the weights that they are from.
        notes: for people, on what is taken, and on what was otherwise where it is from.
    """

    tensors: Tensors
    sha256: str
    notes: tuple[str, ...]


NOTHING = InitialWeights({}, "", ())


def load_initial_weights(recipe: Recipe) -> InitialWeights:
    """Read what `train.init_from` names: the averaged weights of a run or checkpoint, or those of a file.

    Raises:
        CheckpointError: there is nothing there, or it is damaged.
        UsageError: the recipe's network is not the one there, nor has that one grown to it; names the first tensor.
    """
    path = recipe.train.init_from
    assert path is not None
    source = load_denoiser(path)
    added = len(recipe.model.levels) - len(source.recipe.model.levels)
    _check_sizes(recipe.model, source.recipe.model, added, f"train.init_from = {path}")
    with torch.device("meta"):
        here = HourglassTransformer(recipe.model).state_dict()
    tensors = _taken(here, source.network.state_dict(), added, f"train.init_from = {path}")
    sha256 = weights_sha256(source)
    old, new = (f"{count} tensor{'s' if count != 1 else ''}" for count in (len(tensors), len(here) - len(tensors)))
    grown = f"; new: {added} outer level{'s' if added > 1 else ''}, patch_in, out_norm, patch_out ({new})"
    notes = [f"begins with {old} of {path} ({sha256[:16]})" + (grown if added else "")]
    if unlike := list(_unlike(source.recipe, recipe, added)):
        notes.append(f"{path} was trained otherwise: {'; '.join(unlike)}")
    return InitialWeights(tensors, sha256, tuple(notes))


def _check_sizes(here: ModelRecipe, source: ModelRecipe, added: int, where: str) -> None:
    if added < 0:
        raise UsageError(
            f"{where}: its network has {len(source.levels)} levels, model.levels {len(here.levels)}; a network grows "
            "by outer levels, and loses none"
        )
    height, width = (side << added for side in source.image_size)
    if added and here.image_size != (height, width):
        raise UsageError(
            f"{where}: was trained on images of {source.image_size[0]}x{source.image_size[1]}; with {added} more "
            f"level{'s' if added > 1 else ''}, model.image_size has to be [{height}, {width}], and is "
            f"{list(here.image_size)}"
        )
    if added and here.patch_size != source.patch_size:
        raise UsageError(
            f"{where}: has patches of {list(source.patch_size)}, model.patch_size is {list(here.patch_size)}; a "
            "network that grows keeps its own"
        )


def _taken(here: Mapping[str, Tensor], source: Mapping[str, Tensor], added: int, where: str) -> Tensors:
    """Return the source's tensors by their names here, if all that is not new is among them and of the right shape."""
    found = {_renamed(name, added): (name, tensor) for name, tensor in source.items() if not _is_left(name, added)}
    for name, tensor in here.items():
        if _is_new(name, added):
            continue
        if name not in found:
            raise UsageError(f"{where}: has nothing for the tensor {name} of the recipe's network")
        its_name, its = found[name]
        if its.shape != tensor.shape:
            raise UsageError(
                f"{where}: its {its_name} has shape {tuple(its.shape)}, the recipe's network takes it for {name}, of "
                f"shape {tuple(tensor.shape)}"
            )
    if surplus := sorted(set(found) - set(here)):
        raise UsageError(f"{where}: has the tensor {found[surplus[0]][0]}, for which the recipe's network has no place")
    return {name: tensor for name, (_, tensor) in found.items()}


def _renamed(name: str, added: int) -> str:
    match = LEVELLED.fullmatch(name)
    return f"{match[1]}.{int(match[2]) + added}.{match[3]}" if match else name


def _is_left(name: str, added: int) -> bool:
    """Tell whether a network that grows leaves a tensor behind."""
    return bool(added) and name.startswith(OUTERMOST)


def _is_new(name: str, added: int) -> bool:
    match = LEVELLED.fullmatch(name)
    return _is_left(name, added) or (match is not None and int(match[2]) < added)


def _unlike(source: Recipe, here: Recipe, added: int) -> Iterator[str]:
    """Yield what fits, tensor for tensor, and yet makes the same weights mean something else."""
    for key, (before, now) in _pairs("model", source.model, here.model):
        yield f"{key} is {before!r} there and {now!r} here"
    for index, level in enumerate(source.model.levels):
        for key, (before, now) in _pairs(f"model.levels[{index + added}]", level, here.model.levels[index + added]):
            yield f"{key} is {before!r} there and {now!r} here"
    for key in ("sigma_data", "objective"):
        before, now = getattr(source.diffusion, key), getattr(here.diffusion, key)
        if before != now:
            yield f"diffusion.{key} is {before!r} there and {now!r} here"


def _pairs(where: str, before: Any, now: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    tables = before.model_dump(exclude=WITHOUT_MEANING), now.model_dump(exclude=WITHOUT_MEANING)
    for key, value in tables[0].items():
        if value != tables[1][key]:
            yield f"{where}.{key}", (value, tables[1][key])
