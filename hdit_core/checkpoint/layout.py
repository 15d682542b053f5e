"""The run directory, the order of its checkpoints, and the local path of a model.

RUN/recipe.toml                         the recipe, with all defaults written out
RUN/status.json                         running, preempted, done or failed; step and images
RUN/log.jsonl                           a line every `train.log_every_images`
RUN/checkpoints/step-000001500/         model, ema and optimizer .safetensors, state.json, manifest.json
RUN/averages/000096000-ema-0.050.safetensors    snapshots of `train.ema_profiles`, and what `hdit ema` reconstructs
RUN/grids/000096000.png                 sample grids
RUN/scores.jsonl, best, best.json       scores of `train.eval_every_images`, and the best checkpoint
RUN/sweep/, sample.toml                 the candidates of `hdit sweep`, and the sampling defaults that it found
RUN/incidents/step-000001234.json       reports of non-finite losses and loss spikes
"""

import re
from pathlib import Path

from hdit_core.remote_models import fetch_model, remote_address

CHECKPOINT_NAME = re.compile(r"step-(\d{9})")
RUN_AT_STEP = re.compile(r"(.+)@([0-9]{1,9})")


def recipe_file(run: Path) -> Path:
    """Return the file of the run's recipe."""
    return run / "recipe.toml"


def status_file(run: Path) -> Path:
    """Return the file of the run's status."""
    return run / "status.json"


def log_file(run: Path) -> Path:
    """Return the file of the run's log."""
    return run / "log.jsonl"


def scores_file(run: Path) -> Path:
    """Return the file of the run's scores."""
    return run / "scores.jsonl"


def stop_file(run: Path) -> Path:
    """Return the file that makes the run save and stop if it exists."""
    return run / "STOP"


def grid_file(run: Path, num_images: int) -> Path:
    """Return the file of the sample grid after `num_images` images."""
    return run / "grids" / f"{num_images:09d}.png"


def ema_folder(run: Path) -> Path:
    """Return the folder of EMA snapshots and of reconstructed EMAs."""
    return run / "averages"


def incident_file(run: Path, step: int, skips: int = 0) -> Path:
    """Return the anomaly report of a step, after the run had skipped images `skips` times."""
    return run / "incidents" / f"step-{step:09d}{f'-{skips}' if skips else ''}.json"


def checkpoint_folder(run: Path, step: int) -> Path:
    """Return the folder of a checkpoint."""
    return run / "checkpoints" / f"step-{step:09d}"


def checkpoint_step(folder: Path) -> int:
    """Return the step of a checkpoint by its name."""
    return int(folder.name.removeprefix("step-"))


def checkpoint_folders(run: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first, valid or not."""
    folder = run / "checkpoints"
    names = [path for path in folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(names, key=lambda path: path.name, reverse=True)


def run_and_step(path: Path | str) -> tuple[Path, int | None]:
    """Split RUN@STEP; the step is None if the path has none, or exists as it is."""
    match = None if Path(path).exists() else RUN_AT_STEP.fullmatch(str(path))
    return (Path(match[1]), int(match[2])) if match else (Path(path), None)


def local_model(path: Path | str) -> Path:
    """Return the local path of a model: an address is fetched into the cache first, RUN@STEP is a checkpoint folder.

    Raises:
        UsageError: the package for this kind of address is missing.
        CheckpointError: there is no model at the address, or it cannot be fetched.
    """
    if (address := remote_address(path)) is not None:
        return fetch_model(address)
    run, step = run_and_step(path)
    return run if step is None else checkpoint_folder(run, step)
