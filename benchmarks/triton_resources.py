"""Compiles the Triton kernels for several GPU generations, without a GPU, and prints each configuration's resources.

    python benchmarks/triton_resources.py
    python benchmarks/triton_resources.py --dtypes bfloat16 float32 --head-dims 16 32 64 128 --json

The times are computed, not measured: all products of the tiles, including masked ones, and each tensor read or written
once, at the rates of `RATES`, for one image. The larger one is a lower bound.
"""

import argparse
import itertools
import json
import math
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import triton
from triton.backends.compiler import GPUTarget

from hdit_core.model.triton import kernels
from hdit_core.model.triton.configuration import Configuration, Kernel, configurations
from hdit_core.model.triton.launch import Launch

PRODUCTS = {"forward": 2, "backward_queries": 3, "backward_keys": 4}
TENSORS = {"forward": 4, "backward_queries": 6, "backward_keys": 6}  # of the queries' size, read or written
RATES = {  # compute capability: TFLOP/s of 16-bit and of float32 products, TB/s; about half of the data sheets' peaks
    80: (150, 10, 1.5),
    90: (400, 30, 3.0),
    100: (1000, 40, 6.0),
}


BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
MATRIX_INSTRUCTIONS = re.compile(r"\b(?:HMMA|HGMMA|UTCHMMA)\b")  # of compute capability 8.0, 9.0 and 10.0


@dataclass(frozen=True)
class Resources:
    """Resources of one program of a kernel.

    Attributes:
        shared_bytes: shared memory.
        registers: per thread, at most 255.
        spilled_bytes: per thread, spilled from registers to memory.
        matrix_instructions: number of tensor core instructions in the machine code, by name.
    """

    shared_bytes: int
    registers: int
    spilled_bytes: int
    matrix_instructions: dict[str, int]


class _Device:
    """A stand-in for Triton's GPU driver, with a given compute capability."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_device(self) -> int:
        return -self._capability  # Triton caches compiled kernels per device number

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)


@contextmanager
def _compiling_for(capability: int) -> Iterator[None]:
    drivers = triton.runtime.driver
    before = getattr(drivers, "_active", None)
    drivers.set_active(_Device(capability))
    try:
        yield
    finally:
        drivers.set_active(before)


def example(
    kernel: Kernel,
    dtype: torch.dtype,
    head_dim: int,
    kernel_size: int,
    grid: tuple[int, int] = (64, 64),
    heads: int = 2,
) -> Launch:
    """Return a launch with meta tensors, as in a network: q, k and v are views of one tensor."""
    q, k, v = torch.empty(1, *grid, 3, heads, head_dim, dtype=dtype, device="meta").unbind(3)
    like = torch.empty(1, *grid, heads, head_dim, dtype=dtype, device="meta")
    each = torch.empty(1, *grid, heads, device="meta")
    more = {
        "forward": (like, each),
        "backward_queries": (like, like, each, each, like),
        "backward_keys": (like, each, each, like, like),
    }[kernel]
    return Launch(kernel, (q, k, v, *more), kernel_size)


def resources(launch: Launch, configuration: Configuration, capability: int) -> Resources:
    """Compile a kernel for a compute capability (80 for 8.0) and return its resources."""
    function: Any = getattr(kernels, launch.kernel)
    with _compiling_for(capability):
        compiled = function.warmup(*launch.arguments, **launch.keywords(configuration), grid=(1,))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (_cuobjdump(option, file.name) for option in ("--dump-resource-usage", "--dump-sass"))
    used = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    instructions = Counter(MATRIX_INSTRUCTIONS.findall(code))
    return Resources(compiled.metadata.shared, used["REG"], used["STACK"] + used["LOCAL"], dict(instructions))


def _cuobjdump(option: str, path: str) -> str:
    command = [str(BINARIES / "cuobjdump"), option, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def tokens_read(configuration: Configuration, kernel_size: int) -> int:
    """Return the number of tokens read for a tile inside the grid, including the excess of edge chunks."""
    chunks = [
        -(-(tile + kernel_size - 1) // chunk)
        for tile, chunk in zip(configuration.tile, configuration.chunk, strict=True)
    ]
    return math.prod(chunks) * math.prod(configuration.chunk)


def predicted_ms(launch: Launch, configuration: Configuration, capability: int) -> tuple[float, float]:
    """Return the milliseconds of products and of memory traffic."""
    narrow, wide, memory = RATES[capability]
    q = launch.tensors[0]
    flops = PRODUCTS[launch.kernel] * 2 * q.numel() * tokens_read(configuration, launch.kernel_size)
    rate = wide if q.dtype == torch.float32 else narrow
    return flops / rate / 1e9, TENSORS[launch.kernel] * q.numel() * q.itemsize / memory / 1e9


def launches(arguments: argparse.Namespace) -> Iterator[Launch]:
    """Yield every kernel for every dtype and number of features."""
    grid, heads, kernel_size = tuple(arguments.grid), arguments.heads, arguments.kernel_size
    for dtype, head_dim in itertools.product(arguments.dtypes, arguments.head_dims):
        for kernel in arguments.kernels:
            yield example(kernel, getattr(torch, dtype), head_dim, kernel_size, grid, heads)


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the resources of every configuration, one row per compute capability."""
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


def table(results: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the rows as lines of text."""
    line = "{:<14}{:<17}{:<28}{:>5}{:>12}{:>11}{:>9}  {:<12}{:>13}{:>11}"
    yield line.format("dtype, D", "kernel", "tile/chunk", "cc", "shared, KiB", "registers", "spilled", "matrix",
                      "products, ms", "memory, ms")  # fmt: skip
    for row in results:
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
    parser.add_argument("--kernels", nargs="+", choices=get_args(Kernel), default=get_args(Kernel))
    parser.add_argument("--capabilities", nargs="+", type=int, default=list(RATES))
    parser.add_argument("--grid", nargs=2, type=int, default=[256, 256], help="rows and columns of tokens")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--kernel-size", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = list(rows(arguments))
    print(json.dumps(results, indent=1) if arguments.json else "\n".join(table(results)))


if __name__ == "__main__":
    main()
