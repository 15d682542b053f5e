"""Neighborhood attention (Hassani et al. 2022, arXiv 2204.07143): each query attends to the k x k keys around it.

At borders the window moves inwards, so that there are always exactly k^2 keys. One function; who computes it is chosen
by device in `backends.py`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.model.attention.backends import select_backend
from hdit_core.model.attention.interface import AttentionFn, KernelTarget
from hdit_core.recipe.model import AttentionBackend

ATTENDS: dict[str, AttentionFn] = {}
"""Those chosen so far, by name: what a graph that torch.compile traced reads."""


def _name_of_choice(device: torch.device, dtype: torch.dtype, head_dim: int, wanted: AttentionBackend) -> str:
    choice = select_backend(KernelTarget(device, dtype, head_dim), wanted)
    ATTENDS[choice.name] = choice.attend
    return choice.name


# While torch.compile traces, the choice is made and only its name is kept. This is what
# torch.compiler.assume_constant_result sets, without the two seconds of loading the compiler that it costs.
_name_of_choice._dynamo_marked_constant = True  # type: ignore[attr-defined]


def neighborhood_attention(
    q: Float[Tensor, "B H W N D"],
    k: Float[Tensor, "B H W N D"],
    v: Float[Tensor, "B H W N D"],
    kernel_size: int,
    backend: AttentionBackend = "auto",
) -> Float[Tensor, "B H W N D"]:
    """Attend from each token to the `kernel_size` x `kernel_size` tokens around it, moved inwards at borders.

    Args:
        q, k: queries and keys; logits are their plain products.
        v: values.
        kernel_size: odd, and no larger than the grid.
        backend: who computes it; all give the same numbers.

    Returns:
        What each query attended to. Differentiable once: a second derivative raises RuntimeError.

    Raises:
        ValueError: the kernel is even, or larger than the grid.
        UsageError: the backend cannot run on the tensors' device.
    """
    _, height, width, _, head_dim = q.shape
    if kernel_size % 2 == 0 or kernel_size > min(height, width):
        raise ValueError(
            f"kernel_size = {kernel_size} on a grid of {height}x{width}: expected an odd number up to the smaller side"
        )
    return ATTENDS[_name_of_choice(q.device, q.dtype, head_dim, backend)](q, k, v, kernel_size)
