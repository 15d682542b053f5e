"""Inception-v3 as FID has used it since 2015, in NVIDIA's TorchScript translation, called as clean-fid calls it."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from hdit_core.errors import CheckpointError
from hdit_core.evaluate.extractors.download import WeightsFile, find_weights
from hdit_core.evaluate.extractors.extractor import Extractor, Mode, Say
from hdit_core.files import cache_folder

# The checksum is the one k-diffusion pins; independent projects publish the same, one of them with the size.
INCEPTION = WeightsFile(
    name="inception-2015-12-05.pt",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    size_bytes=95_607_719,
)


def open_inception(
    weights: Path | None, device: torch.device, say: Say, mode: Mode = "clean", wanted: WeightsFile = INCEPTION
) -> Extractor:
    """Return the extractor of FID.

    In clean mode images are resized as clean-fid does it. In adm mode they go in as they are and the graph itself
    resizes them, as TensorFlow 1 did: FID as most papers until 2021, ADM's evaluator and clean-fid's
    `legacy_tensorflow` have it, HDiT's paper too. Its distance is called fid-adm.

    Other weights than the pinned ones are taken from `weights`, but the distance is then not called FID. A TorchScript
    file is no Python pickle, yet it is a program, which torch's interpreter runs and which may use any of torch's
    operators: give only files whose origin you trust.

    Raises:
        HditError: the weights cannot be had (see `find_weights`).
        CheckpointError: the file is not such a TorchScript module.
    """
    path, sha256 = find_weights(wanted, weights, cache_folder(), say)
    genuine = sha256 == wanted.sha256
    remark = f"{path} is not the Inception file of FID (sha256 {wanted.sha256}), so that this is not an FID"
    network = _load(path, device, resize_inside=mode == "adm")
    suffix = "-adm" if mode == "adm" else ""
    return Extractor(
        name="inception",
        metric=("fid" if genuine else "fd-inception") + suffix,
        kernel_metric=("kid" if genuine else "kd-inception") + suffix,
        num_features=2048,
        side_px=None if mode == "adm" else 299,
        batch_size=8 if device.type == "cpu" else 64,
        weights_sha256=sha256,
        network=network,
        device=device,
        remarks=() if genuine else (remark,),
        class_logits=_classifier(network.base),
    )


def _classifier(base: torch.nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return the last layer without its bias, as the Inception Score has always had it (Salimans et al. 2016)."""
    weight = getattr(getattr(base, "output", None), "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != 2048:
        return None
    exact = weight.detach().double().cpu()
    return lambda features: features.double() @ exact.T


def _load(path: Path, device: torch.device, resize_inside: bool) -> Any:
    """Return clean-fid's wrapper around the file; it takes levels in [0, 255], in clean mode at 299 pixels."""
    from cleanfid.inception_torchscript import InceptionV3W

    try:
        # The wrapper looks for a fixed name in a folder, and the file may have another.
        with TemporaryDirectory() as folder:
            (Path(folder) / INCEPTION.name).symlink_to(path.resolve())
            network: torch.nn.Module = InceptionV3W(folder, download=False, resize_inside=resize_inside)
    except (RuntimeError, AttributeError, zipfile.BadZipFile) as problem:
        raise CheckpointError(
            f"{path}: not the TorchScript module {INCEPTION.name} ({str(problem).splitlines()[0]})"
        ) from None
    return network.to(device).eval().requires_grad_(False)
