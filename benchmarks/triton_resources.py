"""Compiles the Triton kernels for GPUs that need not be there, and prints what each configuration takes of them.

    python benchmarks/triton_resources.py
    python benchmarks/triton_resources.py --dtypes bfloat16 float32 --head-dims 16 32 64 128 --json

The times are arithmetic, and the larger one is a lower bound: all products that tiles compute, those that are masked
too, and each tensor read or written once, at the rates of `RATES`, for one image. No kernel has been timed.
"""

import argparse
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from hdit_core.model.triton.configuration import KERNELS, Configuration, configurations
from hdit_core.model.triton.launch import Launch
from hdit_core.model.triton.resources import example, resources

PRODUCTS = {"forward": 2, "backward_queries": 3, "backward_keys": 4}
TENSORS = {"forward": 4, "backward_queries": 6, "backward_keys": 6}  # as large as the queries, read or written
RATES = {  # compute capability: TFLOP/s of 16-bit and of float32 products, TB/s; about half of the data sheets' peaks
    80: (150, 10, 1.5),
    90: (400, 30, 3.0),
    100: (1000, 40, 6.0),
}


def predicted_ms(launch: Launch, configuration: Configuration, capability: int) -> tuple[float, float]:
    """Return the milliseconds of products and of memory traffic."""
    narrow, wide, memory = RATES[capability]
    q = launch.tensors[0]
    flops = PRODUCTS[launch.kernel] * 2 * q.numel() * configuration.tokens_read(launch.kernel_size)
    rate = wide if q.dtype == torch.float32 else narrow
    return flops / rate / 1e9, TENSORS[launch.kernel] * q.numel() * q.itemsize / memory / 1e9


def launches(arguments: argparse.Namespace) -> Iterator[Launch]:
    """Yield every kernel for every dtype and number of features."""
    grid, heads, kernel_size = tuple(arguments.grid), arguments.heads, arguments.kernel_size
    for dtype, head_dim in itertools.product(arguments.dtypes, arguments.head_dims):
        for kernel in KERNELS:
            yield example(kernel, getattr(torch, dtype), head_dim, kernel_size, grid, heads)


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what every configuration takes, one row a compute capability."""
    for launch in launches(arguments):
        q = launch.tensors[0]
        candidates = configurations(launch.kernel, q.dtype, q.shape[-1])
        for configuration, capability in itertools.product(candidates, arguments.capabilities):
            products_ms, memory_ms = predicted_ms(launch, configuration, capability)
            yield {
                "dtype": str(q.dtype).removeprefix("torch."),
                "head_dim": q.shape[-1],
                "kernel": launch.kernel,
                "configuration": str(configuration),
                "capability": capability,
                **asdict(resources(launch, configuration, capability)),
                "products_ms": products_ms,
                "memory_ms": memory_ms,
            }


def table(found: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the rows as lines of text."""
    line = "{:<14}{:<17}{:<28}{:>5}{:>12}{:>11}{:>9}  {:<12}{:>13}{:>11}"
    yield line.format("dtype, D", "kernel", "tile/chunk", "cc", "shared, KiB", "registers", "spilled", "matrix",
                      "products, ms", "memory, ms")  # fmt: skip
    for row in found:
        yield line.format(
            f"{row['dtype']}, {row['head_dim']}",
            row["kernel"],
            row["configuration"],
            f"{row['capability'] / 10:.1f}",
            f"{row['shared_bytes'] / 1024:.1f}",
            row["registers"],
            row["spilled_bytes"],
            ", ".join(f"{count} {name}" for name, count in row["matrix_instructions"].items()) or "none",
            f"{row['products_ms']:.3f}",
            f"{row['memory_ms']:.3f}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Resources of the Triton kernels, compiled without a GPU.")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16"])
    parser.add_argument("--head-dims", nargs="+", type=int, default=[64])
    parser.add_argument("--capabilities", nargs="+", type=int, default=list(RATES))
    parser.add_argument("--grid", nargs=2, type=int, default=[256, 256], help="rows and columns of tokens")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--kernel-size", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = list(rows(arguments))
    print(json.dumps(found, indent=1) if arguments.json else "\n".join(table(found)))


if __name__ == "__main__":
    main()
