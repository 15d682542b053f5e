"""`hdit prepare-data`: converts images of any kind to shards that `hdit train` reads."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hdit_cli.console import note, progress
from hdit_cli.options.attachments import AttachmentOptions
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.preparation import FinishOption, PrepareOptions, StatsOption, TaskOption
from hdit_cli.options.shared import JsonOption
from hdit_cli.stopping import stopping_early
from hdit_cli.tables.prepare import report_data_set, report_task
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.data.prepare.array_task import ArrayTask
    from hdit_core.data.prepare.job import PrepareSettings
    from hdit_core.data.prepare.run import PrepareSummary, TaskSummary


app = typer.Typer(add_completion=False)


def _share(task: str | None, finish: bool) -> "ArrayTask":
    """Return this process's part: the one of --task, or the one of Slurm's environment."""
    from hdit_core.data.prepare.array_task import WHOLE_JOB, parse_array_task, slurm_array_task

    if finish and task is not None:
        raise UsageError("--finish: merges the parts of all tasks; leave out --task")
    if finish:
        return WHOLE_JOB
    if task is not None:
        return parse_array_task(task)
    share = slurm_array_task(os.environ)
    if share != WHOLE_JOB:
        note(f"task {share} of this Slurm job; --task 0/1 would process everything in this process")
    return share


def _prepare(settings: "PrepareSettings", task: "ArrayTask", finish: bool) -> "PrepareSummary | TaskSummary":
    """Run the preparation with a progress bar."""
    from hdit_core.data.prepare.run import finish_data, prepare_data, prepare_task

    kept = f"the finished shards in {settings.out}"
    with stopping_early(kept), progress("verifying" if finish else "preparing") as bar:

        def show(done: int, total: int, bad: int) -> None:
            bar.update(done, total, f"{bad:,} unusable" if bad else "")

        if task.count > 1:
            return prepare_task(settings, task, show)
        return (finish_data if finish else prepare_data)(settings, show)


@app.command()
@grouped_options
def prepare_data(
    *,
    options: PrepareOptions,
    attachments: AttachmentOptions,
    task: TaskOption = None,
    finish: FinishOption = False,
    stats: StatsOption = None,
    json: JsonOption = False,
) -> None:
    """Convert images to webdataset shards with checksums.

    EXIF orientation, palettes, CMYK, 16 bits, color profiles and transparency are handled; every file that is left out
    is listed in DIR/rejects.jsonl with the reason. Rerun the same command to resume; the result is byte-identical for
    any number of processes. On a cluster, each task of a job array processes one part (hdit slurm prepare-data); then
    the same command with --finish merges them.

    Examples:
      hdit prepare-data photos/ --out data/faces --size 1024
      hdit prepare-data photos.tar --out data/faces --size 1024
      find . -name '*.png' | head -99 | hdit prepare-data - --out data/a --size 64
    """
    from hdit_core.data.prepare.run import PrepareSummary

    settings = options.settings(attachments.settings())
    if settings.codec == "jpeg":
        note("JPEG is lossy: models trained on it, and FID against it, show its artifacts; png and webp are lossless")
    if stats is not None:
        _check_extractor(stats)
    summary = _prepare(settings, _share(task, finish), finish)
    if not isinstance(summary, PrepareSummary):
        report_task(summary, json)
        return
    if stats is not None:
        _write_statistics(settings.out, stats)
    report_data_set(summary, json)


def _check_extractor(name: str) -> None:
    """Refuse an unknown extractor, or one without weights, before the images are prepared."""
    from hdit_core.evaluate.extractors.extractor import open_extractor

    open_extractor(name)


def _write_statistics(out: Path, extractor: str) -> None:
    """Write the statistics of a finished data set to its folder, unless they exist."""
    from hdit_core.evaluate.score import dataset_statistics

    with progress("statistics") as bar:
        path = dataset_statistics(out, extractor, bar.update)
    note(f"statistics: {path}; compare with hdit eval-fid IMAGES --ref {path}")
