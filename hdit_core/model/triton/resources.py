"""GPU resources of a compiled kernel, read from its machine code; neither step needs a GPU."""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from hdit_core.model.triton import kernels
from hdit_core.model.triton.configuration import Configuration, Kernel
from hdit_core.model.triton.launch import Launch

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
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
