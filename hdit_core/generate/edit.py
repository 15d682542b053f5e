"""A job whose images begin from something else than noise alone: it goes where samples go, and on like them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.generate.generate import Generated, check_classes
from hdit_core.generate.job import Job

Draw = Callable[[list[int], list[int] | None], Float[Tensor, "B C H W"]]
"""(numbers, their classes, None where the network has none) -> finished images in [-1, 1]."""


@dataclass(frozen=True)
class EditJob(Job):
    """Images that `draw` makes; image i is a function of the job and i alone.

    Attributes:
        draw: draws a batch.
        edit: what is done, to what: part of what decides the pixels, as plain values.
        classes_follow: whether classes follow the numbers where none is asked for; else no image has one.
    """

    draw: Draw = field(kw_only=True)
    edit: Mapping[str, Any] = field(kw_only=True)
    classes_follow: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse a class that the network does not have, with a UsageError."""
        check_classes(self.denoiser.recipe.model.num_classes, [0], None if self.class_id is None else [self.class_id])

    def class_of(self, number: int) -> int | None:
        return super().class_of(number) if self.classes_follow else self.class_id

    def origin(self) -> dict[str, Any]:
        return super().origin() | {"edit": dict(self.edit)}

    @torch.inference_mode()
    def batches(self, numbers: Sequence[int]) -> Iterator[Generated]:
        """Yield the batches of some of the images."""
        for start in range(0, len(numbers), self.settings.batch_size):
            chosen = list(numbers[start : start + self.settings.batch_size])
            found = [class_id for number in chosen if (class_id := self.class_of(number)) is not None]
            classes = found or None
            yield Generated(chosen, classes, self.draw(chosen, classes).float().cpu())
