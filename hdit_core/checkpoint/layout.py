"""The folder of a run, and the order of its checkpoints.

RUN/recipe.toml                         what was asked for, every default written out
RUN/status.json                         running, preempted, done or failed; step and images
RUN/log.jsonl                           one line every `train.log_every_images`
RUN/checkpoints/step-000001500/         model, ema and optimizer .safetensors, state.json, manifest.json
RUN/averages/000096000-ema-0.050.safetensors    snapshots of `train.ema_profiles`; what `hdit ema` makes of them
RUN/grids/000096000.png                 samples on the way
RUN/scores.jsonl, best, best.json        scores of `train.eval_every_images`, and the checkpoint that is best by them
RUN/sweep/, sample.toml                  what `hdit sweep` tried, and how it found that images are best drawn
RUN/incidents/step-000001234.json       what went into a step that was not finite, or a spike
"""

import re
from pathlib import Path

CHECKPOINT_NAME = re.compile(r"step-(\d{9})")


def recipe_file(run: Path) -> Path:
    return run / "recipe.toml"


def status_file(run: Path) -> Path:
    return run / "status.json"


def log_file(run: Path) -> Path:
    return run / "log.jsonl"


def scores_file(run: Path) -> Path:
    return run / "scores.jsonl"


def stop_file(run: Path) -> Path:
    """Return the file whose presence asks the run to save and stop."""
    return run / "STOP"


def grid_file(run: Path, num_images: int) -> Path:
    return run / "grids" / f"{num_images:09d}.png"


def ema_folder(run: Path) -> Path:
    return run / "averages"


def incident_file(run: Path, step: int, skips: int = 0) -> Path:
    """Return where a step is described that went wrong, after the run had passed over images `skips` times."""
    return run / "incidents" / f"step-{step:09d}{f'-{skips}' if skips else ''}.json"


def checkpoint_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:09d}"


def checkpoint_folders(run: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first, whether they are intact or not."""
    folder = run / "checkpoints"
    names = [path for path in folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(names, key=lambda path: path.name, reverse=True)
