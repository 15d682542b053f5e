"""Neighborhood attention (Hassani et al. 2022, arXiv 2204.07143): each query attends to the k x k keys around it.

At borders the window is shifted inwards, so each query has exactly k^2 keys. `neighborhood_backends.py` selects the
implementation by device.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.model.attention.interface import AttentionFn, KernelTarget
from hdit_core.model.attention.neighborhood_backends import select_backend
from hdit_core.recipe.model import AttentionBackend

ATTENDS: dict[str, AttentionFn] = {}
"""The attention functions selected so far, by backend name; graphs traced by torch.compile read them from this dict."""


def _name_of_choice(device: torch.device, dtype: torch.dtype, head_dim: int, wanted: AttentionBackend) -> str:
    choice = select_backend(KernelTarget(device, dtype, head_dim), wanted)
    ATTENDS[choice.name] = choice.attend
    return choice.name


# The choice is made while torch.compile traces, and the graph keeps only its name. This is what
# torch.compiler.assume_constant_result sets, without the 2 s that it takes to load the compiler.
_name_of_choice._dynamo_marked_constant = True  # type: ignore[attr-defined]


def neighborhood_attention(
    q: Float[Tensor, "B H W N D"],
    k: Float[Tensor, "B H W N D"],
    v: Float[Tensor, "B H W N D"],
    kernel_size: int,
    backend: AttentionBackend = "auto",
) -> Float[Tensor, "B H W N D"]:
    """Return the attention of each token to the `kernel_size` x `kernel_size` window around it.

    Windows are shifted inwards at borders.

    Args:
        q, k: queries and keys, already scaled: logits are their plain products.
        v: values.
        kernel_size: odd, and no larger than the grid.
        backend: the implementation; results agree up to rounding.

    Returns:
        The weighted sum of values for each query. A second derivative raises RuntimeError.

    Raises:
        ValueError: the kernel size is even, or larger than the grid.
        UsageError: the backend cannot run on the tensors' device.
    """
    _, height, width, _, head_dim = q.shape
    if kernel_size % 2 == 0 or kernel_size > min(height, width):
        raise ValueError(
            f"kernel_size = {kernel_size} on a grid of {height}x{width}: expected an odd number up to the smaller side"
        )
    return ATTENDS[_name_of_choice(q.device, q.dtype, head_dim, backend)](q, k, v, kernel_size)
