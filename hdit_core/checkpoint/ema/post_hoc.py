"""Reconstruction of the EMA of any length after training, from snapshots of other EMAs.

Karras et al. (2024), section 3.2 and appendix C: an EMA is linear in its profile, so a combination of snapshots has the
same combination of their profiles.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from hdit_core.checkpoint.ema.profile import LONGEST, SHORTEST, Mixture, Profile, mixtures
from hdit_core.checkpoint.ema.snapshots import Snapshot, fingerprint, post_hoc_file, snapshots, stream_tensors
from hdit_core.checkpoint.safetensors_file import Tensors, read_metadata, write_tensors
from hdit_core.errors import CheckpointError, CheckpointWriteError, RecipeError, UsageError
from hdit_core.files import atomic_file
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.model import ModelRecipe
from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.run import Recipe

MAX_ERROR = 0.05
MAX_GAIN = 20.0
"""The largest amplification of the snapshots' rounding error: with 20 it is 0.4 % of a weight (RMS), as with 7 bits."""


@dataclass(frozen=True)
class PostHoc:
    """An EMA that was reconstructed from snapshots."""

    path: Path
    std: float
    num_images: int
    num_snapshots: int
    mixture: Mixture


def plan_post_hoc_ema(run: Path, std: float) -> tuple[list[Snapshot], Mixture]:
    """Return the snapshots of a run and their coefficients for the EMA of a length up to the newest of them.

    Raises:
        CheckpointError: there is no such run, or it has no snapshots.
        UsageError: the length cannot be reconstructed; the message names the possible ones.
    """
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such run")
    chosen = snapshots(run)
    if not chosen:
        raise CheckpointError(f"{run}: has no EMA snapshots; train with train.ema_profiles = [0.05, 0.10]")
    parts = [snapshot.profile for snapshot in chosen]
    mixture = mixtures(parts, [Profile(std, parts[-1].num_images)])[0]
    if not _is_good(mixture):
        raise UsageError(
            f"{run}: its {len(chosen)} snapshots do not allow an EMA of length {std:.3f}: its profile error would be "
            f"{mixture.error:.1%} (at most {MAX_ERROR:.0%}), and the amplification of rounding {mixture.gain:.1f} "
            f"(at most {MAX_GAIN:.0f}). Possible lengths: {_ranges(parts)}"
        )
    return chosen, mixture


def build_post_hoc_ema(run: Path, std: float, target: Path | None = None) -> PostHoc:
    """Reconstruct the EMA of a length up to a run's newest snapshot, and write it as a file for `load_denoiser`.

    Snapshots are read one by one, tensor by tensor: only the result in float32 and one tensor are in memory.

    Args:
        std: the relative length (sigma_rel), from 0.001 to 0.288.
        target: default RUN/averages/post-hoc-0.080.safetensors; an existing file is replaced.

    Raises:
        CheckpointError: the run has no snapshots, one is corrupt, or the target cannot be written.
        UsageError: the length cannot be reconstructed.
    """
    chosen, mixture = plan_post_hoc_ema(run, std)
    path, newest = target or post_hoc_file(run, std), chosen[-1]
    recipe, snapshots_hash = _recipe_of(newest), fingerprint(chosen)
    average = _weighted_sum(chosen, mixture.weights, recipe.model)
    origin = {"std": f"{std:.3f}", "run": run.resolve().name, "images_seen": str(newest.profile.num_images)}
    try:
        with atomic_file(path) as temporary:
            write_tensors(temporary, average, recipe.model_dump_json(), **origin, made_of=snapshots_hash)
    except OSError as error:
        raise CheckpointWriteError(f"{path}: cannot be written ({error.strerror or error})") from error
    return PostHoc(path, std, newest.profile.num_images, len(chosen), mixture)


def _weighted_sum(chosen: Sequence[Snapshot], weights: Sequence[float], model: ModelRecipe) -> Tensors:
    """Return the weighted sum of the snapshots; buffers, which are equal in all of them, are copied."""
    with torch.device("meta"):
        network = HourglassTransformer(model)
    fixed = {name for name, _ in network.named_buffers()}
    total = {name: torch.zeros(tensor.shape) for name, tensor in network.state_dict().items()}
    for snapshot, weight in zip(chosen, weights, strict=True):
        missing = set(total)
        for name, tensor in stream_tensors(snapshot.path):
            if name not in missing or total[name].shape != tensor.shape:
                raise CheckpointError(f"{snapshot.path}: {name} does not fit the model of the run's newest snapshot")
            missing.remove(name)
            if name in fixed:
                total[name] = tensor
            else:
                total[name].add_(tensor, alpha=weight)
        if missing:
            raise CheckpointError(f"{snapshot.path}: lacks the tensor {min(missing)}")
    return total


def _recipe_of(snapshot: Snapshot) -> Recipe:
    try:
        return check_recipe(json.loads(read_metadata(snapshot.path)["recipe"]), str(snapshot.path))
    except (KeyError, ValueError, RecursionError, RecipeError) as error:
        raise CheckpointError(f"{snapshot.path}: its metadata is corrupt: {error}") from None


def _is_good(mixture: Mixture) -> bool:
    return mixture.error <= MAX_ERROR and mixture.gain <= MAX_GAIN


def _ranges(parts: Sequence[Profile]) -> str:
    """Return the lengths that can be reconstructed, such as `"0.016 to 0.240"`."""
    steps = range(round(1000 * SHORTEST), round(1000 * LONGEST) + 1)
    results = mixtures(parts, [Profile(step / 1000, parts[-1].num_images) for step in steps])
    good = [step for step, mixture in zip(steps, results, strict=True) if _is_good(mixture)]
    runs = [[step for _, step in group] for _, group in groupby(enumerate(good), lambda pair: pair[1] - pair[0])]
    return " and ".join(f"{run[0] / 1000:.3f} to {run[-1] / 1000:.3f}" for run in runs)
