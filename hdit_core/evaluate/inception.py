"""Inception-v3 as FID has used it since 2015, in NVIDIA's TorchScript translation, called as clean-fid calls it."""

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from hdit_core.errors import CheckpointError
from hdit_core.evaluate.extractor import Extractor, Say
from hdit_core.evaluate.weights import WeightsFile, find_weights
from hdit_core.files import cache_folder

# The checksum is the one k-diffusion pins; independent projects publish the same, one of them with the size.
INCEPTION = WeightsFile(
    name="inception-2015-12-05.pt",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    size_bytes=95_607_719,
)


def open_inception(weights: Path | None, device: torch.device, say: Say, wanted: WeightsFile = INCEPTION) -> Extractor:
    """Return the extractor of FID.

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
    return Extractor(
        name="inception",
        metric="fid" if genuine else "fd-inception",
        kernel_metric="kid" if genuine else "kd-inception",
        num_features=2048,
        side_px=299,
        batch_size=8 if device.type == "cpu" else 64,
        weights_sha256=sha256,
        network=_load(path, device),
        device=device,
        remarks=() if genuine else (remark,),
    )


def _load(path: Path, device: torch.device) -> torch.nn.Module:
    """Return clean-fid's wrapper around the file; it takes levels in [0, 255] at 299 pixels."""
    from cleanfid.inception_torchscript import InceptionV3W

    try:
        # The wrapper looks for a fixed name in a folder, and the file may have another.
        with TemporaryDirectory() as folder:
            (Path(folder) / INCEPTION.name).symlink_to(path.resolve())
            network: torch.nn.Module = InceptionV3W(folder, download=False)
    except (RuntimeError, AttributeError, zipfile.BadZipFile) as problem:
        raise CheckpointError(
            f"{path}: not the TorchScript module {INCEPTION.name} ({str(problem).splitlines()[0]})"
        ) from None
    return network.to(device).eval().requires_grad_(False)
