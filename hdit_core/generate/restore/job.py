"""A restoration job: how an input becomes a condition image, and a batch of these becomes restored images."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.data.image.decode import LARGEST_IMAGE_PIXELS, UnusableImageError, is_image_file
from hdit_core.data.sources.source import without_ending
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import UsageError
from hdit_core.generate.condition.condition_images import Conditioned, ConditionMaker, canvas_size, padded
from hdit_core.generate.condition.inputs import InputImage, NamedInputs, name_problem, open_inputs
from hdit_core.generate.condition.sources import VectorOf
from hdit_core.generate.pipeline import START, ConditionInputs, SamplingPipeline
from hdit_core.generate.provenance import provenance
from hdit_core.generate.restore.tiles import TiledDenoiser, Tiling
from hdit_core.randomness import normal
from hdit_core.recipe.model import ModelRecipe

BLOCK_PX = 64  # side of the blocks of noise


class CanvasPipeline(SamplingPipeline):
    """A pipeline in which the noise of a pixel depends on the seed, the image and the pixel's position alone."""

    def noise(self, indices: Sequence[int], purpose: str = START, part: int = 0) -> Float[Tensor, "B C H W"]:
        """Return standard normal noise, block by block of 64 x 64 pixels."""
        channels, height, width = self.shape
        noise = torch.empty(len(indices), channels, height, width)
        for top in range(0, height, BLOCK_PX):
            for left in range(0, width, BLOCK_PX):
                number = ((part << 16) + top // BLOCK_PX << 16) + left // BLOCK_PX
                block = normal(self.seed, purpose, indices, (channels, BLOCK_PX, BLOCK_PX), number)
                area = noise[:, :, top : top + BLOCK_PX, left : left + BLOCK_PX]
                area.copy_(block[:, :, : area.shape[2], : area.shape[3]])
        return noise.to(self.device)


@dataclass(frozen=True)
class Masks:
    """Masks of what is to be filled in: one for all images, or one for each name."""

    inputs: NamedInputs
    is_single: bool

    def of(self, name: str) -> InputImage:
        """Return the mask of an image.

        Raises:
            UnusableImageError: there is none, or there are several.
        """
        if self.is_single:
            return self.inputs.read(0)
        indices = self._indices.get(without_ending(name), [])
        if len(indices) != 1:
            found = ", ".join(self.inputs.names[index] for index in indices)
            problem = f"has several masks of its name, {found}," if indices else "has no mask of its name"
            raise UnusableImageError(f"{problem} in {self.inputs.location}")
        return self.inputs.read(indices[0])

    @cached_property
    def _indices(self) -> dict[str, list[int]]:
        indices: dict[str, list[int]] = {}
        for index, name in enumerate(self.inputs.names):
            indices.setdefault(without_ending(name), []).append(index)
        return indices


def open_masks(location: str) -> Masks:
    """Return the masks in a folder or an archive by their names, or one image as the mask of all.

    Raises:
        UsageError, DataError: there is nothing, or nothing that can be read.
    """
    return Masks(open_inputs(location), is_image_file(Path(location)))


@dataclass(frozen=True)
class Prepared:
    """An input that is ready: its name, its number, a hash of what was read for it, its condition image and vector."""

    name: str
    number: int
    sha256: str
    conditioned: Conditioned
    vector: Float[Tensor, " E"] | None = None


@dataclass(frozen=True)
class Vectors:
    """The vector of each input by its index in the source, and their origin, with a hash."""

    of: VectorOf
    provenance: Mapping[str, str]


@dataclass(frozen=True)
class RestoreJob:
    """How images are restored; the result for an image depends on the job and the image alone.

    Attributes:
        pipeline: with the network, settings and seed; its image size and conditions are replaced.
        maker: makes condition images.
        tiling: of images larger than a tile.
        class_id: of all images; None for a network without classes.
        masks: of the images; None: the transparent pixels.
        vectors: of the images; None for a network without vectors.
    """

    pipeline: SamplingPipeline
    maker: ConditionMaker
    tiling: Tiling
    class_id: int | None = None
    masks: Masks | None = None
    vectors: Vectors | None = None

    def __post_init__(self) -> None:
        """Refuse missing vectors, and tiles that a guide cannot process, with a UsageError."""
        for guide in self._guides:
            for _, problem in guide.size_problems(self.tiling.size):
                tile = "x".join(map(str, self.tiling.size))
                raise UsageError(f"--tile {tile}: the guide cannot process tiles of that size: {problem}")
        length = self.maker.recipe.model.mapping_cond_dim
        if length and self.vectors is None:
            raise UsageError(f"the network takes vectors of {length} numbers, and none are given; see --vectors")

    def provenance(self) -> dict[str, Any]:
        """Return the settings that determine the pixels, apart from the inputs, as plain values."""
        restore = {"tile": list(self.tiling.size), "overlap": self.tiling.overlap, "degrade": self.maker.degrade}
        vectors = {} if self.vectors is None else {"conditions": {"vectors": dict(self.vectors.provenance)}}
        return {**provenance(self.pipeline, self.class_id), "restore": restore, **vectors}

    def prepare(self, image: InputImage) -> Prepared:
        """Return an input, ready to be restored.

        Raises:
            UnusableImageError, DataError: it cannot be used; the message is the reason.
        """
        if problem := name_problem(image.name):
            raise UnusableImageError(problem)
        pixels, sha256 = image.pixels(self.maker.input_pixels), image.sha256
        height, width = self.maker.output_size((pixels.shape[1], pixels.shape[2]))
        if height * width > LARGEST_IMAGE_PIXELS:
            raise UnusableImageError(
                f"would become {height}x{width}, more than {LARGEST_IMAGE_PIXELS // 10**6} million pixels"
            )
        mask = vector = None
        if self.maker.takes_mask:
            read = None if self.masks is None else self.masks.of(image.name)
            mask = image.transparent() if read is None else read.painted()
            if mask is None:
                raise UnusableImageError("has no mask and no transparent pixels; give --mask")
            sha256 = sha256 if read is None else _joined(sha256, read.sha256)
        if self.vectors is not None:
            vector = self.vectors.of(image.index)
            sha256 = _joined(sha256, hashlib.sha256(vector.numpy().tobytes()).hexdigest())
        conditioned = self.maker.make(pixels, image.number, mask)
        return Prepared(image.name, image.number, sha256, conditioned, vector)

    @torch.inference_mode()
    def restore(self, batch: Sequence[Prepared]) -> list[Float[Tensor, "C H W"]]:
        """Return the restored images of inputs of one canvas size, in [-1, 1] up to the sampler's overshoot."""
        size = self.canvas(batch[0])
        conditions = torch.stack([padded(each.conditioned.condition, size) for each in batch])
        vectors = [each.vector for each in batch if each.vector is not None]
        guide = self.pipeline.guide
        pipeline = CanvasPipeline(
            self._tiled(self.pipeline.denoiser),
            self.pipeline.settings,
            self.pipeline.seed,
            size,
            None if guide is None else replace(guide, denoiser=self._tiled(guide.denoiser)),
            lambda _: ConditionInputs(conditions, torch.stack(vectors) if vectors else None),
        )
        classes = None if self.class_id is None else [self.class_id] * len(batch)
        images = pipeline.generate_batch([each.number for each in batch], classes).float().cpu()
        return [
            each.conditioned.keep_known(image[:, : each.conditioned.size[0], : each.conditioned.size[1]])
            for each, image in zip(batch, images, strict=True)
        ]

    def canvas(self, image: Prepared) -> tuple[int, int]:
        """Return the size in which an image is sampled: its own, rounded up to what the network and a guide take."""
        return canvas_size(image.conditioned.size, self.pipeline.denoiser.recipe.model, *self._guides)

    def images_at_once(self, image: Prepared) -> int:
        """Return how many images of a size are in a batch: as many pixels as a batch of tiles has, at least one image.

        Larger batches of large images would only take memory: the network sees a batch of tiles at once.
        """
        pixels_at_once = self.pipeline.settings.batch_size * math.prod(self.tiling.size)
        return min(self.pipeline.settings.batch_size, max(1, pixels_at_once // math.prod(self.canvas(image))))

    @property
    def _guides(self) -> list[ModelRecipe]:
        return [] if self.pipeline.guide is None else [self.pipeline.guide.denoiser.recipe.model]

    def _tiled(self, denoiser: Denoiser) -> TiledDenoiser:
        return TiledDenoiser(denoiser, self.tiling, self.pipeline.settings.batch_size).eval()


def _joined(*hashes: str) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
