"""Runs of several ranks, for tests: their weights, the inputs of their networks, and their files."""

import hashlib
from functools import partial
from pathlib import Path

import torch

from hdit_core.checkpoint.layout import grid_file
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.log import read_log
from hdit_core.data.loader.build import open_reader
from hdit_core.distributed import init_ranks
from hdit_core.model.compile import compile_network
from hdit_core.recipe.run import Recipe
from hdit_core.train.parallel.sharded_tensors import full_tensors_on_cpu
from hdit_core.train.run import train
from hdit_core.train.sample_grid import write_sample_grid
from hdit_core.train.step import build as learner_module
from hdit_core.train.step import train_step as step_module
from hdit_core.train.step.batch_plan import steps
from hdit_core.train.step.build import build_learner
from hdit_core.train.step.dataloader import build_dataloader
from tests.conftest import collected_messages

LAYOUTS = {
    "one": (1, {}),
    "ddp-2": (2, {"train.parallel": "ddp"}),
    "ddp-4": (4, {"train.parallel": "ddp"}),
    "fsdp-2": (2, {"train.parallel": "fsdp"}),
    "hsdp-2x2": (4, {"train.parallel": "fsdp", "train.shard_ranks": 2}),
}
"""The number of ranks, and their recipe settings."""


def initial_weights(recipe: Recipe) -> dict[str, bytes]:
    """Return the bytes of every tensor of the network before training, and of its average; a rank's work."""
    world = init_ranks("cpu")
    learner = build_learner(recipe, None, world)
    tensors = {
        f"{part} {name}": tensor
        for part, network in (("model", learner.ema.source), ("ema", learner.ema.network))
        for name, tensor in network.state_dict().items()
    }
    whole = full_tensors_on_cpu(tensors, world)
    world.destroy_ranks()
    return {name: tensor.numpy().tobytes() for name, tensor in whole.items()}


def learn(recipe: Recipe, run: Path) -> tuple[dict[int, str], list[str]]:
    """Train; return digests of the network's inputs at each place of a batch, and the messages."""
    seen = {}
    loss, stratified = step_module.denoising_loss, step_module.stratified
    numbers: list[int] = []

    def note_numbers(places, size, uniform):
        numbers[:] = places.tolist()
        return stratified(places, size, uniform)

    def note_inputs(denoiser, images, noise, sigma, *more, **conditioning):
        given = [images, noise, sigma, *(value for value in conditioning.values() if isinstance(value, torch.Tensor))]
        for place, parts in zip(numbers, zip(*given, strict=True), strict=True):
            digest = hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()
            seen.setdefault(place, []).append(digest)
        return loss(denoiser, images, noise, sigma, *more, **conditioning)

    step_module.denoising_loss, step_module.stratified = note_inputs, note_numbers
    try:
        with collected_messages() as notes:
            train(recipe, run)
    finally:
        step_module.denoising_loss, step_module.stratified = loss, stratified
    return seen, notes


def learn_compiled(recipe: Recipe, run: Path) -> None:
    """Train with layers as torch.compile takes them in, not put into other code: what is composed is the same."""
    learner_module.compile_network = partial(compile_network, backend="eager")
    try:
        train(recipe, run)
    finally:
        learner_module.compile_network = compile_network


def draw_and_learn(recipe: Recipe, source: Path, run: Path) -> tuple[bytes, bytes]:
    """Draw two grids from a run's last checkpoint, one before a step and one after it; a rank's work."""
    world = init_ranks("cpu")
    checkpoint = newest_checkpoint(source)[0]
    learner = build_learner(recipe, checkpoint, world)
    reader, state = open_reader(recipe.data), checkpoint.state
    run.mkdir(exist_ok=True)
    batches = build_dataloader(recipe, reader, steps(recipe.train, state.step, state.num_images), learner.micro_batches)
    for number in (0, 1):
        if learner.is_sampling:
            write_sample_grid(learner, run, number, reader)
        if number == 0:
            learner.train_step(next(steps(recipe.train, state.step, state.num_images)), batches)
    batches.close()
    world.any(False)
    world.destroy_ranks()
    return tuple(grid_file(run, number).read_bytes() for number in (0, 1))


def losses(run: Path, field: str = "loss") -> list[float]:
    """Return the losses, or another number, that a run has logged."""
    return [line[field] for line in read_log(run)]


def tensors_left(run: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of the newest checkpoint."""
    checkpoint, complaints = newest_checkpoint(run)
    assert not complaints
    return {f"{part} {key}": t for part in ("model", "ema", "optimizer") for key, t in checkpoint.tensors(part).items()}
