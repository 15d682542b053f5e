"""Measure the overhead of checkpoints, asynchronous and synchronous: `python benchmarks/saving.py`.

Trains a model of several million parameters on small random images three times for the same number of steps: without
checkpoints, with asynchronous checkpoints, and with synchronous ones. Prints the median step time and the overhead per
checkpoint.
"""

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.run import Recipe
from hdit_core.train.async_checkpoint import AsyncCheckpointer
from hdit_core.train.run import train
from hdit_core.train.step.train_step import Learner

STEPS, BATCH, EVERY_STEPS = 26, 4, 8
LEVELS = [{"depth": 2, "width": 256, "attention": "neighborhood"}, {"depth": 6, "width": 512, "attention": "global"}]


class SyncCheckpointer(AsyncCheckpointer):
    """Waits for each checkpoint to be saved."""

    def save(self, *args) -> None:
        super().save(*args)
        self.finish()


def prepared(folder: Path) -> Path:
    """Write random images below `folder` and return the data set prepared from them."""
    numbers = np.random.default_rng(0)
    for index in range(32):
        (folder / "pictures").mkdir(exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "pictures" / f"{index}.png")
    prepare_data(PrepareSettings(str(folder / "pictures"), folder / "data", (32, 32)))
    return folder / "data"


def recipe(data: Path, every_steps: int) -> Recipe:
    """Return the recipe of a run with a checkpoint every `every_steps` steps."""
    train_table = {"num_images": STEPS * BATCH, "batch_size": BATCH, "sample_every_images": 0, "keep_checkpoints": 2}
    model = {"image_size": [32, 32], "patch_size": 4, "mapping_width": 256, "mapping_depth": 2, "levels": LEVELS}
    return check_recipe(
        {
            "model": model,
            "data": {"path": str(data), "workers": 0},
            "train": train_table | {"checkpoint_every_images": every_steps * BATCH},
        },
        "benchmarks/saving.py",
    )


def timed(data: Path, run: Path, every_steps: int) -> tuple[float, list[float]]:
    """Return the total duration of a run and the time between consecutive steps, in seconds.

    The measurement ends when the last step begins, because the final checkpoint is the same for all runs.
    """
    started_at, update = [], Learner.train_step

    def record(learner, step, batches):
        started_at.append(time.perf_counter())
        return update(learner, step, batches)

    Learner.train_step = record
    try:
        train(recipe(data, every_steps), run, device="cpu")
    finally:
        Learner.train_step = update
    started_at = started_at[1:]  # the first step includes allocations
    return started_at[-1] - started_at[0], [later - earlier for earlier, later in pairwise(started_at)]


def main() -> None:
    """Run the benchmark and print the result."""
    import hdit_core.train.trainer as trainer

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="hdit-saving-") as temporary:
        folder = Path(temporary)
        data = prepared(folder)
        baseline_s, steps = timed(data, folder / "baseline", 10**6)
        async_s, asynchronous = timed(data, folder / "asynchronous", EVERY_STEPS)
        trainer.AsyncCheckpointer = SyncCheckpointer
        sync_s, synchronous = timed(data, folder / "synchronous", EVERY_STEPS)
        checkpoint = next((folder / "baseline" / "checkpoints").iterdir())
        size_mb = sum(file.stat().st_size for file in checkpoint.iterdir()) / 1e6
    saves = (STEPS - 1) // EVERY_STEPS
    print(f"checkpoint size {size_mb:.0f} MB; step without checkpoints {statistics.median(steps):.3f} s")
    for name, total_s, between in (("asynchronous", async_s, asynchronous), ("synchronous", sync_s, synchronous)):
        print(
            f"{name}: overhead {(total_s - baseline_s) / saves:.3f} s per checkpoint; longest step {max(between):.3f} s"
        )


if __name__ == "__main__":
    main()
