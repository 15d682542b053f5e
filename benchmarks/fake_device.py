"""A CUDA device that is not there: tensors that say they are on it, and checks of every operation on them."""

import os
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map_only

from hdit_core.model.attention import tiled_pytorch

ROOT = Path(__file__).parents[1]
ATEN = torch.ops.aten
COPIES = (ATEN._to_copy.default, ATEN.copy_.default)
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")
TAKES_CPU_INDICES = ("index", "index_put", "index_put_", "_index_put_impl_")


class GpuTensor(Tensor):
    """A tensor that says it is on the device; its numbers are in main memory."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor, device: torch.device) -> "GpuTensor":
        """Wrap the numbers."""
        # without storage
        shell = torch.empty_strided(numbers.size(), numbers.stride(), dtype=numbers.dtype, device="meta")
        keys = {"dispatch_device": True, "device_for_backend_keys": device}
        wrapped: GpuTensor = torch.Tensor._make_subclass(cls, shell, False, **keys)  # type: ignore[assignment]
        wrapped.numbers = numbers
        return wrapped

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        """Hand an operation to the device that is in use."""
        return FakeDevice.current.compute(function, arguments, keywords or {})

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device that the tensor says it is on."""
        return FakeDevice.current.device

    def tolist(self) -> Any:
        """Return the numbers, after waiting for them."""
        return self.cpu().tolist()

    def __deepcopy__(self, memo: Any) -> Tensor:
        """Return a copy of a leaf."""
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        copied = torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied
        memo[id(self)] = copied
        return copied


class FakeDevice(TorchDispatchMode):
    """Checks the operations on a device, and computes them in main memory.

    Attributes:
        mistakes: operations on tensors of two devices, and float64 on the device, by line of hdit.
        waits: what makes the CPU wait for the GPU, by line of hdit.
        operations: number of operations on the device.
    """

    current: "FakeDevice"

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.mistakes, self.waits = device, Counter[str](), Counter[str]()
        self.operations = 0
        FakeDevice.current = self

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        """Check and compute an operation."""
        return self.compute(function, arguments, keywords or {})

    def compute(self, function: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
        """Check and compute an operation."""
        if function is torch.ops.prim.device.default:
            return self.device
        targets = [leaf for leaf in tree_iter((arguments, keywords)) if isinstance(leaf, torch.device)]
        to_device = any(target.type == self.device.type for target in targets)
        tensors = [leaf for leaf in tree_iter((arguments, keywords)) if isinstance(leaf, Tensor)]
        on_device = [tensor for tensor in tensors if isinstance(tensor, GpuTensor)]
        if not on_device and not to_device:
            return function(*arguments, **keywords)
        if torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"):
            with self:
                return function.decompose(*arguments, **keywords)
        self.operations += 1
        self._check(function, tensors, on_device)
        self._note_waits(function, arguments, keywords, to_device, on_device)
        plain = tree_map_only(GpuTensor, lambda tensor: tensor.numbers, (arguments, keywords))
        plain = tree_map_only(torch.device, lambda _: torch.device("cpu"), plain)
        results = substitute(function)(*plain[0], **plain[1])
        leaves_device = function is ATEN._to_copy.default and targets and not to_device
        if leaves_device or (function is ATEN.copy_.default and not isinstance(arguments[0], GpuTensor)):
            return results
        return self._returned(function, arguments, keywords, results)

    def _returned(self, function: Any, arguments: Any, keywords: dict[str, Any], results: Any) -> Any:
        wrapped = tree_map_only(Tensor, lambda numbers: GpuTensor(numbers, self.device), results)
        if any(tensor.dtype == torch.float64 for tensor in tree_iter(wrapped) if isinstance(tensor, Tensor)):
            self.mistakes[f"{here()}: {function} is in float64"] += 1
        return return_and_correct_aliasing(function, arguments, keywords, wrapped)

    def _check(self, function: Any, tensors: list[Tensor], on_device: list[GpuTensor]) -> None:
        """Note an operation whose tensors are on two devices; torch allows single numbers from the CPU."""
        others = [tensor for tensor in tensors if not isinstance(tensor, GpuTensor) and tensor.ndim > 0]
        if on_device and others and function not in COPIES and name_of(function) not in TAKES_CPU_INDICES:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in others)
            self.mistakes[f"{here()}: {function} with tensors of the CPU: {shapes}"] += 1

    def _note_waits(
        self, function: Any, arguments: Any, keywords: dict[str, Any], to_device: bool, on_device: list[GpuTensor]
    ) -> None:
        name = name_of(function)
        crosses = function is ATEN._to_copy.default and "device" in keywords and to_device != bool(on_device)
        crosses = crosses or (function is ATEN.copy_.default and len(on_device) == 1)
        async_copy = keywords.get("non_blocking", False) or (name == "copy_" and len(arguments) > 2 and arguments[2])
        if crosses and not async_copy:
            self.waits[f"{here()}: copy {'to' if to_device else 'from'} the device"] += 1
        elif name in WAITS or (name == "index" and any(is_mask(leaf) for leaf in tree_iter(arguments[1]))):
            self.waits[f"{here()}: {name}"] += 1


def is_mask(leaf: Any) -> bool:
    """Return whether this is a tensor of booleans, whose number of true values torch has to wait for."""
    return isinstance(leaf, Tensor) and leaf.dtype == torch.bool


def name_of(function: Any) -> str:
    """Return the name of an operation without its variant."""
    return str(function.overloadpacket.__name__)


def substitute(function: Any) -> Callable[..., Any]:
    """Return what computes an operation in main memory: the operation, if it has an implementation there."""
    if name_of(function) == "triton_attention":
        return lambda q, k, v, kernel_size: (
            tiled_pytorch.plain(q, k, v, kernel_size)[0],
            q.new_zeros(q.shape[:-1]).float(),
        )
    if name_of(function) == "triton_attention_backward":
        return attention_gradients
    return function  # type: ignore[no-any-return]


def attention_gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    weights = tiled_pytorch.plain(q, k, v, kernel_size)[1]
    return torch.ops.hdit.tiled_attention_backward(grad, q, k, v, weights, kernel_size)  # type: ignore[no-any-return]


def here() -> str:
    """Return the innermost line of hdit or of this file that is running."""
    frames = [frame for frame in traceback.extract_stack() if "hdit_core" in frame.filename]
    if not frames:
        return "benchmark"
    return f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}"


CUDA = {  # answers of a GPU that is not there
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "is_bf16_supported": lambda **_: True,
    "get_device_capability": lambda *_: (9, 0),
    "get_device_name": lambda *_: "a GPU that is not there",
    "is_current_stream_capturing": lambda: False,
    "synchronize": lambda *_: None,
}


@contextmanager
def pretending(device: torch.device) -> Iterator[FakeDevice]:
    """Run the body with a device that is not there."""
    with ExitStack() as stack:
        for name, answer in CUDA.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch("hdit_core.model.attention.triton.self_test", lambda *_: None))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda self: self))
        replaced = partial(mock.patch.object, torch.nn.functional, "scaled_dot_product_attention")
        stack.enter_context(replaced(plain_attention))  # torch's own asks the driver for the GPU's properties
        for name in ("tensor", "as_tensor"):  # which reach no dispatch mode
            stack.enter_context(mock.patch.object(torch, name, copied_after(getattr(torch, name))))
        stack.enter_context(mock.patch.object(torch, "inference_mode", lambda mode=True: nullcontext()))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        yield stack.enter_context(FakeDevice(device))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """Return attention of all tokens to all tokens, by plain products."""
    logits = q @ k.mT * scale
    logits = logits if attn_mask is None else logits.masked_fill(~attn_mask, float("-inf"))
    return logits.softmax(-1).to(v.dtype) @ v


def copied_after(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that makes a tensor on the CPU first, and copies it to the device."""

    def made(data: Any, *, device: Any = None, **keywords: Any) -> Tensor:
        there = device is not None and torch.device(device).type != "cpu" and not isinstance(data, GpuTensor)
        return make(data, **keywords).to(device) if there else make(data, device=device, **keywords)

    return made


DRIVER = """
static __thread int current;
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = current; return 0; }
int cudaSetDevice(int device) { current = device; return 0; }
int cudaGetLastError(void) { return 0; }
int cudaPeekAtLastError(void) { return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuInit(unsigned flags) { return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
"""


def with_driver() -> None:
    """Start this program again with a library that answers as a driver with one GPU, unless it is loaded."""
    if os.environ.get("LD_PRELOAD", "").endswith("libcuda.so.1"):
        return
    library = Path(tempfile.mkdtemp()) / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), f"-Wl,-soname,{library.name}"]
    subprocess.run(command, input=DRIVER, text=True, check=True)
    os.execve(sys.executable, sys.orig_argv, os.environ | {"LD_PRELOAD": str(library)})
