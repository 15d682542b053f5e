"""A feature network with everything that determines its numbers."""

import logging
import pkgutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from hdit_core.devices import disable_tf32, precision_of
from hdit_core.distributed import World
from hdit_core.errors import UsageError, did_you_mean

logger = logging.getLogger("hdit")


def resize(image_u8: UInt8[np.ndarray, "H W C"], side_px: int) -> Float32[np.ndarray, "S S 3"]:
    """Return an image as feature networks take it: square, three channels, pixel values from 0 to 255.

    Bit-identical to `cleanfid.resize.build_resizer("clean")`. A grey image is resized once and repeated to three
    channels.

    Args:
        image_u8: 1 or 3 channels.
        side_px: height and width of the result.
    """
    channels = [_resize_channel(image_u8[..., channel], side_px) for channel in range(image_u8.shape[-1])]
    return np.stack(channels * (3 // len(channels)), axis=-1)


def _resize_channel(levels_u8: UInt8[np.ndarray, "H W"], side_px: int) -> Float32[np.ndarray, "S S"]:
    channel = Image.fromarray(levels_u8.astype(np.float32))
    return np.asarray(channel.resize((side_px, side_px), Image.Resampling.BICUBIC)).clip(0, 255)


Mode = Literal["clean", "adm"]

# hdit's own extractors: name -> "module:function", as an entry point has it. The function is called with
# (weights: Path | None, device, mode) and returns an Extractor.
EXTRACTORS = {
    "inception": "hdit_core.evaluate.extractors.inception:open_inception",
    "efficientnet-lite0": "hdit_core.evaluate.extractors.efficientnet:open_efficientnet",
    "dinov2": "hdit_core.evaluate.extractors.dinov2:open_dinov2",
}
GROUP = "hdit.extractors"  # entry points of other packages


@dataclass(frozen=True)
class Extractor:
    """A feature network, its resize, and the names of the distances in its space.

    Attributes:
        name: the name in `--extractor`.
        metric: name of the Frechet distance: "fid" only for Inception with clean-fid's resize.
        kernel_metric: name of the kernel distance.
        num_features: numbers per image.
        side_px: height and width that images are resized to; None if the network resizes them.
        batch_size: default batch size on its device.
        weights_sha256: checksum of the weight file.
        network: from pixel values `[B, 3, H, W]` in [0, 255] to features `[B, F]`.
        device: where the network is.
        remarks: remarks for readers of the result.
        class_logits: from features `[B, F]` to the logits of a classifier `[B, K]`, for the Inception Score; None if
            there is no classifier.
    """

    name: str
    metric: str
    kernel_metric: str
    num_features: int
    side_px: int | None
    batch_size: int
    weights_sha256: str
    network: Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B F"]]
    device: torch.device
    remarks: tuple[str, ...] = ()
    class_logits: Callable[[Float[Tensor, "B F"]], Float[Tensor, "B K"]] | None = None

    @property
    def provenance(self) -> dict[str, str | int]:
        """What two results must have in common to be comparable."""
        return {
            "name": self.name,
            "weights_sha256": self.weights_sha256,
            "num_features": self.num_features,
            "resize": resize_line(self.side_px),
        }

    def prepare(self, image_u8: UInt8[np.ndarray, "H W C"]) -> Float32[np.ndarray, "H2 W2 3"]:
        """Return an image as the network takes it: resized, or only repeated to three channels."""
        if self.side_px is None:
            return np.repeat(image_u8, 3 // image_u8.shape[-1], axis=-1).astype(np.float32)
        return resize(image_u8, self.side_px)

    def features(self, prepared: Sequence[Float32[np.ndarray, "_ _ 3"]]) -> Float32[Tensor, "B F"]:
        """Return the features of prepared images of any sizes, float32 on the CPU; see `full_precision`."""
        indices = defaultdict(list)
        for index, image in enumerate(prepared):
            indices[image.shape].append(index)
        features = torch.empty(len(prepared), self.num_features)
        for same_size in indices.values():
            features[same_size] = self._features([prepared[index] for index in same_size])
        return features

    def _features(self, prepared: Sequence[Float32[np.ndarray, "H W 3"]]) -> Float32[Tensor, "B F"]:
        pixels = rearrange(torch.from_numpy(np.stack(prepared)), "b h w c -> b c h w").to(self.device)
        with torch.inference_mode():
            return self.network(pixels).float().cpu().clone()


def resize_line(side_px: int | None) -> str:
    """Return how images are resized, as provenance has it; None: inside the network."""
    if side_px is None:
        return "adm: bilinear as TensorFlow 1 did it, inside the network's graph, not antialiased"
    return f"clean-fid: Pillow bicubic, float32, to {side_px}x{side_px}, clipped, not rounded"


def full_precision() -> AbstractContextManager[None]:
    """Return a context in which GPUs use no TF32 and only deterministic algorithms.

    It applies to all threads: enter it around them, not in each.
    """
    disable_tf32()
    context: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return context


def open_on_all(open_it: Callable[[], Extractor], world: World) -> Extractor:
    """Open an extractor on every rank, first on the main one, which may have to download the weights."""
    return world.on_main_rank(open_it) or open_it()


def open_extractor(
    name: str,
    weights: Path | None = None,
    device: torch.device | None = None,
    mode: Mode = "clean",
) -> Extractor:
    """Return the extractor of that name, hdit's own or one of an installed package.

    Args:
        name: one of EXTRACTORS, or of the entry-point group `hdit.extractors`.
        weights: weight file, for extractors that take one.
        device: where it runs; default the CPU.
        mode: "clean", or "adm" for the resize inside Inception's graph, as in ADM's evaluator.

    Raises:
        UsageError: there is no such extractor, it cannot be loaded, or it does not take that file or mode.
        HditError: its weights cannot be downloaded, or are damaged.
    """
    extractor = _find(name)(weights, device or torch.device("cpu"), mode)
    if not isinstance(extractor, Extractor):
        raise UsageError(f"--extractor {name}: expected an Extractor, its package returned {type(extractor).__name__}")
    if precision := precision_of(extractor.device, torch.float32):
        logger.info(f"extractor {name}: {precision}, deterministic convolutions")
    return extractor


def _find(name: str) -> Callable[..., object]:
    """Return the function that opens an extractor; a plug-in is imported only when its extractor is wanted."""
    if name in EXTRACTORS:
        own: Callable[..., object] = pkgutil.resolve_name(EXTRACTORS[name])
        return own
    plugins = [point for point in entry_points(group=GROUP) if point.name not in EXTRACTORS]
    matches = [point for point in plugins if point.name == name]
    if not matches:
        names = [*EXTRACTORS, *sorted({point.name for point in plugins})]
        raise UsageError(f"--extractor {name}: expected {' or '.join(names)}{did_you_mean(name, names)}")
    if len(matches) > 1:
        raise UsageError(
            f"--extractor {name}: offered by {' and by '.join(point.value for point in matches)}; uninstall one"
        )
    try:
        loaded: Callable[..., object] = matches[0].load()
    except Exception as problem:  # whatever goes wrong in a plug-in
        raise UsageError(f"--extractor {name}: {matches[0].value} cannot be loaded ({problem})") from None
    return loaded


def refuse_adm(name: str, mode: Mode) -> None:
    """Refuse the mode that only Inception has.

    Raises:
        UsageError: the mode is "adm".
    """
    if mode == "adm":
        raise UsageError(f"--mode adm: is the resize inside Inception's graph, which --extractor {name} lacks")
