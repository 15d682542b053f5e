"""Baselines of HDiT: DiT (Peebles & Xie 2023), and those of other papers; and HDiT-B/4 to compare with them."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from hdit_core.errors import UsageError
from hdit_core.flops.adm import PublishedADM
from hdit_core.flops.count import Count, Part
from hdit_core.flops.uvit import UVIT_SHAPES, UViT
from hdit_core.recipe.model import LevelRecipe, ModelRecipe

ImageSize = tuple[int, int]

MAX_PATCH_SIZE = 64
BASE_SIZE_PX = 128  # the ablation's networks are defined for 128x128 and grown from there
DIT_TIME_FEATURES = 256
DIT_SHAPES = {"S": (12, 384), "B": (12, 768), "L": (24, 1024), "XL": (28, 1152)}  # depth, width
DIT_LATENTS = ((4, 32), (4, 64))  # channels and side of the latents of the DiT paper
DIT_PIXELS = {"DiT-B/4": (3, BASE_SIZE_PX)}  # the HDiT paper's baseline on pixels (table 1, row R1)


@dataclass(frozen=True)
class DiT:
    """A DiT on pixels or latents: one level of global attention, adaLN-Zero conditioning, biases in all layers."""

    depth: int
    width: int
    patch_size: int
    channels: int = 3
    num_classes: int = 1000
    learned_variance: bool = False
    """Twice the output channels, as in the published DiT. The HDiT paper's count of row R1 is without them."""

    @property
    def name(self) -> str:
        """The paper's name for its own shapes, such as DiT-B/4; DiT-own/4 for others."""
        size = next((size for size, shape in DIT_SHAPES.items() if shape == (self.depth, self.width)), "own")
        return f"DiT-{size}/{self.patch_size}"

    def accepts(self, image_size: ImageSize) -> bool:
        """Return whether the patches tile images of this size."""
        return all(pixels % self.patch_size == 0 for pixels in image_size)

    def count(self, image_size: ImageSize) -> Count:
        """Return parameters and MACs at this size, in pixels or in latents, by the convention of `flops.count`."""
        depth, width = self.depth, self.width
        tokens = image_size[0] * image_size[1] // self.patch_size**2
        values_in = self.channels * self.patch_size**2
        values_out = values_in * (2 if self.learned_variance else 1)

        patches = (values_in + values_out) * width
        projections = 4 * width**2
        feed_forward = 2 * width * 4 * width
        conditioning = DIT_TIME_FEATURES * width + width**2 + (6 * depth + 2) * width**2
        biases = 2 * width + (6 * depth + 2) * width  # of the time embedding's two layers, and the modulations
        classes = (self.num_classes + 1) * width
        return Count(
            image_size,
            (
                Part(0, "patches", patches + width + values_out, tokens * patches),
                Part(0, "attention projections", depth * (projections + 4 * width), depth * tokens * projections),
                Part(0, "attention", 0, depth * tokens * 2 * width * tokens),
                Part(0, "feed-forward", depth * (feed_forward + 5 * width), depth * tokens * feed_forward),
                Part(None, "conditioning", conditioning + biases + classes, conditioning),
            ),
        )

    def published_name(self, image_size: ImageSize) -> str:
        """Return the name, which does not depend on the size."""
        return self.name

    def is_published(self, image_size: ImageSize) -> bool:
        """Return whether the network was published for this size: in latents, or DiT-B/4 in 128x128 pixels."""
        height, width = image_size
        return height == width and (self.channels, height) in (*DIT_LATENTS, DIT_PIXELS.get(self.name))


def dit(name: str) -> DiT:
    """Return a DiT by shape and patch size, such as `B/4` or `XL/2`."""
    shape, patch_size = name.split("/")
    depth, width = DIT_SHAPES[shape]
    return DiT(depth, width, int(patch_size))


def scale_to_size(model: ModelRecipe, image_size: ImageSize) -> ModelRecipe:
    """Return a network for 128x128 grown to another size by the paper's rule.

    Each doubling of the side, that is, four times the pixels, adds a copy of the outermost level; only whole doublings
    count. Use `ModelRecipe.size_problems` to check that the grown network accepts the size.
    """
    pixel_ratio = math.prod(image_size) // BASE_SIZE_PX**2
    doublings = max(0, pixel_ratio.bit_length() - 1) // 2
    levels = (model.levels[0],) * doublings + model.levels
    return model.model_copy(update={"image_size": image_size, "levels": levels})


HDIT_B4 = ModelRecipe(
    image_size=(BASE_SIZE_PX, BASE_SIZE_PX),
    levels=(
        LevelRecipe(depth=2, width=384, attention="neighborhood", d_ff=3 * 384),
        LevelRecipe(depth=11, width=768, attention="global", d_ff=3 * 768),
    ),
    num_classes=1000,
    mapping_width=768,
    mapping_depth=1,
)
"""HDiT-B/4 at 128x128: ablation E, the paper's design at the scale of DiT-B."""

DIT_B4 = dit("B/4")


@runtime_checkable
class Baseline(Protocol):
    """A network to compare with."""

    @property
    def name(self) -> str:
        """Its name in the paper."""
        ...

    def accepts(self, image_size: ImageSize) -> bool:
        """Return whether the network accepts images of this size (height and width in pixels)."""
        ...

    def count(self, image_size: ImageSize) -> Count:
        """Return parameters and MACs at a size that the network accepts."""
        ...

    def published_name(self, image_size: ImageSize) -> str:
        """Return the name of the published network that is counted at this size."""
        ...

    def is_published(self, image_size: ImageSize) -> bool:
        """Return whether that network was published for this size."""
        ...


def baseline(name: str) -> Baseline:
    """Return a baseline by name: `dit-b/4`, `u-vit-m/4` (any of the papers' shapes, any patch size) or `adm`.

    Raises:
        UsageError: the name is unknown.
    """
    lower = name.strip().lower()
    if lower == "adm":
        return PublishedADM()
    family, _, size = lower.rpartition("-")
    shape, _, patch = size.partition("/")
    if patch.isdigit() and 1 <= int(patch) <= MAX_PATCH_SIZE:
        if family == "dit" and shape.upper() in DIT_SHAPES:
            return dit(f"{shape.upper()}/{patch}")
        if family == "u-vit" and shape.upper() in UVIT_SHAPES:
            return UViT(shape.upper(), int(patch))
    sizes = [f"dit-{{{','.join(DIT_SHAPES)}}}/PATCH", f"u-vit-{{{','.join(UVIT_SHAPES)}}}/PATCH"]
    raise UsageError(f"--against {name}: expected {sizes[0].lower()}, {sizes[1].lower()} or adm, for example dit-b/4")
