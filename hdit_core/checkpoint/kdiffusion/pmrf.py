"""Checkpoints of PMRF (posterior-mean rectified flow, Ohayon et al. 2025), whose flow is an HDiT of k-diffusion.

Lightning's file has the arguments of the model under `hyper_parameters`, all weights under `state_dict` (the flow's
begin with "model."; those of the posterior mean, a SwinIR, with "mmse_model."), and torch_ema's averages of the flow's
parameters under `ema`, in their order and without names. On the Hugging Face hub the arguments are `config.json` and
the weights `model.safetensors`, without separate averages.

The flow starts from the posterior mean plus noise, its images are in [0, 1], and its time is 1 on clean images:
sigma = (1 - t) / t. For pixels in [-1, 1], the network's input is half the scaled image plus 1/2, and its output, a
difference of images, is doubled: the first and the last layer are scaled, and `model.input_offset` is 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hdit_core.checkpoint.kdiffusion.state_dict import state_from_kdiffusion
from hdit_core.errors import CheckpointError, RecipeError
from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.run import Recipe

FLOW, START_ONLY = "flow", "naive_flow"  # from the posterior mean, from the measurement itself
PREFIX = "model."
BUFFERS = ("time_emb.weight", "aug_emb.weight", ".pos_emb.freqs")  # endings of tensors that are not averaged

_HEAD_DIM, _KERNEL_SIZE = 64, 7
_LOCAL = {"attention": "neighborhood", "head_dim": _HEAD_DIM, "kernel_size": _KERNEL_SIZE}
_GLOBAL = {"attention": "global", "head_dim": _HEAD_DIM}
ARCHITECTURES: dict[str, dict[str, Any]] = {  # name: image size of the published runs, and levels
    "hdit_ImageNet256Sp4": {
        "image_size": 512,
        "levels": [
            {"depth": 2, "width": 256, **_LOCAL},
            {"depth": 2, "width": 512, **_LOCAL},
            {"depth": 8, "width": 1024, **_GLOBAL},
        ],
    },
    "hdit_XL2": {
        "image_size": 256,
        "levels": [{"depth": 2, "width": 384, **_LOCAL}, {"depth": 11, "width": 768, **_GLOBAL}],
    },
}
MAPPING = {"mapping_width": 768, "mapping_depth": 2}
DENSITIES = {
    "uniform": {"type": "loglogistic", "loc": 0.0, "scale": 1.0},
    "stratified_uniform": {"type": "loglogistic", "loc": 0.0, "scale": 1.0},
    "logit-normal": {"type": "lognormal", "loc": 0.0, "scale": 1.0},
}
SIGMA_MAX = 1e3  # t = 0.001, the image's share of the input
NUM_IMAGES, BATCH_SIZE = 256_000_000, 256  # not in the file


def is_pmrf(arguments: object) -> bool:
    """Return whether these are the arguments of a model of PMRF."""
    return isinstance(arguments, Mapping) and {"stage", "arch"} <= set(arguments)


def recipe_of_pmrf(arguments: Mapping[str, Any], where: str) -> Recipe:
    """Return the recipe of a flow of PMRF.

    Args:
        arguments: of the model.
        where: the file, for messages.

    Raises:
        CheckpointError: it is not a flow from an image, or of an unknown architecture.
    """
    stage, name = arguments.get("stage"), arguments.get("arch")
    if stage not in (FLOW, START_ONLY):
        raise CheckpointError(f"{where}: stage = {stage!r} is not a flow; expected '{FLOW}' or '{START_ONLY}'")
    if arguments.get("conditional"):
        raise CheckpointError(
            f"{where}: conditional = true flows from noise to images in [0, 1], which hdit has no recipe for; expected "
            "a flow from an image (conditional = false)"
        )
    if name not in tuple(ARCHITECTURES):  # it may be a list
        raise CheckpointError(f"{where}: arch = {name!r} is not an HDiT of PMRF; expected {' or '.join(ARCHITECTURES)}")
    schedule = arguments.get("t_schedule", "stratified_uniform")
    if schedule not in tuple(DENSITIES):
        raise CheckpointError(f"{where}: t_schedule = {schedule!r}; expected {', '.join(DENSITIES)}")
    try:
        return check_recipe(_tables(arguments, ARCHITECTURES[name], DENSITIES[schedule]), f"{where}, as a recipe")
    except RecipeError as error:
        raise CheckpointError(str(error).replace("\n", "; ")) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{where}: its arguments cannot be used: {error}") from None


def _tables(arguments: Mapping[str, Any], architecture: dict[str, Any], density: dict[str, Any]) -> dict[str, Any]:
    betas = [float(beta) for beta in arguments.get("betas", (0.9, 0.95))]
    return {
        "model": {**architecture, **MAPPING, "channels": 3, "patch_size": 4, "time": "t", "input_offset": 1.0},
        "diffusion": {
            "objective": "flow",
            "sigma_data": 1.0,
            "start": "image",
            "start_noise": 2 * float(arguments.get("mmse_noise_std") or 0.0),
            "weighting": "karras",
            "density": density,
        },
        "train": {
            "num_images": NUM_IMAGES,
            "batch_size": BATCH_SIZE,
            "lr": float(arguments.get("lr", 5e-4)),
            "betas": betas,
            "weight_decay": float(arguments.get("weight_decay", 1e-3)),
        },
        "sample": {
            "sampler": "euler",
            "schedule": "flow",
            "steps": int(arguments.get("num_flow_steps", 50)),
            "sigma_max": SIGMA_MAX,
        },
    }


def state_of_pmrf(
    state: Mapping[str, Tensor], averages: Mapping[str, Any] | None, recipe: Recipe, where: str
) -> dict[str, Tensor]:
    """Return the tensors of a flow of PMRF with hdit's names, for pixels in [-1, 1].

    Args:
        state: all weights of the file.
        averages: torch_ema's state, to take the averaged parameters; None for the raw ones.
        recipe: of the flow.
        where: the file, for messages.

    Raises:
        CheckpointError: a tensor is missing, unknown or misshapen, or the averages are not those of the parameters.
    """
    flow = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    if not flow:
        raise CheckpointError(f"{where}: has no tensors named {PREFIX}*, which are the flow's")
    if averages is not None:
        flow |= _averaged(flow, averages.get("shadow_params", ()), where)
    ours = state_from_kdiffusion(flow, recipe)
    ours["patch_in.proj.weight"] = ours["patch_in.proj.weight"] / 2
    ours["patch_out.proj.weight"] = ours["patch_out.proj.weight"] * 2
    return ours


def _averaged(flow: Mapping[str, Tensor], averages: Sequence[Tensor], where: str) -> dict[str, Tensor]:
    """Return the averages by name: they are in the order of the parameters, which is that of the state dict."""
    names = [name for name in flow if not name.endswith(BUFFERS)]
    if len(names) != len(averages):
        raise CheckpointError(f"{where}: has averages of {len(averages)} parameters; the flow has {len(names)}")
    for name, average in zip(names, averages, strict=True):
        if not isinstance(average, torch.Tensor) or average.shape != flow[name].shape:
            raise CheckpointError(f"{where}: the averages are not in the order of the parameters, at {name}")
    return dict(zip(names, averages, strict=True))
