"""Grids of samples during a run, always with the same noise and conditions, so that they can be compared."""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from hdit_core.checkpoint.layout import grid_file
from hdit_core.data.loader.conditioning import conditioning_of
from hdit_core.data.loader.image_reader import DamagedImage, ImageReader
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.files import write_atomic
from hdit_core.generate.dataset_conditions import DatasetConditions, spread_of_size
from hdit_core.generate.generate import collect, generate
from hdit_core.images import png_bytes, sheet, shown, to_uint8
from hdit_core.train.step.train_step import Learner

MOST_IMAGES = 64
MOST_CONDITIONAL = 16  # which are shown three times: condition, sample, target
MOST_PIXELS = 4_000_000
CONDITIONAL_PER_ROW = 2


def write_sample_grid(learner: Learner, run: Path, num_images: int, reader: ImageReader) -> Path | None:
    """Generate a few samples with the EMA weights, write them into the run directory, and return the path.

    Condition images and vectors are those of a few images of the data set, evenly spread over it; the grid then shows
    condition, sample and the image itself side by side. Returns None if the data set has no intact image of that size.

    Sharded EMA weights are not gathered, since one GPU may lack the memory: every rank generates the samples with the
    shards of the others, and the main one writes. To be called on the ranks whose `Learner.is_sampling` is true.

    Args:
        num_images: images trained on so far, for the file's name.
        reader: of the data set, for conditions and for the names of classes.
    """
    conditional = conditioning_of(learner.recipe).is_needed
    page = _conditional_page(learner, reader) if conditional else _page(learner, reader.manifest.contents.classes)
    if page is None:
        return None
    path = grid_file(run, num_images)
    if learner.world.is_main:
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, png_bytes(page))
    return path


def _page(learner: Learner, classes: tuple[str, ...] | None) -> UInt8[np.ndarray, "H W C"]:
    model, count = learner.recipe.model, _count(learner, MOST_IMAGES)
    images, class_ids = collect(generate(_denoiser(learner), range(count), seed=learner.recipe.train.seed))
    columns = model.num_classes if 1 < model.num_classes <= count else None
    captions = None
    if class_ids and columns is None:
        captions = [classes[index] if classes else str(index) for index in class_ids]
    return sheet(shown(images), captions, columns)


def _conditional_page(learner: Learner, reader: ImageReader) -> UInt8[np.ndarray, "H W C"] | None:
    model, seed = learner.recipe.model, learner.recipe.train.seed
    conditioning, wanted = conditioning_of(learner.recipe), _count(learner, MOST_CONDITIONAL)
    sources = [index for index in spread_of_size(reader, model.image_size, wanted) if _is_intact(reader, index)]
    if not sources:
        return None
    source, indices = DatasetConditions(reader, conditioning, seed, sources), list(range(len(sources)))
    class_ids = source.class_ids(indices) if model.num_classes else None
    batches = generate(_denoiser(learner), indices, seed=seed, class_ids=class_ids, conditions=source)
    images = [torch.cat([batch.images for batch in batches]), source.targets(indices)]
    condition = source(indices).condition
    if condition is not None:
        images.insert(0, condition)
    shown = np.stack([_shown(each) for each in images], axis=1)
    return sheet(rearrange(shown, "b n h w c -> (b n) h w c"), columns=CONDITIONAL_PER_ROW * len(images))


def _is_intact(reader: ImageReader, index: int) -> bool:
    try:
        reader.read(index)
        reader.condition(index)
    except DamagedImage:
        return False
    return True


def _denoiser(learner: Learner) -> Denoiser:
    return Denoiser(learner.ema.network, learner.recipe)


def _count(learner: Learner, most: int) -> int:
    height, width = learner.recipe.model.image_size
    return max(1, min(most, MOST_PIXELS // (height * width)))


def _shown(images: Float[Tensor, "B C H W"]) -> UInt8[np.ndarray, "B H W 3"]:
    """Return images of any number of channels in RGB: their first three channels, or the first one in grey."""
    return to_uint8(images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1))
