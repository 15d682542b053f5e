"""Reference statistics on disk: an npz of plain arrays that clean-fid can read. Files of other programs are read too.

mu, sigma       mean and unbiased covariance, float64, as in the files of clean-fid, pytorch-fid and others
features, keys  the kept sample of features, for the kernel distance
passport        JSON as UTF-8 bytes: number of images, fingerprint, identity, extractor, source, remarks

Files of other programs have no passport. What their arrays reveal about the extractor is checked; a remark states what
is assumed. dino_mu and dino_sigma are GPIC's of DINOv2; mu and sigma with mu_s or arr_0 are ADM's.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hdit_core.errors import DataError
from hdit_core.evaluate.extractors.extractor import resize_line
from hdit_core.evaluate.features.measure import Measurement
from hdit_core.evaluate.metrics.statistics import Statistics
from hdit_core.files import check_bounded, check_output, digest, write_atomic

FORMAT = "hdit-statistics 1"
LARGEST_BYTES = 4 << 30
LARGEST_FEATURES = 1 << 14
DINO = ("dino_mu", "dino_sigma")
# MemoryError: a header may state any size.
UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError, MemoryError)
ASYMMETRY = 1e-6  # of a covariance, relative to its largest entry; allows float32 rounding


def save_statistics(path: Path, measured: Measurement, identity: str = "") -> None:
    """Write statistics to a file atomically.

    Args:
        path: the file.
        measured: the statistics.
        identity: of the image set, see `ImageSet`; lets `read_identity` recognize it.

    Raises:
        UsageError: the name does not end in .npz, or there is no such folder.
    """
    check_output("statistics", path, ".npz")
    statistics = measured.statistics
    passport = {
        "format": FORMAT,
        "n": statistics.n,
        "fingerprint": statistics.fingerprint,
        "identity": identity,
        "extractor": measured.extractor,
        "source": measured.source,
        "remarks": measured.remarks,
    }
    content = io.BytesIO()
    np.savez(
        content,
        mu=statistics.mean.numpy(),
        sigma=statistics.covariance.numpy(),
        features=statistics.features.numpy(),
        keys=statistics.keys.numpy(),
        passport=np.frombuffer(json.dumps(passport).encode(), np.uint8),
    )
    write_atomic(path, content.getvalue())


def holds_statistics(path: Path) -> bool:
    """Return whether an npz is to be read as statistics: it has `mu`, or is not an npz of images either."""
    try:
        with zipfile.ZipFile(path) as members:
            names = set(members.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return True  # `load_statistics` reports the error
    return "mu.npy" in names or "arr_0.npy" not in names


def load_statistics(path: Path) -> Measurement:
    """Read statistics of hdit, clean-fid, ADM, EDM or GPIC; nothing in the file is executed.

    Raises:
        DataError: the file is damaged or something else.
    """
    arrays = _read_arrays(path)
    if "passport" not in arrays:
        return _of_others(path, arrays)
    mean, covariance = _moments(path, arrays)
    try:
        passport = json.loads(arrays["passport"].tobytes())
        if passport["format"] != FORMAT:
            raise DataError(f"{path}: has format {passport['format']!r}, expected {FORMAT!r}; make it again")
        features, keys = _sample(path, arrays, passport["n"], len(mean))
        statistics = Statistics(passport["n"], mean, covariance, features, keys, str(passport["fingerprint"]))
        _check_source(passport["source"])
        source = {**_source(path, dict(passport["source"])), "sha256": digest(path).sha256}
        remarks = tuple(map(str, passport["remarks"]))
        return Measurement(statistics, dict(passport["extractor"]), source, remarks)
    except (KeyError, TypeError, ValueError, RecursionError) as problem:
        raise DataError(f"{path}: damaged statistics ({type(problem).__name__}: {problem}); make them again") from None


def _check_source(source: dict[str, Any]) -> None:
    """Raise a ValueError or TypeError if the class distribution, which samples may copy, has another form."""
    counts = source.get("class_counts")
    if counts is not None and not (all(isinstance(count, int) and count >= 0 for count in counts) and sum(counts)):
        raise ValueError("class_counts are not numbers of images")


def _of_others(path: Path, arrays: dict[str, np.ndarray]) -> Measurement:
    """Return statistics without a passport, with what their arrays show about the extractor."""
    extractor, remark = _extractor_of_others(path)
    if extractor.get("name") == "dinov2":
        arrays = dict(zip(("mu", "sigma"), (arrays[name] for name in DINO), strict=True))
    mean, covariance = _moments(path, arrays)
    empty = torch.empty(0, len(mean)), torch.empty(0, dtype=torch.int64)
    source = {**_source(path, {}), "sha256": digest(path).sha256}
    return Measurement(Statistics(None, mean, covariance, *empty, ""), extractor, source, (remark,))


def _extractor_of_others(path: Path) -> tuple[dict[str, Any], str]:
    """Return what is known about the extractor of a file without a passport, and a remark on the rest."""
    with zipfile.ZipFile(path) as members:
        names = {name.removesuffix(".npy") for name in members.namelist()}
    if "mu" not in names and names.issuperset(DINO):
        remark = "statistics of DINOv2 that do not name their resize; bicubic to 224 pixels is assumed, as here"
        return {"name": "dinov2"}, f"{path}: {remark}"
    if names & {"mu_s", "arr_0"}:
        remark = "statistics of ADM's evaluator that do not name their weights; Inception's are assumed"
        return {"name": "inception", "resize": resize_line(None)}, f"{path}: {remark}"
    remark = "does not say which extractor and resize made it; they are assumed to match"
    return {}, f"{path} {remark} (clean-fid's statistics need --mode clean, those of EDM and EDM2 --mode adm)"


def read_identity(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the identity of the image set that statistics are of, "" if unknown, and the extractor's provenance.

    Raises:
        DataError: the file is damaged or something else.
    """
    try:
        passport = json.loads(_read_arrays(path, ("passport",))["passport"].tobytes())
        return str(passport.get("identity", "")), dict(passport["extractor"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as problem:
        raise DataError(f"{path}: damaged statistics ({type(problem).__name__}: {problem})") from None


def _source(path: Path, of_images: dict[str, Any]) -> dict[str, Any]:
    return {**of_images, "kind": "saved statistics", "path": str(path), "images": of_images.get("path", "unknown")}


def _read_arrays(
    path: Path, wanted: Sequence[str] = ("mu", "sigma", *DINO, "features", "keys", "passport")
) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as members:
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in members.infolist()}
            for member in members.infolist():
                check_bounded(member)
        size_bytes = sum(sizes.get(name, 0) for name in wanted)  # ADM's files also have images
        if size_bytes > LARGEST_BYTES:
            raise DataError(f"{path}: {size_bytes:,} bytes unpacked; expected at most {LARGEST_BYTES:,}")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in wanted if name in archive.files}
    except UNREADABLE as problem:
        raise DataError(f"{path}: cannot be read as saved statistics ({problem})") from None


def _moments(path: Path, arrays: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return mean and covariance in float64, checked."""
    if "mu" not in arrays or "sigma" not in arrays:
        raise DataError(
            f"{path}: has no mu and sigma; expected statistics of hdit eval-fid stats, clean-fid, ADM or GPIC"
        )
    mean, covariance = arrays["mu"], arrays["sigma"]
    length = mean.shape[0] if mean.ndim == 1 else 0
    if not 0 < length <= LARGEST_FEATURES or covariance.shape != (length, length):
        raise DataError(f"{path}: mu has shape {mean.shape} and sigma {covariance.shape}; expected [F] and [F, F]")
    if mean.dtype.kind != "f" or covariance.dtype.kind != "f":
        raise DataError(f"{path}: mu is {mean.dtype} and sigma {covariance.dtype}; expected floating point")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise DataError(f"{path}: has values that are not finite")
    if np.abs(covariance - covariance.T).max() > ASYMMETRY * np.abs(covariance).max():
        raise DataError(f"{path}: sigma is not symmetric, so it is not a covariance")
    symmetric = (covariance.astype(np.float64) + covariance.T.astype(np.float64)) / 2
    return torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(symmetric)


def _sample(path: Path, arrays: dict[str, np.ndarray], n: object, num_features: int) -> tuple[Tensor, Tensor]:
    """Return the kept features and their keys, checked."""
    features, keys = arrays["features"], arrays["keys"]
    fits = features.shape == (*keys.shape, num_features) and isinstance(n, int) and 2 <= n >= len(keys)
    if not fits or features.dtype != np.float32 or keys.dtype != np.int64:
        raise DataError(f"{path}: {n} images do not match a sample of features {features.shape}")
    if not np.isfinite(features).all():
        raise DataError(f"{path}: has values that are not finite")
    return torch.from_numpy(features), torch.from_numpy(keys)
