"""The parts of a training that was continued by forks: run, images, batch size, data set and changes of each."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from hdit_core.checkpoint.lineage import Fork
from hdit_core.checkpoint.state import State
from hdit_core.generate.export.markdown import as_text
from hdit_core.recipe.diff import flatten
from hdit_core.recipe.run import Recipe

DATA_SET = "data set"  # the key of a fork's change of data
HASH_DIGITS = 16


@dataclass(frozen=True)
class RunPart:
    """What one run contributed to the weights.

    Attributes:
        run: its name.
        images, steps: numbers of its own.
        elapsed_s: its training time; None if unknown.
        batch_size: images per step, all sizes that were used.
        data_set: the last component of the path, and the first digits of the manifest's hash.
        start: where it started and with which changes; None for the first part.
    """

    run: str
    images: int
    steps: int
    elapsed_s: float | None
    batch_size: str
    data_set: str
    start: str | None


def run_parts(lineage: Sequence[Fork], recipe: Recipe, state: State, run: str) -> list[RunPart]:
    """Return the parts of a training, oldest first; one for a run that is not a fork.

    Args:
        lineage: the forks that led to the run.
        recipe, state: of the checkpoint.
        run: name of the run.
    """
    settings = flatten(recipe.model_dump(mode="json")) | {DATA_SET: state.data_hash[:HASH_DIGITS]}
    ends: list[Fork | State] = [*lineage, state]
    names = [*(PurePosixPath(fork.run).name for fork in lineage), run]
    parts: list[RunPart] = []
    for index in reversed(range(len(ends))):
        fork = lineage[index - 1] if index else None
        parts.append(_part(names[index], fork, ends[index], settings))
        if fork is not None:
            settings |= {key: before for key, (before, _) in fork.changes.items()}
    return parts[::-1]


def total_time_s(parts: Sequence[RunPart]) -> float | None:
    """Return the training time of all parts; None if that of one is unknown."""
    times = [part.elapsed_s for part in parts]
    return None if None in times else sum(time for time in times if time is not None)


def time_text(seconds: float | None) -> str:
    """Return a training time as text, such as `"2.5 hours"` or `"40 seconds"`."""
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


def lineage_section(parts: Sequence[RunPart]) -> Iterator[str]:
    """Yield the lines of a model card about the parts of a training."""
    yield "### Continued runs"
    yield ""
    yield "Oldest first, each with its own numbers; the final loss and the settings above are those of the last."
    yield ""
    yield "| part | run | images | steps | batch size | data set | time |"
    yield "|---|---|---|---|---|---|---|"
    for number, part in enumerate(parts, 1):
        time = time_text(part.elapsed_s)
        cells = [as_text(part.run), f"{part.images:,}", f"{part.steps:,}", part.batch_size, part.data_set, time]
        yield f"| {number} | {' | '.join(cells)} |"
    yield ""
    yield from (f"- Part {number}: {part.start}" for number, part in enumerate(parts, 1) if part.start)


def _part(run: str, fork: Fork | None, end: Fork | State, settings: Mapping[str, Any]) -> RunPart:
    """Return one part: what came after `fork`, the last one before it, and before `end`."""
    before = None if fork is None or "counter" in fork.reset else fork
    images, steps, elapsed_s = end.num_images, end.step, end.elapsed_s
    if before is not None:
        images, steps = images - before.num_images, steps - before.step
        known = elapsed_s is not None and before.elapsed_s is not None
        elapsed_s = (elapsed_s or 0.0) - (before.elapsed_s or 0.0) if known else None
    sizes = _batch_sizes(settings, end.num_images - images, end.num_images)
    name = PurePosixPath(settings["data.path"]).name or "data"
    data_set = f"{as_text(name)} ({settings[DATA_SET]})"
    return RunPart(run, images, steps, elapsed_s, sizes, data_set, None if fork is None else _start(fork))


def _batch_sizes(settings: Mapping[str, Any], start: int, end: int) -> str:
    """Return the batch sizes in use from one number of images to another, in order."""
    marks = {0: settings["train.batch_size"]}
    for key, after_images in settings.items():
        if after_images is not None and re.fullmatch(r"train\.batch_growth\[\d+\]\.after_images", key):
            marks[after_images] = settings[key.replace("after_images", "batch_size")]
    first = max(mark for mark in marks if mark <= start)
    return ", then ".join(f"{size:,}" for mark, size in sorted(marks.items()) if first <= mark < max(end, first + 1))


def _start(fork: Fork) -> str:
    reset = [f"{', '.join(fork.reset)} reset"] if fork.reset else []
    changes = [f"`{key}` {_shown(before)} to {_shown(after)}" for key, (before, after) in fork.changes.items()]
    origin = f"from {as_text(PurePosixPath(fork.run).name)} at step {fork.step:,} ({fork.num_images:,} images)"
    return "; ".join([origin, *reset, *(changes or ["no setting changed"])])


def _shown(value: Any) -> str:
    """Return a setting as Markdown; of a path only the last component."""
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str) and "/" in value:
        value = PurePosixPath(value).name
    return "not set" if value is None else as_text(str(value))
