"""Grids of samples during a run, always with the same noise, so that they can be compared."""

from pathlib import Path

import numpy as np

from hdit_core.checkpoint.layout import grid_file
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.files import write_atomic
from hdit_core.generate.generate import collect, generate
from hdit_core.images import png_bytes, sheet
from hdit_core.train.step.train_step import Learner

MOST_IMAGES = 64
MOST_PIXELS = 4_000_000


def draw_grid(learner: Learner, run: Path, num_images: int, classes: tuple[str, ...] = ()) -> Path:
    """Generate a few samples with the EMA weights, write them into the run directory, and return the path.

    Sharded EMA weights are not gathered, since one GPU may lack the memory: every rank generates the samples with the
    shards of the others, and the main one writes. To be called on the ranks whose `Learner.draws` is true.

    Args:
        num_images: images trained on so far, for the file's name.
        classes: names to be written under the samples; default: the class indices.
    """
    model, size = learner.recipe.model, learner.recipe.model.image_size
    count = max(1, min(MOST_IMAGES, MOST_PIXELS // (size[0] * size[1])))
    denoiser = Denoiser(learner.ema.network, learner.recipe)
    images, drawn = collect(generate(denoiser, range(count), seed=learner.recipe.train.seed))
    columns = model.num_classes if 1 < model.num_classes <= count else None
    captions = [classes[index] if classes else str(index) for index in drawn] if drawn and columns is None else None
    path = grid_file(run, num_images)
    if learner.world.is_main:
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, png_bytes(sheet(np.asarray(images), captions, columns)))
    return path
