"""What a run trains: network, average and optimizer, as they begin or as a checkpoint left them."""

from collections.abc import Callable

import torch
from torch import nn

from hdit_core.checkpoint.denoiser import check_fit
from hdit_core.checkpoint.load import Checkpoint
from hdit_core.devices import compute_dtype, keep_freed_memory
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.distributed import World
from hdit_core.recipe.run import Recipe
from hdit_core.train.compiled import compile_network
from hdit_core.train.ema import Ema
from hdit_core.train.gather import distribute_into
from hdit_core.train.optimizer import load_optimizer_tensors, make_optimizer
from hdit_core.train.parallel import arrange
from hdit_core.train.step import Learner


def make_learner(
    recipe: Recipe,
    checkpoint: Checkpoint | None,
    world: World,
    device: torch.device,
    on_note: Callable[[str], None] = lambda note: None,
) -> Learner:
    """Build what a run trains; all ranks have to call it.

    Args:
        on_note: is told what the ranks share.

    Raises:
        CheckpointError: the tensors of the checkpoint are damaged, or not those of the recipe's network.
    """
    keep_freed_memory()
    parallel = arrange(recipe, world, device)
    if parallel.note:
        on_note(parallel.note)
    network = parallel.network(recipe, device)
    network.activation_checkpointing = recipe.train.activation_checkpointing
    if checkpoint is not None:
        _load(network, checkpoint, "model")
    ema = Ema(network, parallel.copied(network, recipe, device))
    optimizer = make_optimizer(network, recipe.train)
    if checkpoint is not None:
        _load(ema.network, checkpoint, "ema")
        load_optimizer_tensors(optimizer, network, checkpoint.tensors("optimizer"))
    if recipe.train.compile:
        compile_network(network)
    denoiser = Denoiser(parallel.trained(network), recipe)
    return Learner(recipe, denoiser, optimizer, ema, world, device, compute_dtype(recipe.train.precision, device))


def _load(network: nn.Module, checkpoint: Checkpoint, part: str) -> None:
    tensors, state = checkpoint.tensors(part), network.state_dict()
    check_fit(state, tensors, str(checkpoint.folder / f"{part}.safetensors"))
    distribute_into(state, tensors)
