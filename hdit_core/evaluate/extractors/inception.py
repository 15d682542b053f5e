"""Inception-v3 of FID (2015): NVIDIA's TorchScript translation as clean-fid calls it, or torch-fidelity's weights."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from hdit_core.errors import CheckpointError, UsageError, first_line
from hdit_core.evaluate.extractors.download import WeightsFile, find_weights
from hdit_core.evaluate.extractors.extractor import Extractor, Mode
from hdit_core.files import cache_folder

# k-diffusion pins the same checksum; independent projects publish it too, one of them with the size.
INCEPTION = WeightsFile(
    name="inception-2015-12-05.pt",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    size_bytes=95_607_719,
)
# torch-fidelity's file of the same network; the checksum begins with the eight digits in its name.
STATE_DICT_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
GENUINE = frozenset({INCEPTION.sha256, STATE_DICT_SHA256})

SIDE_PX = 299
# The layers of torch-fidelity's module up to the features, in order.
LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)


def open_inception(
    weights: Path | None, device: torch.device, mode: Mode = "clean", wanted: WeightsFile = INCEPTION
) -> Extractor:
    """Return the extractor of FID.

    In clean mode images are resized as in clean-fid. In adm mode the graph resizes them, as TensorFlow 1 did: the FID
    of most papers until 2021, of ADM's evaluator, of clean-fid's `legacy_tensorflow` and of HDiT's paper. Its distance
    is called fid-adm.

    `weights` is a TorchScript file, or a state dict of torch-fidelity's module, which needs no TorchScript. With other
    weights than the published ones the distance is not called FID. A TorchScript file is not a pickle, yet it is a
    program that torch's interpreter runs: pass only files whose origin you trust.

    Raises:
        HditError: the weights cannot be found or downloaded (see `find_weights`).
        CheckpointError: the file is neither of the two.
        UsageError: the file is a state dict, and torch-fidelity is not installed.
    """
    path, sha256 = find_weights(wanted, weights, cache_folder())
    genuine = sha256 in GENUINE | {wanted.sha256}
    remark = f"{path} is not the Inception file of FID (sha256 {wanted.sha256}), so this is not an FID"
    load = _load_torchscript if _is_torchscript(path) else _load_state_dict
    network, classifier = load(path, device, mode == "adm")
    suffix = "-adm" if mode == "adm" else ""
    return Extractor(
        name="inception",
        metric=("fid" if genuine else "fd-inception") + suffix,
        kernel_metric=("kid" if genuine else "kd-inception") + suffix,
        num_features=2048,
        side_px=None if mode == "adm" else SIDE_PX,
        batch_size=8 if device.type == "cpu" else 64,
        weights_sha256=sha256,
        network=network,
        device=device,
        remarks=() if genuine else (remark,),
        class_logits=_classifier(classifier),
    )


def _classifier(layer: torch.nn.Module | None) -> Callable[[Tensor], Tensor] | None:
    """Return the last layer without its bias, which defines the Inception Score (Salimans et al. 2016)."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != 2048:
        return None
    exact = weight.detach().double().cpu()
    return lambda features: features.double() @ exact.T


def _is_torchscript(path: Path) -> bool:
    """Return whether a file is to be read as TorchScript: all but zips without code, which `torch.save` writes."""
    try:
        with zipfile.ZipFile(path) as members:
            names = members.namelist()
    except (OSError, zipfile.BadZipFile):
        return path.suffix != ".pth"  # torch-fidelity's file has torch's older format, which is not a zip
    return any("/code/" in name for name in names) or not any(name.endswith("/data.pkl") for name in names)


def _load_torchscript(path: Path, device: torch.device, resize_inside: bool) -> tuple[Any, Any]:
    """Return clean-fid's wrapper of the file and its classifier.

    The wrapper takes pixel values in [0, 255], in clean mode of 299 x 299 pixels.
    """
    from cleanfid.inception_torchscript import InceptionV3W

    try:
        # The wrapper looks for a fixed name in a folder; the file may have another.
        with TemporaryDirectory() as folder:
            (Path(folder) / INCEPTION.name).symlink_to(path.resolve())
            network: Any = InceptionV3W(folder, download=False, resize_inside=resize_inside)
    except (RuntimeError, AttributeError, zipfile.BadZipFile) as problem:
        raise CheckpointError(f"{path}: not the TorchScript module {INCEPTION.name} ({first_line(problem)})") from None
    return network.to(device).eval().requires_grad_(False), getattr(network.base, "output", None)


def _load_state_dict(path: Path, device: torch.device, resize_inside: bool) -> tuple[Any, Any]:
    """Return a function from pixel values to features by torch-fidelity's module, and its classifier."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
    except (ImportError, RuntimeError) as problem:  # RuntimeError: torchvision does not fit torch
        raise UsageError(
            f"--extractor-weights {path}: a state dict needs torch-fidelity, which cannot be imported ({problem}); "
            "run: pip install torch-fidelity"
        ) from None
    try:
        with TemporaryDirectory() as folder:
            # The module unpickles whatever it is given, so it gets a copy of the tensors alone.
            copy = Path(folder) / "weights.pth"
            torch.save(dict(torch.load(path, map_location="cpu", weights_only=True)), copy)
            module: Any = FeatureExtractorInceptionV3("inception", ["2048"], str(copy)).to(device)
    except (RuntimeError, ValueError, TypeError, EOFError, pickle.UnpicklingError, KeyError) as problem:
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise CheckpointError(f"{path}: not a state dict of torch-fidelity's Inception ({reason})") from None

    def features(pixels: Tensor) -> Tensor:
        if resize_inside:
            pixels = interpolate_bilinear_2d_like_tensorflow1x(pixels, (SIDE_PX, SIDE_PX), align_corners=False)
        x = (pixels - 128) / 128
        for name in LAYERS:
            x = getattr(module, name)(x)
        return x.flatten(1)

    return features, module.fc
