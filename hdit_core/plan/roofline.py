"""Roofline of training on a GPU, and the fraction of it to expect.

The roofline is the slower of two bounds: matrix products at the data sheet's rate, and memory traffic of activations at
the data sheet's bandwidth. The expected fraction is a range between the paper's two published runs, the only ones
known: it is what the reference implementation reached, and says nothing about other code.
"""

from dataclasses import dataclass

from hdit_core.flops.activations import saved_activations
from hdit_core.plan.gpus import Gpu
from hdit_core.recipe.run import Recipe

BFLOAT16_BYTES = 2
TRAFFIC = 4  # at least: a saved activation is written and read, and so is its gradient
TRAFFIC_RECOMPUTED = 2  # a recomputed activation is written and read once more
EFFICIENCY = (0.045, 0.17)
"""Fractions of the roofline: the paper's FFHQ-1024 run on A100s and its ImageNet-256 run on H100s."""


@dataclass(frozen=True)
class Roofline:
    """Lower bounds of the training time per image, at the GPU's peak rates.

    Attributes:
        products_s: of the model's matrix products, forward and backward.
        memory_s: of the memory traffic of activations.
    """

    products_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """The larger bound."""
        return max(self.products_s, self.memory_s)

    @property
    def bound(self) -> str:
        """The name of the larger bound."""
        return "products" if self.products_s >= self.memory_s else "memory traffic"

    @property
    def images_per_s(self) -> tuple[float, float]:
        """Images per second at the lowest and the highest expected fraction of the roofline."""
        low, high = EFFICIENCY
        return low / self.seconds, high / self.seconds


def traffic_bytes(recipe: Recipe, checkpointed: int = 0) -> int:
    """Return a lower bound of the memory traffic of activations and their gradients, in bytes per image."""
    saved = saved_activations(recipe.model, value_bytes=BFLOAT16_BYTES)
    recomputed = sum(part.bytes for part in saved if part.level < checkpointed)
    return TRAFFIC * sum(part.bytes for part in saved) + TRAFFIC_RECOMPUTED * recomputed


def roofline(recipe: Recipe, gpu: Gpu, flops_per_image: int, checkpointed: int = 0) -> Roofline:
    """Return the roofline of training on a GPU.

    Args:
        recipe: of the network.
        gpu: the GPU.
        flops_per_image: of all products, including recomputation.
        checkpointed: number of levels, outermost first, with activation checkpointing.
    """
    products_s = flops_per_image / (gpu.tflops * 1e12)
    return Roofline(products_s, traffic_bytes(recipe, checkpointed) / (gpu.memory_tb_per_s * 1e12))
