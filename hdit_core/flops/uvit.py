"""Counts of U-ViT (Bao et al. 2023, arXiv 2209.12152), a plain transformer with long skip connections, on pixels."""

from dataclasses import dataclass

from hdit_core.flops.count import Count, Part

UVIT_SHAPES = {"S": (13, 512), "M": (17, 768), "L": (21, 1024), "H": (29, 1152)}  # layers, width
UVIT_PUBLISHED = {  # (channels, side in pixels or latents, patch size) -> shapes in the paper
    (3, 32, 2): "S",
    (3, 64, 4): "SML",
    (4, 32, 2): "SMLH",
    (4, 64, 4): "LH",
}
CONDITIONING_TOKENS = 2  # noise level and class, in addition to the image's tokens
KERNEL = 9  # of the final 3x3 convolution


@dataclass(frozen=True)
class UViT:
    """A U-ViT: layers of global attention, with a skip connection from each layer of the first half to the second."""

    size: str = "M"
    patch_size: int = 4
    channels: int = 3
    num_classes: int = 1000

    @property
    def name(self) -> str:
        """The paper's name with the patch size, such as U-ViT-M/4."""
        return f"U-ViT-{self.size}/{self.patch_size}"

    def accepts(self, image_size: tuple[int, int]) -> bool:
        """Return whether the patches tile images of this size."""
        return all(pixels % self.patch_size == 0 for pixels in image_size)

    def published_name(self, image_size: tuple[int, int]) -> str:
        """Return the name, which does not depend on the size."""
        return self.name

    def is_published(self, image_size: tuple[int, int]) -> bool:
        """Return whether the network was published for images or latents of this size."""
        height, width = image_size
        return height == width and self.size in UVIT_PUBLISHED.get((self.channels, height, self.patch_size), "")

    def count(self, image_size: tuple[int, int]) -> Count:
        """Return parameters and MACs by the convention of `hdit_core.flops.count`."""
        layers, width = UVIT_SHAPES[self.size]
        cells = image_size[0] * image_size[1]
        patches = cells // self.patch_size**2
        tokens = patches + CONDITIONING_TOKENS
        values = self.channels * self.patch_size**2

        ends = 2 * values * width
        last = KERNEL * self.channels**2
        skips = layers // 2 * 2 * width**2
        projections, feed_forward = 4 * width**2, 2 * width * 4 * width
        biases = {"projections": width, "feed_forward": 5 * width, "norms": 4 * width}
        inner = layers * (projections + biases["projections"] + biases["norms"] // 2)
        positions = tokens * width
        return Count(
            image_size,
            (
                Part(0, "patches", ends + width + values + last + self.channels, patches * ends + cells * last),
                Part(0, "attention projections", inner, layers * tokens * projections),
                Part(0, "attention", 0, layers * tokens * 2 * width * tokens),
                Part(
                    0,
                    "feed-forward",
                    layers * (feed_forward + biases["feed_forward"] + biases["norms"] // 2) + 2 * width,
                    layers * tokens * feed_forward,
                ),
                Part(0, "merges and splits", skips + layers // 2 * width, tokens * skips),
                Part(None, "conditioning", positions + self.num_classes * width, 0),
            ),
        )
