"""ADM's U-Nets (Dhariwal and Nichol 2021, arXiv 2105.05233), the convolutional networks of pixel diffusion.

Each residual block has two 3x3 convolutions with a modulation from the noise level between them. A level has one block
more on the way up than on the way down, and one more block halves or doubles the sides between levels. The coarse
levels have attention. The paper publishes a different network for each of four image sizes (`ADM_NETWORKS`). The tests
reproduce the GMACs in the DiT paper (arXiv 2212.09748, section 5.1): 1120 at 256x256, 1983 at 512x512.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hdit_core.flops.count import Count, Part

KERNEL = 9  # weights of a 3x3 convolution per pair of channels
EMBEDDING_RATIO = 4


class Cost(NamedTuple):
    """Parameters and multiply-adds of one layer."""

    parameters: int
    macs: int


@dataclass(frozen=True)
class ADM:
    """One U-Net, class-conditional and with learned variance, as published; the defaults are those for 256x256.

    Attributes:
        base: number of channels that the multipliers multiply.
        multipliers: channels of each level as multiples of `base`, finest level first.
        blocks: residual blocks per level on the way down; the way up has one more.
        attention_from: downsampling factor of the first level with attention; all coarser levels have it too.
    """

    base: int = 256
    multipliers: tuple[int | float, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention_from: int = 8
    channels: int = 3
    num_classes: int = 1000

    def accepts(self, image_size: tuple[int, int]) -> bool:
        """Return whether the sides can be halved as often as there are steps between levels."""
        return all(pixels % 2 ** (len(self.multipliers) - 1) == 0 for pixels in image_size)

    def count(self, image_size: tuple[int, int]) -> Count:
        """Return parameters and MACs as `hdit_core.flops.count` defines them, by level of the U-Net."""
        pixels = image_size[0] * image_size[1]
        sums: dict[tuple[int | None, str], Cost] = {}
        for level, operation, cost in self._layers(pixels):
            before = sums.get((level, operation), Cost(0, 0))
            sums[level, operation] = Cost(before.parameters + cost.parameters, before.macs + cost.macs)
        return Count(image_size, tuple(Part(level, operation, *cost) for (level, operation), cost in sums.items()))  # type: ignore[arg-type]

    def _layers(self, pixels: int) -> Iterator[tuple[int | None, str, Cost]]:
        """Yield level, operation and cost of every layer, in the order of execution."""
        widths = [int(self.base * multiplier) for multiplier in self.multipliers]
        embedding = EMBEDDING_RATIO * self.base
        time = linear(self.base, embedding, 1).macs + linear(embedding, embedding, 1).macs
        yield None, "conditioning", Cost(time + 2 * embedding + self.num_classes * embedding, time)

        yield 0, "patches", convolution(self.channels, widths[0], pixels)
        width, skips = widths[0], [widths[0]]
        for level, wide in enumerate(widths):
            for _ in range(self.blocks):
                yield from self._block(level, width, wide, pixels)
                width = wide
                skips.append(width)
            if level + 1 < len(widths):
                yield from self._block(level + 1, width, width, pixels, attends=False)
                skips.append(width)

        bottom = len(widths) - 1
        yield from self._block(bottom, width, width, pixels, attends=True)
        yield from self._block(bottom, width, width, pixels, attends=False)

        for level in reversed(range(len(widths))):
            for _ in range(self.blocks + 1):
                yield from self._block(level, width + skips.pop(), widths[level], pixels)
                width = widths[level]
            if level:
                yield from self._block(level - 1, width, width, pixels, attends=False)
        yield 0, "patches", Cost(2 * width, 0)
        yield 0, "patches", convolution(width, 2 * self.channels, pixels)

    def _block(
        self, level: int, width_in: int, width: int, pixels: int, attends: bool | None = None
    ) -> Iterator[tuple[int | None, str, Cost]]:
        """Yield the layers of a residual block, and of its attention if the level has it or `attends` is set."""
        cells = pixels >> 2 * level
        modulation = linear(EMBEDDING_RATIO * self.base, 2 * width, 1)
        yield level, "feed-forward", convolution(width_in, width, cells)
        yield level, "feed-forward", convolution(width, width, cells)
        yield level, "feed-forward", Cost(2 * width_in + 2 * width, 0)  # the group norms' scales and shifts
        yield level, "conditioning", Cost(modulation.parameters, modulation.macs)
        if width_in != width:
            yield level, "feed-forward", linear(width_in, width, cells)
        if (2**level >= self.attention_from) if attends is None else attends:
            yield level, "attention projections", Cost(2 * width, 0)
            yield level, "attention projections", linear(width, 3 * width, cells)
            yield level, "attention projections", linear(width, width, cells)
            yield level, "attention", Cost(0, 2 * width * cells**2)


def linear(width_in: int, width_out: int, rows: int) -> Cost:
    """Return the cost of a linear layer with a bias, applied to `rows` rows."""
    return Cost(width_in * width_out + width_out, rows * width_in * width_out)


def convolution(width_in: int, width_out: int, cells: int) -> Cost:
    """Return the cost of a 3x3 convolution with a bias, with `cells` output positions."""
    return Cost(KERNEL * width_in * width_out + width_out, cells * KERNEL * width_in * width_out)


ADM_NETWORKS = {
    64: ADM(192, (1, 2, 3, 4), blocks=3, attention_from=2),
    128: ADM(256, (1, 1, 2, 3, 4), attention_from=4),
    256: ADM(),
    512: ADM(256, (0.5, 1, 1, 2, 2, 4, 4), attention_from=16),
}
"""The published networks by the side in pixels of the square images that each was published for."""


@dataclass(frozen=True)
class PublishedADM:
    """The published network for each image size; for other sizes, the one whose size is nearest."""

    name = "ADM"

    def accepts(self, image_size: tuple[int, int]) -> bool:
        """Return whether the network for this size accepts it."""
        return ADM_NETWORKS[nearest_published(image_size)].accepts(image_size)

    def count(self, image_size: tuple[int, int]) -> Count:
        """Return parameters and MACs of the network for this size, at this size."""
        return ADM_NETWORKS[nearest_published(image_size)].count(image_size)

    def published_name(self, image_size: tuple[int, int]) -> str:
        """Return the name of the network for this size, such as `ADM-256`."""
        return f"{self.name}-{nearest_published(image_size)}"

    def is_published(self, image_size: tuple[int, int]) -> bool:
        """Return whether the network was published for this size."""
        published = nearest_published(image_size)
        return image_size == (published, published)


def nearest_published(image_size: tuple[int, int]) -> int:
    """Return the published side whose number of pixels has the smallest ratio to that of an image size."""
    log_side = math.log(math.prod(image_size)) / 2
    return min(ADM_NETWORKS, key=lambda side: abs(math.log(side) - log_side))
