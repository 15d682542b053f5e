"""The denoiser as a torch.export program of torch's own operators, for machines that have torch but not hdit.

The traced computation runs on every device: tiled attention, no fused kernels, no custom gradients, no padding of short
matrix products. Its results therefore differ from the network's by rounding; the difference is measured.
"""

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, fx, nn

from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import CheckpointError
from hdit_core.model.attention.global_attention import Operator
from hdit_core.model.attention.neighborhood import neighborhood_attention
from hdit_core.model.attention.shifted_window import ShiftedWindows, shifted_window_attention
from hdit_core.model.attention.tiled_pytorch import plain
from hdit_core.model.blocks import AttentionBlock
from hdit_core.model.conditioning import AUGMENT_FEATURES
from hdit_core.model.linear import Linear
from hdit_core.randomness import normal

LARGEST_BATCH = 4096
TRACED_BATCH = 3
CHECKED_BATCHES = (1, 2, 5)
CHECKED_SIGMAS = (0.02, 0.5, 3.0, 40.0, 0.1)
TOLERANCE = 1e-3  # relative to the largest output, float32; larger differences are errors in the trace, not rounding
TOLERANCE_16_BITS = 0.1


class ExportedDenoiser(nn.Module):
    """D(x, sigma, class_ids, mapping_cond, condition) without augmentation; the network's own arguments only."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        sigma: Float[Tensor, "B"],
        class_ids: Int64[Tensor, "B"] | None = None,
        mapping_cond: Float[Tensor, "B E"] | None = None,
        condition: Float[Tensor, "B K H W"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Return the denoised images, see `Denoiser.forward`."""
        # the network would create these zeros itself, but with the batch size of the trace
        none = torch.zeros((sigma.shape[0], AUGMENT_FEATURES), dtype=sigma.dtype, device=sigma.device)
        return self.denoiser(x, sigma, class_ids, none, mapping_cond, condition)


def _neighborhood(q: Tensor, k: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    return plain(q, k, v, kernel_size)[0]


def _operator(operator: Operator) -> Operator:
    """Return an attention operator that calls torch's own operators only."""
    if isinstance(operator, ShiftedWindows):
        return partial(shifted_window_attention, window_size=operator.window_size, shift=operator.shift)
    if isinstance(operator, partial) and operator.func is neighborhood_attention:
        return partial(_neighborhood, kernel_size=operator.keywords["kernel_size"])
    return operator


def _bare(linear: Linear) -> nn.Linear:
    features_out, features_in = linear.weight.shape
    bare = nn.Linear(features_in, features_out, bias=False, device="meta")
    bare.weight = linear.weight
    return bare


def plain_copy(denoiser: Denoiser) -> Denoiser:
    """Return a copy of a denoiser that calls torch's own operators only."""
    result = copy.deepcopy(denoiser).eval().requires_grad_(False)
    for module in list(result.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear):
                setattr(module, name, _bare(child))
        if isinstance(module, AttentionBlock):
            module.operator = _operator(module.operator)
    return result


def _inputs(denoiser: Denoiser, batch_size: int) -> dict[str, Tensor]:
    """Return inputs of a denoiser's program, different for each image."""
    model, device = denoiser.recipe.model, next(denoiser.parameters()).device
    images = range(batch_size)
    sigma = torch.tensor([CHECKED_SIGMAS[i % len(CHECKED_SIGMAS)] for i in images])
    x = normal(0, "program", images, (model.channels, *model.image_size)) * (1 + sigma[:, None, None, None] ** 2).sqrt()
    inputs = {"x": x, "sigma": sigma}
    if model.num_classes:
        inputs["class_ids"] = torch.tensor([i % (model.num_classes + 1) for i in images])
    if model.mapping_cond_dim:
        inputs["mapping_cond"] = normal(0, "program-vector", images, (model.mapping_cond_dim,))
    if model.condition_channels:
        inputs["condition"] = normal(0, "program-condition", images, (model.condition_channels, *model.image_size))
    return {name: tensor.to(device) for name, tensor in inputs.items()}


@torch.no_grad()
def trace(denoiser: Denoiser) -> torch.export.ExportedProgram:
    """Return the denoiser, see `ExportedDenoiser`, as a program for batches of up to 4096 of the recipe's size."""
    program, inputs = ExportedDenoiser(plain_copy(denoiser)), _inputs(denoiser, TRACED_BATCH)
    program(**inputs)  # fills caches (masks) with real tensors, so that none of the trace's placeholders is cached
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    return torch.export.export(program, (), inputs, dynamic_shapes={name: {0: batch} for name in inputs}, strict=False)


@dataclass(frozen=True)
class Checked:
    """The difference between a program and its denoiser.

    Attributes:
        largest_error: largest absolute difference of any pixel.
        relative_error: the same relative to the denoiser's largest output.
        batches: the batch sizes that were compared.
    """

    largest_error: float
    relative_error: float
    batches: tuple[int, ...]


@torch.no_grad()
def check(path: Path, denoiser: Denoiser) -> Checked:
    """Run a written program and compare its outputs with the denoiser's.

    Such files can contain pickles, which torch unpickles: call this only for files that this process wrote.

    Raises:
        CheckpointError: the outputs differ by more than rounding.
    """
    program, largest, scale = torch.export.load(path).module(), 0.0, 0.0
    for size in CHECKED_BATCHES:
        inputs = _inputs(denoiser, size)
        given = {name: tensor for name, tensor in inputs.items() if name not in ("x", "sigma")}
        expected = denoiser(inputs["x"], inputs["sigma"], **given)
        largest = max(largest, (program(**inputs) - expected).abs().max().item())
        scale = max(scale, expected.abs().max().item())
    wide = all(parameter.dtype.itemsize >= 4 for parameter in denoiser.parameters())
    if not largest <= (TOLERANCE if wide else TOLERANCE_16_BITS) * scale:
        raise CheckpointError(
            f"{path}: the program's outputs differ by {largest:.3g} from the network's, which are up to {scale:.3g}; "
            "expected equality up to rounding: omit --program, and report this as a bug"
        )
    return Checked(largest, largest / scale, CHECKED_BATCHES)


def write_program(path: Path, denoiser: Denoiser) -> Checked:
    """Write a denoiser as a program (`.pt2`), run it, and return its difference from the denoiser.

    The file contains no path of this machine, and no pickle.

    Args:
        path: ends in .pt2, in a folder that is still temporary.

    Raises:
        CheckpointError: as `check`.
    """
    program = trace(denoiser)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # contains paths of this machine
    program._example_inputs = None  # torch would pickle them
    torch.export.save(program, path)
    return check(path, denoiser)
