"""The ranks, devices and data of a run, which are opened before its folder is touched."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hdit_core.data.loader.build import open_reader
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.devices import compute_dtype, disable_tf32, precision_of
from hdit_core.distributed import World, init_ranks
from hdit_core.model.attention.neighborhood_backends import selected_backends
from hdit_core.model.native.rowwise import kernels_note
from hdit_core.recipe.run import Recipe
from hdit_core.train.data_checks import check_data, warn_about_sigma_data, warn_about_vectors
from hdit_core.train.deterministic import deterministic
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.parallel.rank_failure import RankFailureDetector
from hdit_core.train.step.batch_plan import check_world

logger = logging.getLogger("hdit")


@dataclass(frozen=True)
class RunContext:
    """The objects that all parts of a run use.

    Attributes:
        folder: of the run; dry runs and replays write nothing there.
        deterministic: whether all operations are, as `--deterministic` asks.
        setup: what is used, one line each: precision, attention backends, kernels.
    """

    recipe: Recipe
    folder: Path
    world: World
    reader: ImageReader
    callbacks: Callbacks
    failures: RankFailureDetector
    deterministic: bool
    setup: tuple[str, ...]

    def log_setup(self) -> None:
        """Log what the run uses; callers first refuse what cannot run."""
        for note in self.setup:
            logger.info(note)
        warn_about_sigma_data(self.recipe, self.reader)
        warn_about_vectors(self.recipe, self.reader)


@contextmanager
def run_context(
    recipe: Recipe, folder: Path, device: str, callbacks: Callbacks, wants_deterministic: bool = False
) -> Iterator[RunContext]:
    """Join the ranks and open the data set; leave the ranks after the body.

    Args:
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        wants_deterministic: whether `--deterministic` is given.

    Raises:
        UsageError: the ranks cannot share the batch, the attention backend cannot run on the device, or deterministic
            algorithms are not available.
        DataError: the data set is missing, damaged, or does not fit the recipe's network.
        HditError: another rank failed.
    """
    mode = deterministic(recipe.train, device) if wants_deterministic else nullcontext()
    with (
        mode,
        init_ranks(device, recipe.train.rank_timeout_s) as world,
        closing(RankFailureDetector(world)) as failures,
        failures.watching(),
    ):
        check_world(recipe.train, world)
        disable_tf32()
        setup = tuple(_setup(recipe, world))
        reader = open_reader(recipe.data)
        check_data(recipe, reader)
        yield RunContext(recipe, folder, world, reader, callbacks, failures, wants_deterministic, setup)


def _setup(recipe: Recipe, world: World) -> Iterator[str]:
    """Return what a run uses, one line each.

    Raises:
        UsageError: the attention backend cannot run on the device.
    """
    dtype = compute_dtype(recipe.train.precision, world.device)
    if precision := precision_of(world.device, dtype):
        yield f"precision: {precision}"
    for choice in selected_backends(recipe.model, world.device, dtype):
        yield choice.note
    if note := kernels_note(world.device, dtype):
        yield note
