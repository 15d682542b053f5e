"""Averages of a run's weights as files of their own: snapshots on the way, and what is made of them afterwards.

RUN/averages/000096000-ema-0.050.safetensors      the average of length 0.050 after 96,000 images
RUN/averages/post-hoc-0.080.safetensors           what `hdit ema --std 0.08` made of the snapshots

Snapshots hold averages in float16, which rounds a weight by at most 2^-11 of itself, or by 3e-8 where it is smaller
than 6e-5; a tensor that does not fit into float16, and those that are not averaged, stay as they are.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hdit_core.checkpoint.ema.profile import LONGEST, SHORTEST, Profile
from hdit_core.checkpoint.layout import ema_folder
from hdit_core.checkpoint.safetensors_file import metadata_crc32, read_metadata, tensor_crc32, write_tensors
from hdit_core.errors import CheckpointError, CheckpointWriteError, UsageError
from hdit_core.files import atomic_file, remove_temporaries
from hdit_core.recipe.run import Recipe

SNAPSHOT_NAME = re.compile(r"(\d{9,})-ema-(0\.\d{3})\.safetensors")


@dataclass(frozen=True)
class Snapshot:
    """An average as it was at one moment of the run."""

    path: Path
    profile: Profile


def ema_name(std: float) -> str:
    """Return the name of a checkpoint's part that holds the average of a length: `"ema-0.050"`."""
    return f"ema-{std:.3f}"


def parse_ema_std(text: str) -> float:
    """Read the length of an average.

    Raises:
        UsageError: it is no number from 0.001 to 0.288 of at most three decimals, by which files are named.
    """
    found = re.fullmatch(r"0?\.(\d{1,3})0{0,9}", text.strip())
    if found is None or not SHORTEST <= float(text) <= LONGEST:
        raise UsageError(
            f"the length of an average is {text}; expected a share of the run from {SHORTEST} to {LONGEST} with at "
            "most three decimals, for example 0.08"
        )
    return float(text)


def part_name(weights: str) -> str:
    """Return the name of the part of a checkpoint that holds these weights: `"ema"`, `"model"` or `"ema-0.080"`.

    Raises:
        UsageError: they are none of these, and no length.
    """
    if weights in ("ema", "model"):
        return weights
    if weights.strip()[:1] not in set("0123456789.-"):
        raise UsageError(f"weights {weights}: expected ema, model, or the length of an average such as 0.08")
    return ema_name(parse_ema_std(weights))


def post_hoc_file(run: Path, std: float) -> Path:
    return ema_folder(run) / f"post-hoc-{std:.3f}.safetensors"


def write_snapshot(run: Path, recipe: Recipe, profile: Profile, tensors: Mapping[str, Tensor]) -> Path:
    """Write an average as it is now, whole or not at all; one of the same moment is replaced.

    Args:
        tensors: of the network's state, on the CPU; what is averaged is `rounded` already.

    Raises:
        CheckpointError: the disk is full, or cannot be written.
    """
    path = ema_folder(run) / f"{profile.num_images:09d}-{ema_name(profile.std)}.safetensors"
    try:
        path.parent.mkdir(exist_ok=True)
        with atomic_file(path) as temporary:
            write_tensors(temporary, tensors, recipe.model_dump_json(), std=f"{profile.std:.3f}")
    except OSError as error:
        raise CheckpointWriteError(
            f"{path}: cannot be saved ({error.strerror or error}); make room, and go on"
        ) from error
    return path


def rounded(average: Tensor) -> Tensor:
    """Return a tensor in float16, or as it is where that would make something infinite."""
    half = average.half()
    return half if bool(torch.isfinite(half).all()) else average


def snapshots(run: Path) -> list[Snapshot]:
    """Return the snapshots of a run, oldest first."""
    folder = ema_folder(run)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [
        Snapshot(folder / name, Profile(float(match[2]), int(match[1])))
        for name in names
        if (match := SNAPSHOT_NAME.fullmatch(name))
    ]


def remove_snapshots_after(run: Path, num_images: int) -> None:
    """Remove what a run that goes on from `num_images` images is yet to come by, and what killed writers left."""
    folder = ema_folder(run)
    remove_temporaries(folder)
    for snapshot in snapshots(run):
        if snapshot.profile.num_images > num_images:
            snapshot.path.unlink()


def fingerprint(taken: Sequence[Snapshot]) -> str:
    """Return a hash of the names and contents of snapshots: the averages made of them are theirs and no others'."""
    said = [f"{snapshot.path.name} {read_metadata(snapshot.path).get('crc32')}" for snapshot in taken]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def find_post_hoc_ema(run: Path, std: float) -> Path:
    """Return the file that `hdit ema` made of a run's snapshots, if it is of those that are there now.

    Raises:
        CheckpointError: there is none, or the run has got other snapshots since.
    """
    path, taken = post_hoc_file(run, std), snapshots(run)
    if not taken:
        raise CheckpointError(
            f"{run}: has no average of length {std:.3f}, and no snapshots to make it of; train with "
            "train.ema_profiles = [0.05, 0.10], or take --weights ema"
        )
    if not path.exists():
        raise CheckpointError(f"{run}: has no average of length {std:.3f} yet; make it: hdit ema --std {std:g} {run}")
    if read_metadata(path).get("made_of") != fingerprint(taken):
        raise CheckpointError(
            f"{path}: was made of other snapshots than the run has now; make it again with hdit ema --std {std:g} "
            f"{run}, or give the file itself with --ckpt"
        )
    return path


def stream_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a file of ours one by one, in the order of their names, and see that they are intact.

    Raises:
        CheckpointError: the file is missing or corrupt; the latter may show after its last tensor only.
    """
    metadata = read_metadata(path)
    crc = metadata_crc32(metadata)
    try:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name)
                crc = tensor_crc32(name, tensor, crc)
                yield name, tensor
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: corrupt, or not a safetensors file ({error})") from None
    if str(crc) != metadata.get("crc32"):
        raise CheckpointError(f"{path}: corrupt: its content has checksum {crc}, expected {metadata.get('crc32')}")
