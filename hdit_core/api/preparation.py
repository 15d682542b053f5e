"""`prepare_data`: from images of any kind to a prepared data set."""

from pathlib import Path
from typing import Any

from hdit_core.api.arguments import PathLike, checked_settings, path_argument, shown_progress, size_argument
from hdit_core.data.prepare import run
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import PrepareSummary
from hdit_core.train.start.checks import check_main_guard


def prepare_data(
    source: PathLike, out: PathLike, *, size: int | tuple[int, int], progress: bool = True, **settings: Any
) -> PrepareSummary:
    """Convert images to a prepared data set, as `hdit prepare-data` does, and return its summary.

    Args:
        source: a folder, an archive, a list of paths, or a named set such as `"mnist"`.
        out: the folder of the data set; an unfinished one is resumed, a finished one is left unchanged.
        size: of the images in pixels: one number, or (height, width).
        progress: show progress on stderr.
        settings: fields of `hdit_core.data.prepare.job.PrepareSettings`, such as `labels="none"`, `crop="random"`,
            `channels=1`, `min_size=64`, `workers=8` (processes; by default one).

    Raises:
        TypeError: there is no such setting.
        UsageError: a value is wrong, there is no such source, or the folder contains something else.
        DataError: the source cannot be read, or no image is usable.
    """
    values = {
        "source": path_argument(source, "source"),
        "out": Path(path_argument(out, "out")),
        "size": size_argument(size),
        **settings,
    }
    checked = checked_settings(PrepareSettings, "prepare_data", values)
    check_main_guard(checked.workers if checked.workers > 1 else 0, "workers", "spawn")
    with shown_progress(progress, "preparing") as bar:
        return run.prepare_data(
            checked, lambda done, total, bad: bar.update(done, total, f"{bad:,} unusable" * (bad > 0))
        )
