"""Condition images and vectors of a run: computed from the images or read from the data set, and dropped at random."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from hdit_core.data.degrade.degrade import degrade
from hdit_core.data.format.manifest import Contents
from hdit_core.data.loader.augment import mirrored
from hdit_core.data.loader.image_reader import ImageReader, Pixels
from hdit_core.errors import DataError
from hdit_core.images import to_float
from hdit_core.randomness import uniform
from hdit_core.recipe.data import DegradeRecipe
from hdit_core.recipe.run import Recipe


@dataclass(frozen=True)
class Sample:
    """An image of a data set with its stored conditions; None if the set has none, or the network takes none."""

    image: Pixels
    label: int
    condition: Shaped[np.ndarray, "H W K"] | None = None
    vector: Float32[np.ndarray, " E"] | None = None


@dataclass(frozen=True)
class Conditioning:
    """The conditions of the network other than the class.

    Attributes:
        channels: channels of the condition image, 0 for none.
        vector_dim: length of the vector, 0 for none.
        degrade: degradations that make the condition image from the image; empty: it is read from the data set.
        dropout: probability of dropping both.
    """

    channels: int = 0
    vector_dim: int = 0
    degrade: tuple[DegradeRecipe, ...] = ()
    dropout: float = 0.0

    @property
    def is_needed(self) -> bool:
        """Whether the network takes condition images or vectors."""
        return bool(self.channels or self.vector_dim)

    def read(self, reader: ImageReader, index: int) -> Sample:
        """Return a sample of the data set with the stored conditions that the network takes."""
        stored = bool(self.channels and not self.degrade)
        return Sample(
            *reader.read(index),
            condition=reader.condition(index) if stored else None,
            vector=_finite_vector(reader, index) if self.vector_dim else None,
        )

    def check(self, reader: ImageReader) -> None:
        """Refuse a data set without the conditions that the network takes, or with other ones.

        Raises:
            DataError: names the conditions found and expected.
        """
        if problems := list(self.problems(reader.manifest.contents)):
            raise DataError(f"{reader.folder}: {'; '.join(problems)}")

    def problems(self, contents: Contents) -> Iterator[str]:
        """Yield how the conditions that the network takes differ from those of a data set."""
        channels = contents.condition.channels if contents.condition else 0
        if self.channels and not self.degrade and channels != self.channels:
            yield (
                f"has condition images of {channels} channels (0: none), the recipe takes {self.channels}; prepare the "
                "data with --condition, change model.condition_channels, or compute them with condition.degrade"
            )
        dim = contents.vectors.dim if contents.vectors else 0
        if self.vector_dim and dim != self.vector_dim:
            yield (
                f"has vectors of {dim} numbers (0: none), model.mapping_cond_dim is {self.vector_dim}; prepare the "
                "data with --vectors, or change the recipe"
            )

    def images_of(
        self,
        reader: ImageReader,
        samples: Sequence[Sample],
        images: Float[Tensor, "B C H W"],
        seed: int,
        numbers: Sequence[int],
        mirror: bool = False,
    ) -> Float[Tensor, "B K H W"] | None:
        """Return the condition images, zeros for dropped ones; None if the network takes none.

        Args:
            reader: reader of the data set.
            samples: the results of `read`.
            images: images in [-1, 1], already mirrored.
            seed: seed of the run.
            numbers: indices of the images in the run.
            mirror: whether stored condition images are mirrored, as the images were.
        """
        if self.degrade:
            pairs = zip(images, numbers, strict=True)
            degraded = [degrade(image, self.degrade, seed, number) for image, number in pairs]
            return self._dropped(torch.stack(degraded), seed, "condition-dropout", numbers)
        if not self.channels:
            return None
        entry = reader.manifest.contents.condition
        assert entry is not None  # `check`
        pixels = np.stack([sample.condition for sample in samples if sample.condition is not None])
        stored = to_float(pixels, entry.pixels.ranges)
        stored = mirrored(stored, seed, numbers) if mirror else stored
        return self._dropped(stored, seed, "condition-dropout", numbers)

    def vectors_of(self, samples: Sequence[Sample], seed: int, numbers: Sequence[int]) -> Float[Tensor, "B E"] | None:
        """Return the vectors, zeros for dropped ones; None if the network takes none."""
        if not self.vector_dim:
            return None
        vectors = np.stack([sample.vector for sample in samples if sample.vector is not None])
        return self._dropped(torch.from_numpy(vectors), seed, "vector-dropout", numbers)

    def _dropped(
        self, tensor: Float[Tensor, "B ..."], seed: int, purpose: str, numbers: Sequence[int]
    ) -> Float[Tensor, "B ..."]:
        if not self.dropout:
            return tensor
        dropped = torch.from_numpy(uniform(seed, purpose, numbers) < self.dropout)
        return tensor.masked_fill(dropped.view(-1, *[1] * (tensor.ndim - 1)), 0.0)


def _finite_vector(reader: ImageReader, index: int) -> Float32[np.ndarray, " E"] | None:
    vector = reader.vector(index)
    if vector is not None and not np.isfinite(vector).all():
        raise DataError(
            f"{reader.folder}: the vector of image {index} has NaN or infinite numbers; prepare the data again"
        )
    return vector


def conditioning_of(recipe: Recipe) -> Conditioning:
    """Return the conditions of a recipe's runs other than classes."""
    degrade, dropout = recipe.condition.degrade, recipe.train.condition_dropout
    return Conditioning(recipe.condition_image_channels, recipe.model.mapping_cond_dim, degrade, dropout)
