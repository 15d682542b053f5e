"""Compares attention backends, the network and the compiled network on a device with float64 on the CPU.

Prints one row a comparison, with the largest error as a share of the largest number. Fails if one is above its limit.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args
from unittest import mock

import torch
from torch import Tensor

from hdit_core.devices import autocast, disable_tf32
from hdit_core.model.attention.interface import AttentionFn, KernelTarget
from hdit_core.model.attention.neighborhood_backends import BACKENDS
from hdit_core.model.attention.tiled_pytorch import attend as exact
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.model.triton.configuration import Kernel, configurations
from hdit_core.recipe.read import read_recipe

# batch, rows, columns, heads, features, kernel size
SHAPES = {
    "ffhq1024, level 1": (1, 256, 256, 2, 64, 7),
    "ffhq1024, level 2": (1, 128, 128, 4, 64, 7),
    "imagenet256, level 1": (2, 64, 64, 6, 64, 7),
    "not square, odd": (2, 61, 83, 3, 64, 9),
    "minimal": (2, 13, 13, 1, 32, 13),
    "wide heads": (1, 40, 24, 2, 128, 5),
}
EVERY_CONFIGURATION = "imagenet256, level 1"
FLEX_SHAPES = {name: SHAPES[name] for name in (EVERY_CONFIGURATION, "ffhq1024, level 2")}  # each takes a compilation
TINY = {"tiny": (2, 9, 14, 1, 16, 5)}
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
NAMES = ("output", "gradient of q", "gradient of k", "gradient of v")
NETWORK_LIMITS = {
    "eager": {"float32": 1e-3, "bfloat16": 0.1},
    "compiled": {"bfloat16, compiled": 0.1},
}


def error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest number expected."""
    expected = expected.double().cpu()
    return ((found.double().cpu() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


def with_gradients(attend: AttentionFn, tensors: list[Tensor], kernel_size: int) -> list[Tensor]:
    """Return the output and the gradients of q, k and v."""
    q, k, v = (x.detach().requires_grad_() for x in tensors[:3])
    out = attend(q, k, v, kernel_size)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), tensors[3])]


def attention_rows(
    device: torch.device, shapes: dict[str, tuple[int, ...]], backends: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each shape, dtype and backend, and for each configuration that the autotuner may select."""
    for name, (*shape, kernel_size) in shapes.items():
        for dtype, limit in LIMITS.items():
            generator = torch.Generator().manual_seed(0)
            tensors = [torch.randn(shape, generator=generator).to(dtype) for _ in range(4)]
            tensors[0], tensors[1] = tensors[0] / 2, tensors[1] / 2
            expected = with_gradients(exact, [x.double() for x in tensors], kernel_size)
            for backend in backends:
                missing = BACKENDS[backend].missing(KernelTarget(device, dtype, shape[-1]))
                row = {"what": "attention", "shape": name, "dtype": str(dtype), "backend": backend, "limit": limit}
                errors = partial(_errors, BACKENDS[backend].attend, tensors, expected, device, kernel_size)
                yield row | ({"skipped": missing} if missing else measured(errors))
                if backend == "triton" and not missing and name == EVERY_CONFIGURATION:
                    yield from configuration_rows(row, errors, dtype, shape[-1])


def configuration_rows(
    row: dict[str, Any], errors: Callable[[], dict[str, float]], dtype: torch.dtype, head_dim: int
) -> Iterator[dict[str, Any]]:
    """Yield rows that together use every configuration of each kernel."""
    each = {kernel: configurations(kernel, dtype, head_dim) for kernel in get_args(Kernel)}
    for index in range(max(map(len, each.values()))):
        chosen = {kernel: candidates[index % len(candidates)] for kernel, candidates in each.items()}
        with mock.patch("hdit_core.model.triton.attention.select", lambda launch, of=chosen: of[launch.kernel]):
            yield (
                row | {"configurations": {kernel: str(choice) for kernel, choice in chosen.items()}} | measured(errors)
            )


def _errors(
    attend: AttentionFn, tensors: list[Tensor], expected: list[Tensor], device: torch.device, kernel_size: int
) -> dict[str, float]:
    found = with_gradients(attend, [x.to(device) for x in tensors], kernel_size)
    return {name: error(ours, theirs) for name, ours, theirs in zip(NAMES, found, expected, strict=True)}


def network_rows(device: torch.device, recipe: str, compiler: str, which: str) -> Iterator[dict[str, Any]]:
    """Yield how far the network's output and gradients are from float64's.

    Args:
        compiler: of the compiled network.
        which: "eager", in float32 and bfloat16, or "compiled", in bfloat16.
    """
    model = read_recipe(recipe, ["model.attention_backend=auto"]).model
    network = HourglassTransformer(model).eval()
    initialize(network, seed=0)
    for parameter in network.parameters():
        if not parameter.any():  # what begins as zero would hide the rest
            torch.nn.init.normal_(parameter, std=0.02)
    state = network.state_dict()
    images, sigma = torch.randn(1, model.channels, *model.image_size), torch.tensor([0.5])
    classes = torch.tensor([1]) if model.num_classes else None

    def passes(dtype: torch.dtype, place: torch.device, compiled: bool = False) -> list[Tensor]:
        here = HourglassTransformer(model).eval().to(place, torch.float64 if dtype == torch.float64 else torch.float32)
        here.load_state_dict(state)
        if compiled:
            here.compile_layers(dynamic=False, backend=compiler)
        inputs = [x.to(place, next(here.parameters()).dtype) for x in (images, sigma)]
        with autocast(place, dtype):
            out = here(*inputs, None if classes is None else classes.to(place))
        out.float().square().mean().backward()
        gradients = torch.cat([p.grad.flatten().double().cpu() for p in here.parameters() if p.grad is not None])
        return [out.detach(), gradients]

    expected = passes(torch.float64, torch.device("cpu"))
    for name, limit in NETWORK_LIMITS[which].items():
        dtype = torch.float32 if name == "float32" else torch.bfloat16
        row = {"what": "network", "recipe": recipe, "dtype": name, "limit": limit}
        yield row | measured(partial(_distances, partial(passes, dtype, device, "compiled" in name), expected))


def _distances(passes: Callable[[], list[Tensor]], expected: list[Tensor]) -> dict[str, float]:
    pairs = zip(("output", "gradients"), passes(), expected, strict=True)
    return {what: ((ours.double().cpu() - exact).norm() / exact.norm()).item() for what, ours, exact in pairs}


def measured(errors: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """Return the errors and the seconds they took, or what was raised."""
    began_at = time.perf_counter()
    try:
        found: dict[str, Any] = {"errors": errors()}
    except Exception as problem:
        found = {"problem": f"{type(problem).__name__}: {str(problem).strip()[:300]}"}
    return found | {"elapsed_s": time.perf_counter() - began_at}


def is_good(row: dict[str, Any], may_skip: bool) -> bool:
    """Return whether all errors of a row are within the limit, or it was skipped and may be."""
    if "skipped" in row:
        return may_skip
    return "errors" in row and all(value <= row["limit"] for value in row["errors"].values())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--backends", nargs="+", choices=list(BACKENDS), default=[])
    parser.add_argument("--network", choices=list(NETWORK_LIMITS))
    arguments = parser.parse_args()
    device = torch.empty(0, device=arguments.device).device
    disable_tf32()
    torch.use_deterministic_algorithms(True, warn_only=True)  # so that nothing is tuned, which takes time
    if arguments.network:
        recipe, compiler = ("mnist32", "aot_eager") if arguments.rehearse else ("imagenet256", "inductor")
        source = network_rows(device, recipe, compiler, arguments.network)
    else:
        shapes = FLEX_SHAPES if arguments.backends == ["flex"] else SHAPES
        source = attention_rows(device, TINY if arguments.rehearse else shapes, arguments.backends)
    rows = []
    for row in source:
        rows.append(row | {"ok": is_good(row, may_skip=arguments.rehearse)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps(rows))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
