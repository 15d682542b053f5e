"""How fast a GPU can train a network at most, and what share of that to expect.

The bound is the slower of two: the products at the data sheet's rate, and the memory traffic of the activations at the
data sheet's bandwidth. The share is a range between two published runs of the paper, the only ones there are: it says
what such code reached, and nothing about other code.
"""

from dataclasses import dataclass

from hdit_core.flops.activations import kept_for_backward
from hdit_core.plan.gpus import Gpu
from hdit_core.recipe.run import Recipe

BFLOAT16_BYTES = 2
TRAFFIC = 4  # a saved activation is written and read, and its gradient is written and read: at least that
TRAFFIC_AGAIN = 2  # a recomputed one is written and read once more
EFFICIENCY = (0.045, 0.17)
"""Shares of the bound: the paper's FFHQ-1024 run on A100s and its ImageNet-256 run on H100s."""


@dataclass(frozen=True)
class Roofline:
    """Seconds of one image at a GPU's full rates.

    Attributes:
        products_s: of the model's products, forward and backward.
        memory_s: of the activations' traffic.
    """

    products_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """The larger one."""
        return max(self.products_s, self.memory_s)

    @property
    def bound(self) -> str:
        """What the larger one is of."""
        return "products" if self.products_s >= self.memory_s else "memory traffic"

    @property
    def images_per_s(self) -> tuple[float, float]:
        """Images a second at the lowest and the highest share of the bound that are expected."""
        low, high = EFFICIENCY
        return low / self.seconds, high / self.seconds


def traffic_bytes(recipe: Recipe, checkpointed: int = 0) -> int:
    """Return the bytes of activations and their gradients that one image moves through a GPU's memory, at least."""
    kept = kept_for_backward(recipe.model, value_bytes=BFLOAT16_BYTES)
    again = sum(one.bytes for one in kept if one.level < checkpointed)
    return TRAFFIC * sum(one.bytes for one in kept) + TRAFFIC_AGAIN * again


def roofline(recipe: Recipe, gpu: Gpu, flops_per_image: int, checkpointed: int = 0) -> Roofline:
    """Return the bounds of one image on a GPU.

    Args:
        recipe: whose activations move.
        gpu: whose data sheet counts.
        flops_per_image: of all products, recomputed ones included.
        checkpointed: levels, outermost first, with activation checkpointing.
    """
    products_s = flops_per_image / (gpu.tflops * 1e12)
    return Roofline(products_s, traffic_bytes(recipe, checkpointed) / (gpu.memory_tb_per_s * 1e12))
