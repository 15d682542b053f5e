"""Python bindings of the neighborhood attention kernels, and the matrix product of torch's CPU library.

Fused kernels call the same matrix product as torch, so their results are bit-identical to torch's.
"""

import ctypes
from collections.abc import Callable
from ctypes import c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hdit_core.files import cache_folder
from hdit_core.model.native.compiler import CompileError, library_path

LIBRARY = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"


class Gemm(ctypes.Structure):
    """Addresses of two MKL functions: the matrix product, and the setter of the calling thread's thread limit."""

    _fields_ = (("sgemm", c_void_p), ("limit", c_void_p))


@lru_cache(maxsize=1)
def find_gemm() -> Gemm | None:
    """Return the addresses of the MKL functions, or None if torch uses another library."""
    if not torch.backends.mkl.is_available():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        return Gemm(
            *(ctypes.cast(getattr(library, name), c_void_p) for name in ("sgemm_", "MKL_Set_Num_Threads_Local"))
        )
    except (OSError, AttributeError):
        return None


NAMES = {torch.float32: "float", torch.float64: "double"}


class View(ctypes.Structure):
    """A tensor [B, H, W, N, D] with contiguous features; strides in elements."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "row", "column", "head")))


class Shape(ctypes.Structure):
    """The sizes of an attention call."""

    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("batch", "height", "width", "heads", "features", "kernel_size")
    )


def view(x: Tensor) -> View:
    """Return the address and strides of a tensor [B, H, W, N, D]."""
    batch, row, column, head, _ = x.stride()
    return View(x.data_ptr(), batch, row, column, head)


class Library:
    """The functions of a compiled attention library.

    Attributes:
        lanes: number of adjacent queries in the layout of the weights that are saved for the backward pass.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self.lanes = int(self._library.hdit_lanes())

    def forward(self, inputs: list[Tensor], kernel_size: int, out: Tensor, weights: Tensor | None) -> None:
        """Write the output, and the attention weights unless that argument is None; `inputs` are q, k and v."""
        saved = ctypes.c_void_p(None if weights is None else weights.data_ptr())
        self._run("hdit_forward", inputs[0], kernel_size, [view(x) for x in (*inputs, out)], saved)

    def backward(
        self, inputs: list[Tensor], weights: Tensor, grad_logits: Tensor, kernel_size: int, grads: list[Tensor]
    ) -> None:
        """Write the gradients of q, k and v to `grads`; `inputs` are q, k, v and the gradient of the output."""
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in (weights, grad_logits)]
        views = (View * 3)(*(view(x) for x in grads))
        self._run("hdit_backward", inputs[0], kernel_size, [view(x) for x in inputs], *pointers, ctypes.byref(views))

    def _run(self, name: str, q: Tensor, kernel_size: int, views: list[View], *more: object) -> None:
        shape = Shape(*q.shape, kernel_size)
        pointers = [ctypes.byref(x) for x in (shape, *views)]
        if getattr(self._library, name)(*pointers, *more, torch.get_num_threads()) != 0:
            threads = torch.get_num_threads()
            raise MemoryError(f"neighborhood attention: out of memory for the temporary buffers of {threads} threads")


@lru_cache(maxsize=len(NAMES))
def load(dtype: torch.dtype) -> Library | str:
    """Return the library for float32 or float64, compiled if necessary, or the reason why it is unavailable."""
    try:
        return Library(str(library_path(NAMES[dtype], cache_folder() / "native")))
    except (CompileError, OSError) as problem:
        return str(problem)


def cpu_operator(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that registers a function as a custom operator for CPUs; annotations define its schema.

    `torch.library.custom_op` does the same, but its first call imports torch's compiler, which takes a second that
    sampling on a CPU does not need to spend.
    """

    def define(function: Callable[..., Any]) -> Callable[..., Any]:
        torch.library.define(name, torch.library.infer_schema(function, mutates_args=()))
        torch.library.impl(name, "cpu", function)
        return function

    return define
