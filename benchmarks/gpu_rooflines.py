"""Computes what two optimizations for GPUs could save at most, without a GPU.

    python benchmarks/gpu_rooflines.py copies      a stream of its own for the copies of batches
    python benchmarks/gpu_rooflines.py fusion      kernels of our own for what is between matrix products

Both compare bytes with rates, and with the time of a step that `hdit plan` expects. `fusion` counts the bytes that
torch moves operation by operation, those of the Triton kernels that Inductor makes of the same code (it decides this
without a GPU), and those that a kernel has to move at least: each large tensor once. Caches are not considered.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._inductor import config
from torch._inductor.graph import GraphLowering
from torch.fx import Interpreter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from hdit_core.model.attention.qk_norm_rope import cosine_qk_norm_rope
from hdit_core.model.geglu import geglu
from hdit_core.model.norm import ScaledRMSNorm
from hdit_core.plan.gpu_specs import find_gpu
from hdit_core.plan.plan import training_flops
from hdit_core.plan.roofline import roofline
from hdit_core.recipe.model import ModelRecipe
from hdit_core.recipe.read import read_recipe

RECIPES = ("ffhq1024", "imagenet256")
LINKS_GB_PER_S = {"a100": 25, "h100": 50}  # assumed for page-locked memory: 80 % of PCIe 4.0 and 5.0, 16 lanes
GPU, MEMORY_TB_PER_S = "h100", 3.0
IMAGES, GRID = 8, 16  # of the count: fewer tokens than in ffhq1024, whose outermost level has these widths
WIDTH, HEAD_DIM, HIDDEN = 128, 64, 384
VALUE_BYTES = 2  # of the features, in bfloat16

Tensors = tuple[Tensor, ...]


def step_ms(name: str, gpu: str) -> tuple[float, float]:
    """Return the shortest and the longest time per image that `hdit plan` expects of training on a GPU."""
    recipe = read_recipe(name)
    slow, fast = roofline(recipe, find_gpu(gpu), training_flops(recipe), recipe.train.batch_size).images_per_s
    return 1e3 / fast, 1e3 / slow


# --- copies ----------------------------------------------------------------------------------------------------------


def batch_bytes(name: str) -> int:
    """Return the bytes of a batch per image: images and noise, both float32."""
    model = read_recipe(name).model
    height, width = model.image_size
    return 2 * model.channels * height * width * 4


def copies() -> Iterator[str]:
    """Yield the table of copies."""
    line = "{:<12} {:<5} {:>9} {:>5} {:>9} {:>17} {:>17}"
    yield line.format("recipe", "GPU", "MB/image", "GB/s", "copy, ms", "training, ms", "share of copies")
    for name in RECIPES:
        for gpu, rate in LINKS_GB_PER_S.items():
            copy_ms, (short, long) = batch_bytes(name) / rate / 1e6, step_ms(name, gpu)
            shares = f"{copy_ms / long:.1%} to {copy_ms / short:.1%}"
            times = f"{short:.1f} to {long:.1f}"
            yield line.format(name, gpu, f"{batch_bytes(name) / 1e6:.1f}", rate, f"{copy_ms:.3f}", times, shares)


# --- fusion ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A part of a layer between matrix products.

    Attributes:
        function: computes it.
        shapes: of its inputs.
        features: per token, in which bytes are counted.
        least: tensors of that many features that have to be moved, forward and backward.
        per_layer: how often a layer has it.
    """

    name: str
    function: Callable[..., Tensor | Tensors]
    shapes: tuple[tuple[int, ...], ...]
    features: int
    least: tuple[int, int]
    per_layer: int


def residual_norm(branch: Tensor, x: Tensor, scale: Tensor) -> Tensors:
    """Return the sum of a residual branch and its input, normalized, and the sum itself for the next residual."""
    return ScaledRMSNorm.apply(branch + x, scale)


def similarity(qkv: Tensor, scale: Tensor, cos: Tensor, sin: Tensor) -> Tensors:
    """Return normalized and rotated queries and keys."""
    return cosine_qk_norm_rope(qkv, scale, (cos.detach().float(), sin.detach().float()))[:2]


HEADS, TOKENS = WIDTH // HEAD_DIM, (IMAGES, GRID, GRID)
PARTS = (
    Part(
        "residual, AdaRMSNorm",
        residual_norm,
        ((*TOKENS, WIDTH), (*TOKENS, WIDTH), (IMAGES, 1, 1, WIDTH)),
        WIDTH,
        (4, 4),
        2,
    ),
    Part(
        "similarity, rotation",
        similarity,
        (
            (*TOKENS, 3, HEADS, HEAD_DIM),
            (HEADS,),
            (GRID, GRID, HEADS, HEAD_DIM),
            (GRID, GRID, HEADS, HEAD_DIM // 4),
        ),
        WIDTH,
        (4, 7),  # backward: gradients of queries and keys, both, and the gradient of `qkv`
        1,
    ),
    Part("gate", geglu, ((*TOKENS, 2 * HIDDEN),), HIDDEN, (3, 5), 1),
)


class Traffic(TorchDispatchMode):
    """Adds up the bytes of the tensors that operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        results = function(*arguments, **(keywords or {}))
        read = [leaf for leaf in tree_iter((arguments, keywords)) if isinstance(leaf, Tensor)]
        written = [leaf for leaf in tree_iter(results) if isinstance(leaf, Tensor)]
        if not is_view(function) and "empty" not in str(function):
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in (*read, *written))
        return results


def is_view(function: Any) -> bool:
    """Return whether an operation returns a part of its input, without a copy."""
    aliases = [value.alias_info for value in function._schema.returns if value.alias_info is not None]
    return bool(aliases) and not any(alias.is_write for alias in aliases)


def inputs_of(part: Part, device: str) -> Tensors:
    """Return the inputs of a part."""
    return tuple(torch.rand(shape, dtype=torch.bfloat16, device=device, requires_grad=True) for shape in part.shapes)


def outputs_of(results: Tensor | Tensors) -> Tensors:
    """Return the results of a part as a tuple."""
    return (results,) if isinstance(results, Tensor) else results


def eager_bytes(part: Part) -> tuple[int, int]:
    """Return the bytes that torch moves forward and backward, operation by operation."""
    inputs = inputs_of(part, "meta")
    with Traffic() as forward:
        results = outputs_of(part.function(*inputs))
    grads = [torch.empty_like(result) for result in results]
    with Traffic() as backward:
        torch.autograd.grad(results, inputs, grads, allow_unused=True)
    return forward.bytes, backward.bytes


def compiled_bytes(part: Part) -> tuple[int, int]:
    """Return the bytes that Inductor's Triton kernels move forward and backward, by its own count."""
    counts = []

    def counted(graph: GraphLowering) -> Any:
        graph.init_wrapper_code()
        graph._update_scheduler()  # decides which operations become one kernel
        counts.append(graph.count_bytes()[0])
        return SimpleNamespace(call=lambda inputs: Interpreter(graph.orig_gm).run(*inputs), __file__="not compiled")

    torch._dynamo.reset()
    with (
        config.patch(cpu_backend="triton", force_disable_caches=True),
        mock.patch.object(GraphLowering, "compile_to_module", counted),
    ):
        inputs = inputs_of(part, "cpu")
        results = outputs_of(torch.compile(part.function, fullgraph=True)(*inputs))
        torch.autograd.grad(results, inputs, [torch.ones_like(result) for result in results], allow_unused=True)
    forward, backward = counts
    return forward, backward


def features_per_image(model: ModelRecipe, part: Part) -> int:
    """Return the features of a part for one image, of all tokens of all layers."""
    total = 0
    for number, level in enumerate(model.levels):
        height, width = model.grid(number)
        layers = level.depth * (1 if number == len(model.levels) - 1 else 2)
        features = level.hidden if part.function is geglu else level.width
        total += layers * part.per_layer * height * width * features
    return total


def fusion() -> Iterator[str]:
    """Yield the tables of memory traffic."""
    line = "{:<21} {:<9} {:>6} {:>9} {:>6} {:>17}"
    yield f"bytes per token and feature in bfloat16; {IMAGES} images, width {WIDTH}, hidden {HIDDEN}"
    yield line.format("part", "direction", "eager", "Inductor", "least", "Inductor / least")
    totals, model = [0.0, 0.0, 0.0], read_recipe("ffhq1024").model
    for part in PARTS:
        unit, features = IMAGES * GRID**2 * part.features, features_per_image(model, part)
        for direction, eager, compiled, least in zip(
            ("forward", "backward"), eager_bytes(part), compiled_bytes(part), part.least, strict=True
        ):
            counts = eager / unit, compiled / unit, float(least * VALUE_BYTES)
            totals = [moved + value * features for moved, value in zip(totals, counts, strict=True)]
            shown = [f"{value:.1f}" for value in counts]
            yield line.format(part.name, direction, *shown, f"{counts[1] / counts[2]:.2f}")
    eager_ms, compiled_ms, least_ms = (total / MEMORY_TB_PER_S / 1e9 for total in totals)
    short, long = step_ms("ffhq1024", GPU)
    saved_ms = compiled_ms - least_ms
    times = f"{eager_ms:.2f}, {compiled_ms:.2f} and {least_ms:.2f} ms"
    yield f"ffhq1024, all layers, one image at {MEMORY_TB_PER_S} TB/s: {times}"
    yield (
        f"saved by the least: {saved_ms:.2f} ms of {short:.1f} to {long:.1f} ms of training on {GPU}, "
        f"{saved_ms / long:.1%} to {saved_ms / short:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["copies", "fusion"])
    print(*{"copies": copies, "fusion": fusion}[parser.parse_args().what](), sep="\n")


if __name__ == "__main__":
    main()
