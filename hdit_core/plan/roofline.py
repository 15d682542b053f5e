"""Roofline of training on a GPU, and the fraction of it to expect.

The roofline is the slower of two bounds: matrix products at the data sheet's rate, and memory traffic of activations at
the data sheet's bandwidth. Small networks are limited by the launches of their kernels instead. The expected fraction
is a range between the paper's two published runs, the only ones known: it is what the reference implementation reached,
and says nothing about other code.
"""

from dataclasses import dataclass

from hdit_core.flops.activations import saved_activations
from hdit_core.flops.count import layers_at
from hdit_core.plan.gpu_specs import Gpu
from hdit_core.recipe.run import Recipe

BFLOAT16_BYTES = 2
TRAFFIC = 4  # at least: a saved activation is written and read, and so is its gradient
TRAFFIC_RECOMPUTED = 2  # a recomputed activation is written and read once more
EFFICIENCY = (0.045, 0.17)
"""Fractions of the roofline: the paper's FFHQ-1024 run on A100s and its ImageNet-256 run on H100s."""
LAUNCHES_S = (100 * 10e-6, 30 * 5e-6)
"""Seconds per layer and micro-batch for launching kernels, forward and backward: slow (100 operations, eager) and fast
(30, compiled). Assumed, not measured."""


@dataclass(frozen=True)
class Roofline:
    """Lower bounds of the training time per image, at the GPU's peak rates.

    Attributes:
        products_s: of the model's matrix products, forward and backward.
        memory_s: of the memory traffic of activations.
        launches_s: longest and shortest expected time of launching the kernels.
    """

    products_s: float
    memory_s: float
    launches_s: tuple[float, float]

    @property
    def seconds(self) -> float:
        """The larger bound of products and memory traffic."""
        return max(self.products_s, self.memory_s)

    @property
    def bound(self) -> str:
        """The name of the largest bound."""
        if self.launches_s[1] > self.seconds / EFFICIENCY[1]:
            return "kernel launches"
        return "products" if self.products_s >= self.memory_s else "memory traffic"

    @property
    def images_per_s(self) -> tuple[float, float]:
        """Images per second at the lowest and the highest expected fraction of the roofline, or by the launches."""
        (low, high), (slow_s, fast_s) = EFFICIENCY, self.launches_s
        return 1 / max(self.seconds / low, slow_s), 1 / max(self.seconds / high, fast_s)


def traffic_bytes(recipe: Recipe, checkpointed: int = 0) -> int:
    """Return a lower bound of the memory traffic of activations and their gradients, in bytes per image."""
    saved = saved_activations(recipe.model, value_bytes=BFLOAT16_BYTES)
    recomputed = sum(part.bytes for part in saved if part.level < checkpointed)
    return TRAFFIC * sum(part.bytes for part in saved) + TRAFFIC_RECOMPUTED * recomputed


def roofline(recipe: Recipe, gpu: Gpu, flops_per_image: int, images: int, checkpointed: int = 0) -> Roofline:
    """Return the roofline of training on a GPU.

    Args:
        flops_per_image: of all products, including recomputation.
        images: micro-batch size.
        checkpointed: number of levels, outermost first, with activation checkpointing.
    """
    products_s = flops_per_image / (gpu.tflops * 1e12)
    layers = sum(layers_at(recipe.model, index) for index in range(len(recipe.model.levels)))
    slow_s, fast_s = (layers * layer_s / images for layer_s in LAUNCHES_S)
    memory_s = traffic_bytes(recipe, checkpointed) / (gpu.memory_tb_per_s * 1e12)
    return Roofline(products_s, memory_s, (slow_s, fast_s))
