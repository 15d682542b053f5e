"""Batches as the trainer takes them: images, and everything random about each as a function of (seed, its number).

The number of an image is how many came before it in the run. Which image it is, its flip and augmentation, whether its
class is dropped, its place within the stratum of noise levels and its noise depend on (seed, number) alone, so that
workers, ranks and micro-batches change no bit.
"""

from collections import ChainMap
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.utils.data import Dataset

from hdit_core.data.loader.augment import AffineWarp, augment
from hdit_core.data.loader.order import Order, UniformOrder
from hdit_core.data.loader.quarantine import Quarantine, read_sound
from hdit_core.data.loader.reader import ImageReader
from hdit_core.data.loader.workers import read_in_workers
from hdit_core.errors import DataError, HditError
from hdit_core.images import from_uint8
from hdit_core.randomness import normal, uniform

NETWORK_INPUTS = ("images", "class_ids", "augment_cond", "noise")
"""What goes to the device. Noise levels are worked out of the rest on the CPU, in float64, which MPS does not have."""


@dataclass(frozen=True)
class Batch:
    """What one micro-batch of training needs; on the CPU, and the augmentation not finished, until `to`."""

    numbers: Int64[Tensor, " B"]  # images before each in the run
    images: Float[Tensor, "B C H W"]  # in [-1, 1]
    class_ids: Int64[Tensor, " B"] | None  # num_classes where the class is dropped; None without classes
    augment_cond: Float[Tensor, "B 9"]  # what was done to each; zeros for nothing
    noise: Float[Tensor, "B C H W"]  # standard normal
    uniform: Float64[Tensor, " B"]  # in [0, 1), the place within the stratum of noise levels
    warp: AffineWarp | None = None  # of the images, to be done by `to`
    damaged: Mapping[int, str] = field(default_factory=dict)  # images that these stand in for, and what is wrong there

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with what the network takes on a device, and the images augmented."""
        device = torch.device(device)
        at_once = self if device.type == "cuda" else self._warped()  # others lack bicubic sampling
        return at_once._with(NETWORK_INPUTS, lambda tensor: tensor.to(device, non_blocking=True))._warped()

    def _warped(self) -> "Batch":
        if self.warp is None:
            return self
        return replace(self, images=self.warp.to(self.images.device)(self.images), warp=None)

    def pin_memory(self) -> "Batch":
        """Return the batch with the same in page-locked memory; DataLoader calls this."""
        return self._with(NETWORK_INPUTS, Tensor.pin_memory)

    def _with(self, names: Sequence[str], change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {name: getattr(self, name) for name in names}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **changed)


class TrainingDataset(Dataset[Batch]):
    """Makes the batch of any list of image numbers."""

    def __init__(
        self,
        reader: ImageReader,
        order: Order,
        *,
        seed: int,
        augment_prob: float,
        class_dropout: float,
        num_classes: int,
        max_damaged: int,
    ) -> None:
        self.reader, self.order, self.seed, self.augment_prob = reader, order, seed, augment_prob
        self.class_dropout, self.num_classes, self.max_damaged = class_dropout, num_classes, max_damaged

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Read and draw everything for the given images of the run, which have one size.

        Raises:
            DataError: the data set is damaged.
        """
        indices = self.order.images_at(np.fromiter(numbers, np.int64)).tolist()
        read = [
            read_sound(self.reader, self.order, number, index, self.max_damaged)
            for number, index in zip(numbers, indices, strict=True)
        ]
        images = from_uint8(np.stack([image for image, *_ in read]))
        images, augment_cond, warp = augment(images, self.seed, numbers, self.augment_prob)
        return Batch(
            numbers=torch.tensor(numbers, dtype=torch.int64),
            images=images,
            class_ids=self._class_ids(numbers, [label for _, label, _ in read]),
            augment_cond=augment_cond,
            warp=warp,
            noise=normal(self.seed, "noise", numbers, images.shape[1:]),
            uniform=torch.from_numpy(uniform(self.seed, "sigma", numbers)),
            damaged=dict(ChainMap(*(damaged for *_, damaged in read))),
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
        """Return a batch, or what is wrong as a value: raised in a worker, its message would carry the traceback."""
        try:
            return self.batch(numbers)
        except HditError as problem:
            return problem


def _check_classes(reader: ImageReader, num_classes: int) -> None:
    """Refuse a model with classes on images without, or with fewer classes than the images have."""
    if num_classes and not reader.num_classes:
        raise DataError(
            f"{reader.folder}: its images have no classes, the model wants {num_classes}; "
            "set model.num_classes to 0, or prepare the data with class folders or --labels"
        )
    if num_classes and reader.num_classes > num_classes:
        raise DataError(
            f"{reader.folder}: its images have {reader.num_classes} classes, the model {num_classes}; "
            f"set model.num_classes to {reader.num_classes}"
        )


def load_batches(
    reader: ImageReader,
    plan: Iterable[Sequence[int]],
    *,
    seed: int,
    workers: int,
    augment_prob: float = 0.0,
    class_dropout: float = 0.0,
    num_classes: int = 0,
    order: Order | None = None,
    quarantine: Quarantine | None = None,
) -> Generator[Batch, None, None]:
    """Yield the batches of a run; closing the iterator ends the processes that read.

    Args:
        reader: the data set.
        plan: the image numbers of each micro-batch, as many as there are to be batches.
        seed: the run's.
        workers: processes that read and decode; 0 reads here. No bit depends on it.
        augment_prob: probability of each augmentation; 0 turns all of them off, the mirror image too.
        class_dropout: probability that a class becomes `num_classes`, "no class".
        num_classes: of the model; 0 for none.
        order: of the images; default: the uniform one. Each entry of the plan has to be of one size.
        quarantine: counts damaged images, and says how many there may be; default: none.

    Raises:
        DataError: the data set is damaged or does not fit the model, or a process that reads it died.
    """
    _check_classes(reader, num_classes)
    quarantine = quarantine or Quarantine(0)
    images = TrainingDataset(
        reader,
        order or UniformOrder(seed, len(reader)),
        seed=seed,
        augment_prob=augment_prob,
        class_dropout=class_dropout,
        num_classes=num_classes,
        max_damaged=quarantine.limit,
    )
    batches = read_in_workers(images, plan, workers) if workers else (images.__getitems__(list(each)) for each in plan)
    with closing(batches):  # a traceback of what is raised here would keep it, and its processes, alive
        for batch in batches:
            if isinstance(batch, HditError):
                raise batch
            quarantine.add(batch.damaged)
            yield batch
