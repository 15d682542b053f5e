"""Batches for the trainer: images, and all randomness of each as a function of (seed, its number).

The number of an image is its index in the run. Which image of the data set it is, its flip and augmentation, its
condition image, which of its conditions are dropped, its position within the stratum of noise levels and its noise
depend only on (seed, number), so that the result is bit-identical for any workers, ranks and micro-batches.
"""

from collections import ChainMap
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.utils.data import Dataset

from hdit_core.data.loader.augment import AffineWarp, augment, mirrored
from hdit_core.data.loader.conditioning import Conditioning
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.loader.order import Order, UniformOrder
from hdit_core.data.loader.quarantine import Quarantine, read_intact
from hdit_core.data.loader.workers import read_in_workers
from hdit_core.errors import DataError, HditError
from hdit_core.images import to_float
from hdit_core.randomness import normal, uniform

NETWORK_INPUTS = ("images", "class_ids", "augment_cond", "noise", "condition", "mapping_cond")
"""Tensors that are moved to the device. Noise levels are computed on the CPU in float64, which MPS does not have."""


@dataclass(frozen=True)
class Batch:
    """The inputs of one micro-batch of training; on the CPU, and not fully augmented, until `to` is called."""

    numbers: Int64[Tensor, " B"]  # index of each in the run
    images: Float[Tensor, "B C H W"]  # in [-1, 1]
    class_ids: Int64[Tensor, " B"] | None  # num_classes if the class is dropped; None without classes
    augment_cond: Float[Tensor, "B 9"]  # augmentation parameters; zeros for none
    noise: Float[Tensor, "B C H W"]  # standard normal
    uniform: Float64[Tensor, " B"]  # in [0, 1), the position within the stratum of noise levels
    condition: Float[Tensor, "B K H W"] | None = None  # in [-1, 1], zeros if it is dropped; None without
    mapping_cond: Float[Tensor, "B E"] | None = None  # vectors, zeros if they are dropped; None without
    warp: AffineWarp | None = None  # pending resampling of the images; applied by `to`
    damaged: Mapping[int, str] = field(default_factory=dict)  # images that were replaced, and their defects

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with the network's inputs on a device, and the images fully augmented."""
        device = torch.device(device)
        batch = self if device.type == "cuda" else self._warped()  # other devices lack bicubic sampling
        return batch._with_inputs(lambda tensor: tensor.to(device, non_blocking=True))._warped()

    def _warped(self) -> "Batch":
        if self.warp is None:
            return self
        return replace(self, images=self.warp.to(self.images.device)(self.images), warp=None)

    def pin_memory(self) -> "Batch":
        """Return the batch with all that `to` moves in page-locked memory; DataLoader calls this."""
        return replace(self._with_inputs(Tensor.pin_memory), warp=self.warp and self.warp.pin_memory())

    def _with_inputs(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {name: getattr(self, name) for name in NETWORK_INPUTS}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **changed)


def pinned(batch: Batch) -> Batch:
    """Return the batch in page-locked memory where there is a GPU, as torch's DataLoader does in its own thread.

    A copy from other memory may first wait until the GPU has done its work.
    """
    return batch.pin_memory() if torch.cuda.is_available() else batch


@dataclass
class TrainingDataset(Dataset[Batch]):
    """Returns the batch for any list of image numbers.

    Attributes:
        order: maps numbers to images of the data set.
        augment_prob: probability of each augmentation.
        mirror: whether images are mirrored with probability 1/2, with their condition images.
        class_dropout: probability of dropping the class.
        num_classes: classes of the network; 0 for none.
        conditioning: condition images and vectors.
        max_damaged: number of images that may be damaged.
    """

    reader: ImageReader
    order: Order
    seed: int
    augment_prob: float
    mirror: bool
    class_dropout: float
    num_classes: int
    conditioning: Conditioning
    max_damaged: int

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Return the batch of these images of the run, which have one size.

        Raises:
            DataError: the data set is damaged.
            StorageUnavailable: the data cannot be read at present.
        """
        indices = self.order.images_at(np.fromiter(numbers, np.int64)).tolist()
        intact = [
            read_intact(self.reader, self.order, number, index, self.max_damaged, self.conditioning)
            for number, index in zip(numbers, indices, strict=True)
        ]
        samples = [sample for sample, _ in intact]
        ranges = self.reader.manifest.contents.pixels.ranges
        images = to_float(np.stack([sample.image for sample in samples]), ranges)
        images = mirrored(images, self.seed, numbers) if self.mirror else images
        condition = self.conditioning.images_of(self.reader, samples, images, self.seed, numbers, self.mirror)
        images, augment_cond, warp = augment(images, self.seed, numbers, self.augment_prob)
        return Batch(
            numbers=torch.tensor(numbers, dtype=torch.int64),
            images=images,
            class_ids=self._class_ids(numbers, [sample.label for sample in samples]),
            augment_cond=augment_cond,
            warp=warp,
            noise=normal(self.seed, "noise", numbers, images.shape[1:]),
            uniform=torch.from_numpy(uniform(self.seed, "sigma", numbers)),
            condition=condition,
            mapping_cond=self.conditioning.vectors_of(samples, self.seed, numbers),
            damaged=dict(ChainMap(*(damaged for _, damaged in intact))),
        )

    def _class_ids(self, numbers: Sequence[int], labels: list[int]) -> Int64[Tensor, " B"] | None:
        if not self.num_classes:
            return None
        ids = torch.tensor(labels, dtype=torch.int64)
        if not self.class_dropout:
            return ids
        dropped = torch.from_numpy(uniform(self.seed, "class-dropout", numbers) < self.class_dropout)
        return ids.where(~dropped, self.num_classes)

    def __getitems__(self, numbers: list[int]) -> Batch | HditError:
        """Return a batch, or an error as a value: raised in a worker, its message would contain the traceback."""
        try:
            return self.batch(numbers)
        except HditError as error:
            return error


def _check_classes(reader: ImageReader, num_classes: int) -> None:
    """Refuse a model with classes for images without classes, or with fewer classes than the images have."""
    if num_classes and not reader.num_classes:
        raise DataError(
            f"{reader.folder}: its images have no classes, the model expects {num_classes}; "
            "set model.num_classes to 0, or prepare the data with class folders or --labels"
        )
    if num_classes and reader.num_classes > num_classes:
        raise DataError(
            f"{reader.folder}: its images have {reader.num_classes} classes, the model has {num_classes}; "
            f"set model.num_classes to {reader.num_classes}"
        )


def _batch_bytes(images: TrainingDataset, num_images: int) -> int:
    """Return the bytes of a micro-batch's images, condition images and noise: nearly all of its shared memory."""
    contents = images.reader.manifest.contents
    channels = 2 * contents.channels + images.conditioning.channels
    return num_images * max(size.height * size.width for size in contents.sizes) * channels * 4


def _batches(
    images: TrainingDataset, plan: Iterable[Sequence[int]], workers: int
) -> Generator[Batch | HditError, None, None]:
    """Yield batches and errors, read in this process or in worker processes."""
    plan = iter(plan)
    if (first := next(plan, None)) is None:
        return
    plan = chain([first], plan)
    if workers:
        yield from read_in_workers(images, plan, workers, batch_bytes=_batch_bytes(images, len(first)))
    else:
        for numbers in plan:
            batch = images.__getitems__(list(numbers))
            yield batch if isinstance(batch, HditError) else pinned(batch)


def load_batches(
    reader: ImageReader,
    plan: Iterable[Sequence[int]],
    *,
    seed: int,
    workers: int,
    augment_prob: float = 0.0,
    class_dropout: float = 0.0,
    num_classes: int = 0,
    mirror: bool = False,
    conditioning: Conditioning | None = None,
    order: Order | None = None,
    quarantine: Quarantine | None = None,
) -> Generator[Batch, None, None]:
    """Yield the batches of a run; closing the iterator ends the worker processes.

    Args:
        reader, seed, augment_prob, mirror, class_dropout, num_classes, conditioning: see `TrainingDataset`.
        order: default: uniform.
        plan: the image numbers of each micro-batch; all images of a micro-batch have one size.
        workers: processes that read and decode; 0 reads in this one. The results do not depend on it.
        quarantine: collects damaged images, which the caller counts; default: none are allowed.

    Raises:
        DataError: the data set is damaged or does not fit the model, or a worker died.
        StorageUnavailable: the data cannot be read at present.
        WaitInterrupted: a stop was requested while waiting for a batch.
    """
    _check_classes(reader, num_classes)
    (conditioning := conditioning or Conditioning()).check(reader)
    quarantine, order = quarantine or Quarantine(0), order or UniformOrder(seed, len(reader))
    draws = (seed, augment_prob, mirror, class_dropout, num_classes, conditioning)
    images = TrainingDataset(reader, order, *draws, quarantine.limit)
    yield from _checked(_batches(images, plan, workers), quarantine)


def _checked(batches: Generator[Any, None, None], quarantine: Quarantine) -> Generator[Batch, None, None]:
    """Yield batches and count damaged images; raise an error that a worker returned instead of a batch."""
    with closing(batches):  # a traceback would keep the iterator, and its processes, alive
        for batch in batches:
            if isinstance(batch, HditError):
                raise batch
            quarantine.add(batch.damaged)
            yield batch
