"""Network, EMA and optimizer of a run: new, or restored from a checkpoint."""

import logging
import weakref
from collections.abc import Collection, Mapping
from functools import partial

from torch import Tensor, nn
from torch.optim import Optimizer

from hdit_core.checkpoint.denoiser import check_fit
from hdit_core.checkpoint.load import Checkpoint
from hdit_core.checkpoint.safetensors_file import Tensors
from hdit_core.devices import compute_dtype, tune_malloc
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.distributed import World
from hdit_core.model.compile import compile_network, reason_to_compile
from hdit_core.recipe.run import Recipe
from hdit_core.train.optim.ema import Ema, PowerEmas
from hdit_core.train.optim.optimizer import load_optimizer_tensors, make_optimizer
from hdit_core.train.parallel.parallelize import choose_parallelism, release_reducer
from hdit_core.train.parallel.sharded_tensors import distribute_into
from hdit_core.train.step.train_step import Learner

logger = logging.getLogger("hdit")


def build_learner(
    recipe: Recipe,
    checkpoint: Checkpoint | None,
    world: World,
    initial: Mapping[str, Tensor] | None = None,
    reset: Collection[str] = (),
) -> Learner:
    """Build the network, optimizer and EMA of a run; a collective operation.

    Args:
        initial: without a checkpoint, tensors that replace those of a new network; see `init_from.py`.
        reset: parts that are not restored from the checkpoint: `"optimizer"`, `"ema"`.

    Raises:
        CheckpointError: the tensors of the checkpoint are damaged, or do not fit the recipe's network.
    """
    tune_malloc()
    device, parallel = world.device, choose_parallelism(recipe, world)
    if parallel.note:
        logger.info(parallel.note)
    network = parallel.network(recipe, device)
    network.activation_checkpointing = recipe.train.activation_checkpointing
    if checkpoint is not None:
        _load(network, checkpoint, "model")
    elif initial:
        state = network.state_dict()
        distribute_into({name: state[name] for name in initial}, initial)
    ema = Ema(network, parallel.copied(network, recipe, device))
    profiles = PowerEmas(network, recipe.train.ema_profiles)
    optimizer = make_optimizer(network, recipe.train)
    if checkpoint is not None:
        _restore(checkpoint, reset, ema, profiles, optimizer, network)
    if reason := reason_to_compile(recipe.train, device):
        logger.info("torch.compile for each layer, on first use: %s", reason)
        compile_network(network)
    trained = parallel.trained(network)
    world.cleanups.append(partial(_release, weakref.ref(trained)))
    dtype = compute_dtype(recipe.train.precision, device)
    return Learner(recipe, Denoiser(trained, recipe), optimizer, ema, profiles, world, dtype)


def _restore(
    checkpoint: Checkpoint,
    reset: Collection[str],
    ema: Ema,
    profiles: PowerEmas,
    optimizer: Optimizer,
    network: nn.Module,
) -> None:
    """Load EMA weights and optimizer state from a checkpoint, except those that are reset."""
    if "ema" not in reset:
        _load_emas(ema, profiles, checkpoint)
    if "optimizer" not in reset:
        load_optimizer_tensors(optimizer, network, checkpoint.tensors("optimizer"))


def _load_emas(ema: Ema, profiles: PowerEmas, checkpoint: Checkpoint) -> None:
    _load(ema.network, checkpoint, "ema")
    for name, profile in profiles.items():
        profile.load(_checked(ema.source, checkpoint, name))


def _release(trained: weakref.ref[nn.Module]) -> None:
    network = trained()
    if network is not None:
        release_reducer(network)


def _load(network: nn.Module, checkpoint: Checkpoint, part: str) -> None:
    distribute_into(network.state_dict(), _checked(network, checkpoint, part))


def _checked(network: nn.Module, checkpoint: Checkpoint, part: str) -> Tensors:
    tensors = checkpoint.tensors(part)
    check_fit(network.state_dict(), tensors, str(checkpoint.folder / f"{part}.safetensors"))
    return tensors
