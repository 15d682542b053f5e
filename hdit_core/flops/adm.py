"""ADM's U-Net (Dhariwal and Nichol 2021, arXiv 2105.05233), the convolutional network of pixel diffusion.

Two residual blocks a level on the way down, three on the way up, each of two 3x3 convolutions with a modulation from
the noise level between them; one more block halves or doubles the sides between levels. Attention at the coarse levels.
The counts that the DiT paper prints (arXiv 2212.09748, section 5.1) come out: 1120 at 256x256, 1983 at 512x512.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from hdit_core.flops.count import Count, Part

KERNEL = 9  # weights of a 3x3 convolution for each pair of channels
EMBEDDING_RATIO = 4


class Work(NamedTuple):
    """Parameters and multiply-adds of one layer."""

    parameters: int
    macs: int


@dataclass(frozen=True)
class ADM:
    """The U-Net; conditional on classes, its variance learned as it was published.

    Attributes:
        base: channels that the multipliers multiply.
        multipliers: channels of each level over `base`, finest first; sides are halved between levels.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention_from: attention where the sides are divided by this, and at every coarser level.
    """

    base: int = 256
    multipliers: tuple[int | float, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention_from: int = 8
    channels: int = 3
    num_classes: int = 1000

    name = "ADM"

    def takes(self, image_size: tuple[int, int]) -> bool:
        """Return whether the sides can be halved as often as there are steps between levels."""
        return all(pixels % 2 ** (len(self.multipliers) - 1) == 0 for pixels in image_size)

    def count(self, image_size: tuple[int, int]) -> Count:
        """Count it by the convention of `hdit_core.flops.count`; the levels are the U-Net's."""
        pixels = image_size[0] * image_size[1]
        found: dict[tuple[int | None, str], Work] = {}
        for place, kind, work in self._layers(pixels):
            before = found.get((place, kind), Work(0, 0))
            found[place, kind] = Work(before.parameters + work.parameters, before.macs + work.macs)
        return Count(image_size, tuple(Part(place, kind, *work) for (place, kind), work in found.items()))  # type: ignore[arg-type]

    def _layers(self, pixels: int) -> Iterator[tuple[int | None, str, Work]]:
        """Yield level, operation and work of every layer, in the order in which they run."""
        widths = [int(self.base * multiplier) for multiplier in self.multipliers]
        embedding = EMBEDDING_RATIO * self.base
        time = linear(self.base, embedding, 1).macs + linear(embedding, embedding, 1).macs
        yield None, "conditioning", Work(time + 2 * embedding + self.num_classes * embedding, time)

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
        yield 0, "patches", Work(2 * width, 0)
        yield 0, "patches", convolution(width, 2 * self.channels, pixels)

    def _block(
        self, level: int, width_in: int, width: int, pixels: int, attends: bool | None = None
    ) -> Iterator[tuple[int | None, str, Work]]:
        """Yield a residual block at a level's resolution, and attention behind it where the level has any."""
        cells = pixels >> 2 * level
        modulation = linear(EMBEDDING_RATIO * self.base, 2 * width, 1)
        yield level, "feed-forward", convolution(width_in, width, cells)
        yield level, "feed-forward", convolution(width, width, cells)
        yield level, "feed-forward", Work(2 * width_in + 2 * width, 0)  # the group norms' scales and shifts
        yield level, "conditioning", Work(modulation.parameters, modulation.macs)
        if width_in != width:
            yield level, "feed-forward", linear(width_in, width, cells)
        if (2**level >= self.attention_from) if attends is None else attends:
            yield level, "attention projections", Work(2 * width, 0)
            yield level, "attention projections", linear(width, 3 * width, cells)
            yield level, "attention projections", linear(width, width, cells)
            yield level, "attention", Work(0, 2 * width * cells**2)


def linear(width_in: int, width_out: int, rows: int) -> Work:
    """Return a linear layer with a bias on so many rows."""
    return Work(width_in * width_out + width_out, rows * width_in * width_out)


def convolution(width_in: int, width_out: int, cells: int) -> Work:
    """Return a 3x3 convolution with a bias on so many cells."""
    return Work(KERNEL * width_in * width_out + width_out, cells * KERNEL * width_in * width_out)
