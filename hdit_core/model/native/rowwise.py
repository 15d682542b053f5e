"""Python bindings of the fused row-wise kernels (`rows.cpp`), for float32 tensors on a CPU.

They replace the same formulas in PyTorch (`norm.py`, `qk_norm_rope.py`, `geglu.py`), which read and write every number
several times: between matrix products a CPU is memory-bound.
"""

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import lru_cache

import torch
from torch import Tensor, nn

from hdit_core.files import cache_folder
from hdit_core.model.native.compiler import CompileError, library_path
from hdit_core.model.native.ctypes_bindings import View, find_gemm, view

FLAGS = ("-O3", "-fopenmp", "-fno-trapping-math")  # OpenMP: the kernels share torch's thread pool
ARGUMENTS = {
    "hdit_geglu": [c_void_p] * 2 + [c_int64] * 2 + [c_int],
    "hdit_geglu_gradient": [c_void_p] * 3 + [c_int64] * 2 + [c_int],
    "hdit_norm": [c_void_p] * 4 + [c_int64] * 3 + [c_float, c_int],
    "hdit_norm_gradient": [c_void_p] * 7 + [c_int64] * 3 + [c_int],
    "hdit_feed_forward": [c_void_p] * 8 + [c_float, c_int],
    "hdit_feed_forward_gradient": [c_void_p] * 12 + [c_float, c_int],
    "hdit_windows": [c_void_p] * 9 + [c_int],
    "hdit_windows_gradient": [c_void_p] * 14 + [c_int],
    "hdit_qk_norm_rope": [c_void_p] * 7 + [c_float, c_int],
    "hdit_qk_norm_rope_gradient": [c_void_p] * 9 + [c_int],
}


Argument = Tensor | ctypes.Structure | ctypes.Array[View] | int | float | None


class Heads(ctypes.Structure):
    """The sizes of queries, keys and values."""

    _fields_ = tuple((name, c_int64) for name in ("images", "rows", "columns", "heads", "features"))


class RowwiseKernels:
    """The functions of the compiled library. All tensors are contiguous, except the gradients of `qk_norm_rope`."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        self._functions = {name: getattr(library, name) for name in ARGUMENTS}
        for name, function in self._functions.items():
            function.argtypes, function.restype = ARGUMENTS[name], None

    def geglu(self, x: Tensor) -> Tensor:
        """Return values times the GELU of gates; x is their concatenation along the features."""
        features = x.shape[-1] // 2
        result = x.new_empty(*x.shape[:-1], features)
        self.run("hdit_geglu", x, result, _rows(x), features)
        return result

    def geglu_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Return the gradient of x; `grad` is that of the output of `geglu`."""
        result = torch.empty_like(x)
        self.run("hdit_geglu_gradient", grad, x, result, _rows(x), x.shape[-1] // 2)
        return result

    def norm(self, x: Tensor, scale: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Return x / RMS(x) * scale, with one scale for all rows or one per image, and 1 / RMS(x)."""
        result, inverse, width = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1), x.shape[-1]
        images = scale.numel() // width
        self.run("hdit_norm", x, scale, result, inverse, images, _rows(x) // images, width, epsilon)
        return result, inverse

    def norm_gradient(
        self, grad: Tensor, residual: Tensor | None, x: Tensor, scale: Tensor, inverse: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of x, to which that of the residual connection is added, and of the scale."""
        grad_x, grad_scale, width = torch.empty_like(x), torch.empty_like(scale), x.shape[-1]
        images = scale.numel() // width
        tensors = (grad, residual, x, scale, inverse, grad_x, grad_scale)
        self.run("hdit_norm_gradient", *tensors, images, _rows(x) // images, width)
        return grad_x, grad_scale

    def qk_norm_rope(
        self, qkv: Tensor, root: Tensor, cos: Tensor, sin: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Return the normalized and rotated queries and keys `[B, H, W, 2, N, D]`, and their inverse lengths."""
        both = torch.empty_like(qkv[:, :, :, :2], memory_format=torch.contiguous_format)
        inverse = qkv.new_empty(*both.shape[:-1], 1)
        self.run("hdit_qk_norm_rope", _heads(qkv), qkv, root, cos, sin, both, inverse, epsilon)
        return both, inverse

    def qk_norm_rope_gradient(
        self,
        grads: tuple[Tensor, Tensor, Tensor],
        qkv: Tensor,
        root: Tensor,
        cos: Tensor,
        sin: Tensor,
        inverse: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient of qkv, and the gradient of `root` times `root`.

        Args:
            grads: of queries, keys and values `[B, H, W, N, D]`; views with contiguous features.
            qkv: input of `qk_norm_rope`.
            root: square root of each head's logit scale.
            cos, sin: of the rotation.
            inverse: inverse lengths from `qk_norm_rope`.
        """
        grad_qkv, grad_root = torch.empty_like(qkv), torch.empty_like(root)
        views = (View * 3)(*(view(grad) for grad in grads))
        tensors = (qkv, root, cos, sin, inverse, grad_qkv, grad_root)
        self.run("hdit_qk_norm_rope_gradient", _heads(qkv), views, *tensors)
        return grad_qkv, grad_root

    def run(self, name: str, *arguments: Argument, threads: int | None = None) -> None:
        """Call a function of the library; by default with as many threads as torch uses."""
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
    """Return the library, compiled if necessary, or the reason why it is unavailable."""
    try:
        return RowwiseKernels(str(library_path("float", cache_folder() / "native", "rows.cpp", FLAGS)))
    except (CompileError, OSError) as problem:
        return str(problem)


def kernels_note(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return a line for the log: whether the kernels are used, or why not. None for other devices and dtypes."""
    if device.type != "cpu" or dtype != torch.float32:
        return None
    library = load_rowwise_kernels()
    if isinstance(library, str):
        return f"fused CPU kernels: none, using PyTorch: {library}"
    blocks = ", narrow blocks" if find_gemm() is not None else "; no fused blocks: this torch build has no MKL"
    return f"fused CPU kernels: norm, RoPE, GEGLU{blocks}"


def rowwise_kernels(*tensors: Tensor) -> RowwiseKernels | None:
    """Return the library, or None if it does not support these tensors or torch.compile is tracing.

    Supported are plain float32 tensors on a CPU.
    """
    if torch.compiler.is_compiling() or not all(map(_fits, tensors)):
        return None
    library = load_rowwise_kernels()
    return library if isinstance(library, RowwiseKernels) else None


def _fits(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter)
