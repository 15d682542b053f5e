"""The compiled passes over rows (`rows.cpp`) seen from Python: for float32 tensors on a CPU, or not at all.

They stand in for the same formulas in PyTorch (`norm.py`, `similarity.py`, `gate.py`), which read and write every
number several times over: between matrix products a CPU waits for its memory, not for its arithmetic.
"""

import ctypes
import os
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import lru_cache

import torch
from torch import Tensor, nn

from hdit_core.files import cache_folder
from hdit_core.model.native.compiler import CompileError, library_path
from hdit_core.model.native.library import View, find_gemm, view

FLAGS = ("-O3", "-fopenmp", "-fno-trapping-math")  # OpenMP: its threads are those of torch, which are awake
ARGUMENTS = {
    "hdit_gated": [c_void_p] * 2 + [c_int64] * 2 + [c_int],
    "hdit_gated_gradient": [c_void_p] * 3 + [c_int64] * 2 + [c_int],
    "hdit_norm": [c_void_p] * 4 + [c_int64] * 3 + [c_float, c_int],
    "hdit_norm_gradient": [c_void_p] * 7 + [c_int64] * 3 + [c_int],
    "hdit_feed_forward": [c_void_p] * 8 + [c_float, c_int],
    "hdit_feed_forward_gradient": [c_void_p] * 12 + [c_float, c_int],
    "hdit_windows": [c_void_p] * 9 + [c_int],
    "hdit_windows_gradient": [c_void_p] * 14 + [c_int],
    "hdit_similarity": [c_void_p] * 7 + [c_float, c_int],
    "hdit_similarity_gradient": [c_void_p] * 9 + [c_int],
}


Argument = Tensor | ctypes.Structure | ctypes.Array[View] | int | float | None


class Heads(ctypes.Structure):
    """The sizes of queries, keys and values."""

    _fields_ = tuple((name, c_int64) for name in ("images", "rows", "columns", "heads", "features"))


class RowwiseKernels:
    """The functions of the compiled library; all tensors are contiguous but the gradients of `similarity`."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        self._functions = {name: getattr(library, name) for name in ARGUMENTS}
        for name, function in self._functions.items():
            function.argtypes, function.restype = ARGUMENTS[name], None

    def geglu(self, x: Tensor) -> Tensor:
        """Return values times the GELU of gates; x holds the ones before the others."""
        features = x.shape[-1] // 2
        result = x.new_empty(*x.shape[:-1], features)
        self.run("hdit_gated", x, result, _rows(x), features)
        return result

    def geglu_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Return the gradient of x."""
        result = torch.empty_like(x)
        self.run("hdit_gated_gradient", grad, x, result, _rows(x), x.shape[-1] // 2)
        return result

    def norm(self, x: Tensor, scale: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Return x over its root mean square times the scale, one for all rows or one an image, and the inverses."""
        result, inverse, width = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1), x.shape[-1]
        images = scale.numel() // width
        self.run("hdit_norm", x, scale, result, inverse, images, _rows(x) // images, width, epsilon)
        return result, inverse

    def norm_gradient(
        self, grad: Tensor, beside: Tensor | None, x: Tensor, scale: Tensor, inverse: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of x, to which `beside` is added, and of the scale."""
        grad_x, grad_scale, width = torch.empty_like(x), torch.empty_like(scale), x.shape[-1]
        images = scale.numel() // width
        tensors = (grad, beside, x, scale, inverse, grad_x, grad_scale)
        self.run("hdit_norm_gradient", *tensors, images, _rows(x) // images, width)
        return grad_x, grad_scale

    def similarity(self, qkv: Tensor, root: Tensor, cos: Tensor, sin: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Return queries and keys `[B, H, W, 2, N, D]` at their lengths and turned, and their inverse lengths."""
        both = torch.empty_like(qkv[:, :, :, :2], memory_format=torch.contiguous_format)
        inverse = qkv.new_empty(*both.shape[:-1], 1)
        self.run("hdit_similarity", _heads(qkv), qkv, root, cos, sin, both, inverse, epsilon)
        return both, inverse

    def similarity_gradient(
        self,
        grads: tuple[Tensor, Tensor, Tensor],
        qkv: Tensor,
        root: Tensor,
        cos: Tensor,
        sin: Tensor,
        inverse: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of qkv and of the root of the scale, times that root.

        Args:
            grads: of queries, keys and values `[B, H, W, N, D]`; views whose features lie side by side.
        """
        grad_qkv, grad_root = torch.empty_like(qkv), torch.empty_like(root)
        views = (View * 3)(*(view(grad) for grad in grads))
        tensors = (qkv, root, cos, sin, inverse, grad_qkv, grad_root)
        self.run("hdit_similarity_gradient", _heads(qkv), views, *tensors)
        return grad_qkv, grad_root

    def run(self, name: str, *arguments: Argument, threads: int | None = None) -> None:
        """Call a function of the library with these arguments and so many threads; by default as many as torch has."""
        plain = (x.data_ptr() if isinstance(x, Tensor) else _pointer(x) for x in arguments)
        self._functions[name](*plain, threads or torch.get_num_threads())


def _pointer(x: ctypes.Structure | ctypes.Array[View] | int | float | None) -> int | float | None:
    return ctypes.addressof(x) if isinstance(x, ctypes.Structure | ctypes.Array) else x


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _heads(qkv: Tensor) -> Heads:
    images, rows, columns, _, heads, features = qkv.shape
    return Heads(images, rows, columns, heads, features)


@lru_cache(maxsize=1)
def load_rowwise_kernels() -> RowwiseKernels | str:
    """Return the library, compiled when need be, or the reason why there is none."""
    if os.name != "posix":
        return f"it is compiled on POSIX systems only, and this is {os.name}"
    try:
        return RowwiseKernels(str(library_path("float", cache_folder() / "native", "rows.cpp", FLAGS)))
    except (CompileError, OSError) as problem:
        return str(problem)


def kernels_note(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return what a run says of these passes: that it has them, or why not; None where they are not meant for it."""
    if device.type != "cpu" or dtype != torch.float32:
        return None
    found = load_rowwise_kernels()
    if isinstance(found, str):
        return f"norms, rotary positions and gated units: PyTorch (CPU): {found}"
    blocks = "narrow blocks in one pass" if find_gemm() is not None else "no block in one pass: torch has no MKL here"
    return f"norms, rotary positions and gated units: native C++ (CPU), {blocks}"


def rowwise_kernels(*tensors: Tensor) -> RowwiseKernels | None:
    """Return the library if it can take these tensors: plain ones of float32 on a CPU, and no graph being traced."""
    if torch.compiler.is_compiling() or not all(map(_fits, tensors)):
        return None
    found = load_rowwise_kernels()
    return found if isinstance(found, RowwiseKernels) else None


def _fits(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter)
