"""What a run trains: network, average and optimizer, as they begin or as a checkpoint left them."""

import weakref
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from hdit_core.checkpoint.denoiser import check_fit
from hdit_core.checkpoint.load import Checkpoint
from hdit_core.checkpoint.safetensors_file import Tensors
from hdit_core.devices import compute_dtype, tune_malloc
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.distributed import World
from hdit_core.model.compile import compile_network
from hdit_core.recipe.run import Recipe
from hdit_core.train.optim.ema import Ema, PowerEmas
from hdit_core.train.optim.optimizer import load_optimizer_tensors, make_optimizer
from hdit_core.train.parallel.parallelize import choose_parallelism, release_reducer
from hdit_core.train.parallel.sharded_tensors import distribute_into
from hdit_core.train.step.train_step import Learner


def build_learner(
    recipe: Recipe,
    checkpoint: Checkpoint | None,
    world: World,
    device: torch.device,
    on_note: Callable[[str], None] = lambda note: None,
    inherited: Mapping[str, Tensor] | None = None,
) -> Learner:
    """Build what a run trains; all ranks have to call it.

    Args:
        on_note: is told what the ranks share.
        inherited: without a checkpoint, tensors of the network that do not begin fresh; see `growth.py`.

    Raises:
        CheckpointError: the tensors of the checkpoint are damaged, or not those of the recipe's network.
    """
    tune_malloc()
    parallel = choose_parallelism(recipe, world, device)
    if parallel.note:
        on_note(parallel.note)
    network = parallel.network(recipe, device)
    network.activation_checkpointing = recipe.train.activation_checkpointing
    if checkpoint is not None:
        _load(network, checkpoint, "model")
    elif inherited:
        state = network.state_dict()
        distribute_into({name: state[name] for name in inherited}, inherited)
    ema = Ema(network, parallel.copied(network, recipe, device))
    profiles = PowerEmas(network, recipe.train.ema_profiles)
    optimizer = make_optimizer(network, recipe.train)
    if checkpoint is not None:
        _load(ema.network, checkpoint, "ema")
        for name, profile in profiles.items():
            profile.load(_checked(network, checkpoint, name))
        load_optimizer_tensors(optimizer, network, checkpoint.tensors("optimizer"))
    if recipe.train.compile:
        compile_network(network)
    trained = parallel.trained(network)
    world.cleanups.append(partial(_let_go_if_there, weakref.ref(trained)))
    denoiser = Denoiser(trained, recipe)
    dtype = compute_dtype(recipe.train.precision, device)
    return Learner(recipe, denoiser, optimizer, ema, profiles, world, device, dtype)


def _let_go_if_there(trained: weakref.ref[nn.Module]) -> None:
    network = trained()
    if network is not None:
        release_reducer(network)


def _load(network: nn.Module, checkpoint: Checkpoint, part: str) -> None:
    distribute_into(network.state_dict(), _checked(network, checkpoint, part))


def _checked(network: nn.Module, checkpoint: Checkpoint, part: str) -> Tensors:
    tensors = checkpoint.tensors(part)
    check_fit(network.state_dict(), tensors, str(checkpoint.folder / f"{part}.safetensors"))
    return tensors
