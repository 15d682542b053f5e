"""A feature network with all that makes its numbers what they are."""

import pkgutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from hdit_core.errors import UsageError, did_you_mean
from hdit_core.evaluate.resize import resize

Say = Callable[[str], None]

# The door through which extractors come: name -> "module:function", as an entry point would say it. The function is
# called with (weights: Path | None, device, say) and returns an Extractor.
EXTRACTORS = {
    "inception": "hdit_core.evaluate.inception:open_inception",
    "efficientnet-lite0": "hdit_core.evaluate.efficientnet:open_efficientnet",
}


@dataclass(frozen=True)
class Extractor:
    """A feature network, its resize, and the names of the distances in its space.

    Attributes:
        name: as given to `--extractor`.
        metric: what the Frechet distance is called: "fid" for the one network with the one resize, never for others.
        kernel_metric: what the kernel distance is called.
        num_features: numbers per image.
        side_px: the square that images are resized to.
        batch_size: images at once that suit it on its device.
        weights_sha256: of the file its weights came from.
        network: from levels `[B, 3, S, S]` in [0, 255] to features `[B, F]`.
        device: where the network is.
        remarks: what a reader of the result has to know.
    """

    name: str
    metric: str
    kernel_metric: str
    num_features: int
    side_px: int
    batch_size: int
    weights_sha256: str
    network: Callable[[Float[Tensor, "B 3 S S"]], Float[Tensor, "B F"]]
    device: torch.device
    remarks: tuple[str, ...] = ()

    @property
    def passport(self) -> dict[str, str | int]:
        """What two results must share to be comparable."""
        return {
            "name": self.name,
            "weights_sha256": self.weights_sha256,
            "num_features": self.num_features,
            "resize": f"clean-fid: Pillow bicubic, float32, to {self.side_px}x{self.side_px}, clipped, not rounded",
        }

    def prepare(self, image_u8: UInt8[np.ndarray, "H W C"]) -> Float32[np.ndarray, "S S 3"]:
        """Return an image as the network takes it."""
        return resize(image_u8, self.side_px)

    def features(self, prepared: Sequence[Float32[np.ndarray, "S S 3"]]) -> Float32[Tensor, "B F"]:
        """Return the features of prepared images, float32 on the CPU; see `full_precision`."""
        levels = rearrange(torch.from_numpy(np.stack(prepared)), "b h w c -> b c h w").to(self.device)
        with torch.inference_mode():
            return self.network(levels).float().cpu().clone()


def full_precision() -> AbstractContextManager[None]:
    """Return the context in which GPUs neither round products to TF32 nor choose algorithms by chance.

    It is one for all threads: enter it around them, not in each.
    """
    context: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return context


def open_extractor(
    name: str, weights: Path | None = None, device: torch.device | None = None, say: Say = lambda _: None
) -> Extractor:
    """Return the extractor of that name.

    Args:
        name: one of EXTRACTORS.
        weights: file of its weights; only Inception's takes one.
        device: where it runs; default the CPU.
        say: told of what takes long, such as a download.

    Raises:
        UsageError: there is no such extractor, or a file that it does not take.
        HditError: its weights cannot be had, or are damaged.
    """
    if name not in EXTRACTORS:
        raise UsageError(f"--extractor {name}: expected {' or '.join(EXTRACTORS)}{did_you_mean(name, EXTRACTORS)}")
    opened: Extractor = pkgutil.resolve_name(EXTRACTORS[name])(weights, device or torch.device("cpu"), say)
    return opened
