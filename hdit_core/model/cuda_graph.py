"""CUDA graphs of the network's forward pass: one launch instead of hundreds, for small batches without gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hdit_core.model.hourglass import HourglassTransformer

Inputs = tuple[Tensor | None, ...]
Capture = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]
"""Forward pass on fixed inputs -> its output, and a function that computes it again, in place."""

WARM_UPS = 2  # forward passes before a capture: kernels are compiled, tuned and cached in them


class CudaCapture:
    """Captures forward passes in graphs that share their memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, forward: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Return the output of a forward pass, and the replay of its graph, which overwrites it."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                forward()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = forward()
        return output, graph.replay


class GraphedForward:
    """A network's forward pass that is captured once for each shape of its inputs, and replayed from then on.

    Weights may change in place, but must not be replaced. Forward passes with gradients are not captured.
    """

    def __init__(self, forward: Callable[..., Tensor], capture: Capture) -> None:
        """
        Args:
            forward: of the network.
            capture: `CudaCapture()`, but for tests.
        """
        self._forward, self._capture = forward, capture
        self._image_size: tuple[int, ...] = ()
        self._graphs: dict[Any, tuple[Inputs, Tensor, Callable[[], None]]] = {}

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """Return the output, as a new tensor."""
        if torch.is_grad_enabled():
            return self._forward(*inputs)
        fixed, output, replay = self._graph(inputs)
        for target, source in zip(fixed, inputs, strict=True):
            if target is not None and source is not None:
                target.copy_(source)
        replay()
        return output.clone()

    def _graph(self, inputs: Inputs) -> tuple[Inputs, Tensor, Callable[[], None]]:
        """Return the fixed inputs, the output and the replay for inputs of these shapes."""
        assert inputs[0] is not None
        size = tuple(inputs[0].shape[-2:])
        if size != self._image_size:  # rotations and masks of the former size may be freed, and its graphs read them
            self._graphs.clear()
            self._image_size = size
        kind = inputs[0].device.type
        precision = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        shapes = tuple(None if each is None else (tuple(each.shape), each.dtype) for each in inputs)
        key = shapes, precision, torch.is_inference_mode_enabled()
        if key not in self._graphs:
            fixed = tuple(None if each is None else each.clone() for each in inputs)

            def forward() -> Tensor:
                # without the cache, whose copies of the weights are freed before the graph reads them
                with torch.autocast(kind, precision[1], enabled=precision[0], cache_enabled=False):
                    return self._forward(*fixed)

            self._graphs[key] = fixed, *self._capture(forward)
        return self._graphs[key]


def use_cuda_graphs(network: HourglassTransformer, capture: Capture | None = None) -> str | None:
    """Replay the network's forward pass as CUDA graphs from now on; return why not if it cannot be captured."""
    device = network.patch_in.proj.weight.device
    if capture is None and device.type != "cuda":
        return f"CUDA graphs need a CUDA device, the network is on {device.type}"
    if network.recipe.positions == "additive":
        return "CUDA graphs do not support model.positions = 'additive', which are copied from the CPU"
    network.forward = GraphedForward(network.forward, capture or CudaCapture())  # type: ignore[method-assign, assignment]
    return None
