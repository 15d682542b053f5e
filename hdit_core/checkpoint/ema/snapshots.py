"""Files of EMA weights: snapshots taken during training, and EMAs that are reconstructed from them.

RUN/averages/000096000-ema-0.050.safetensors      the EMA of length 0.050 after 96,000 images
RUN/averages/post-hoc-0.080.safetensors           the EMA that `hdit ema --length 0.08` reconstructed

Snapshots are stored in float16: relative error at most 2^-11, or 3e-8 for weights below 6e-5. Tensors that overflow
float16, and those that are not averaged, keep their type.
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
from hdit_core.errors import CheckpointError, CheckpointWriteError, UsageError, is_out_of_memory
from hdit_core.files import atomic_file, remove_temporaries
from hdit_core.recipe.run import Recipe

SNAPSHOT_NAME = re.compile(r"(\d{9,})-ema-(0\.\d{3})\.safetensors")


@dataclass(frozen=True)
class Snapshot:
    """An EMA at one moment of the run."""

    path: Path
    profile: Profile


def ema_name(std: float) -> str:
    """Return the name of the checkpoint's file with the EMA of a length: `"ema-0.050"`."""
    return f"ema-{std:.3f}"


def parse_ema_std(text: str) -> float:
    """Parse an EMA length.

    Raises:
        UsageError: it is not a number from 0.001 to 0.288 with at most three decimals, as in file names.
    """
    match = re.fullmatch(r"0?\.(\d{1,3})0{0,9}", text.strip())
    if match is None or not SHORTEST <= float(text) <= LONGEST:
        raise UsageError(
            f"EMA length {text}: expected a number from {SHORTEST} to {LONGEST} with three decimals at most, e.g. 0.08"
        )
    return float(text)


def part_name(weights: str) -> str:
    """Return the name of the checkpoint's file with these weights: `"ema"`, `"model"` or `"ema-0.080"`.

    Raises:
        UsageError: they are neither of these nor an EMA length.
    """
    if weights in ("ema", "model"):
        return weights
    if weights.strip()[:1] not in set("0123456789.-"):
        raise UsageError(f"weights {weights}: expected ema, model, or an EMA length such as 0.08")
    return ema_name(parse_ema_std(weights))


def post_hoc_file(run: Path, std: float) -> Path:
    """Return the file of a reconstructed EMA."""
    return ema_folder(run) / f"post-hoc-{std:.3f}.safetensors"


def write_snapshot(run: Path, recipe: Recipe, profile: Profile, tensors: Mapping[str, Tensor]) -> Path:
    """Write a snapshot of an EMA atomically; one of the same moment is replaced.

    Args:
        tensors: the state of the model, on the CPU; averaged tensors are already `rounded`.

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
            f"{path}: cannot be saved ({error.strerror or error}); free disk space and rerun the command"
        ) from error
    return path


def rounded(average: Tensor) -> Tensor:
    """Return a tensor in float16, or unchanged if it overflows."""
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
    """Remove snapshots after `num_images` images, which a resumed run writes again, and temporary files."""
    folder = ema_folder(run)
    remove_temporaries(folder)
    for snapshot in snapshots(run):
        if snapshot.profile.num_images > num_images:
            snapshot.path.unlink()


def fingerprint(taken: Sequence[Snapshot]) -> str:
    """Return a hash of the names and contents of snapshots, to recognize the EMAs reconstructed from them."""
    entries = [f"{snapshot.path.name} {read_metadata(snapshot.path).get('crc32')}" for snapshot in taken]
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()


def find_post_hoc_ema(run: Path, std: float) -> Path:
    """Return the file of an EMA that was reconstructed from the run's current snapshots.

    Raises:
        CheckpointError: there is none, or it was reconstructed from other snapshots.
    """
    path, taken = post_hoc_file(run, std), snapshots(run)
    if not taken:
        raise CheckpointError(
            f"{run}: has no EMA of length {std:.3f} and no snapshots to reconstruct it from; train with "
            "train.ema_profiles = [0.05, 0.10], or use --weights ema"
        )
    if not path.exists():
        raise CheckpointError(f"{run}: has no EMA of length {std:.3f} yet; run hdit ema --length {std:g} {run}")
    if read_metadata(path).get("made_of") != fingerprint(taken):
        raise CheckpointError(
            f"{path}: was reconstructed from other snapshots than the run has now; rerun hdit ema --length {std:g} "
            f"{run}, or give the file itself with --ckpt"
        )
    return path


def stream_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a file one by one, in the order of their names, and verify the checksum.

    Raises:
        CheckpointError: the file is missing or corrupt; a wrong checksum is only found after the last tensor.
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
    except RuntimeError as error:  # torch maps the file into memory
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if str(crc) != metadata.get("crc32"):
        raise CheckpointError(f"{path}: corrupt: its content has checksum {crc}, expected {metadata.get('crc32')}")
