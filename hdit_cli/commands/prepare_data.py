"""`hdit prepare-data`: pictures of any kind become shards that `hdit train` reads."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hdit_cli.console import note, progress
from hdit_cli.options.shared import JsonOption, SeedOption, image_sizes
from hdit_cli.tables.prepare import report_data_set, report_task
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.data.prepare.array_task import ArrayTask
    from hdit_core.data.prepare.job import PrepareSettings
    from hdit_core.data.prepare.run import PrepareSummary, TaskSummary


app = typer.Typer(add_completion=False)

MOST_WORKERS = 16  # by default: a login node with 128 cores belongs to others too

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder (of images: its folders are classes; of shards or Parquet files), zip, tar, tar.gz, a pattern "
        "such as 'train-*.parquet', a text file of paths, - for such paths on stdin, or a named set (mnist, emoji).",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Where the data set is written.", show_default=False)
]
SizeOption = Annotated[
    str,
    typer.Option(
        "--size",
        metavar="N|HxW[,HxW...]",
        help="Height and width in pixels, one number for both; of several, an image gets the nearest in shape.",
    ),
]
ChannelsOption = Annotated[
    int | None,
    typer.Option("--channels", metavar="1|3", help="1 grey, 3 RGB.", show_default="the named set's, or 3"),
]
LabelsOption = Annotated[
    str,
    typer.Option(
        "--labels",
        metavar="FILE|auto|none",
        help="CSV with the columns file,label, JSONL with these keys, or TXT with one label a line in the order of the "
        "names; auto: what shards or Parquet say, else class folders, if there are.",
    ),
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="FILE|DIR|imagenet",
        help="What numbers the classes have: those of a list (one a line, or JSON), of a prepared set, or ImageNet's.",
        show_default="by their sorted names",
    ),
]
CropOption = Annotated[
    Literal["center", "random", "fit"],
    typer.Option("--crop", help="Which part of an image of another shape is kept; fit pads instead."),
]
FormatOption = Annotated[
    Literal["png", "webp", "jpeg"], typer.Option("--format", help="PNG, lossless WebP, or JPEG, which loses detail.")
]
QualityOption = Annotated[
    int | None,
    typer.Option("--quality", min=1, max=100, metavar="1-100", help="Of JPEG.", show_default="95"),
]
ResizeOption = Annotated[
    Literal["lanczos", "area", "bicubic"],
    typer.Option("--resize", help="How pixels become fewer: Lanczos, the mean of an area, or bicubic."),
]
ShardSizeOption = Annotated[int, typer.Option("--shard-size", min=1, metavar="N", help="Images a shard.")]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=0, metavar="N", help="Processes.", show_default=f"one a CPU, at most {MOST_WORKERS}"),
]
MaxBadOption = Annotated[
    str | None,
    typer.Option(
        "--max-bad",
        metavar="N|P%",
        help="Stop with exit code 3 when more files than this cannot be used, for example 10 or 0.01%.",
        show_default="any number is listed and skipped",
    ),
]
BackgroundOption = Annotated[
    str, typer.Option("--background", metavar="#RRGGBB", help="Colour behind transparent pixels and around fit.")
]


def _colour(text: str) -> tuple[int, int, int]:
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise UsageError(f"--background {text}: expected a colour as '#RRGGBB', for example '#ffffff'")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def _channels(number: int | None) -> Literal[1, 3] | None:
    if number not in (None, 1, 3):
        raise UsageError(f"--channels {number}: expected 1 for grey or 3 for RGB")
    return number  # type: ignore[return-value]


def _quality(chosen: int | None, codec: str) -> int:
    from hdit_core.data.image.codec import JPEG_QUALITY

    if chosen is not None and codec != "jpeg":
        raise UsageError(f"--quality {chosen}: is of JPEG; with --format {codec} every pixel is kept")
    return JPEG_QUALITY if chosen is None else chosen


def _default_workers() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # macOS has the latter
    return min(cpus or 1, MOST_WORKERS)


TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="I/N",
        help="Make share I of N (0 to N-1) of the data set, which all tasks have in one folder; 0/1: all of it.",
        show_default="Slurm's, in a job array or under srun, else 0/1",
    ),
]
FinishOption = Annotated[
    bool, typer.Option("--finish", help="Verify what the tasks made, and make one data set of it; the last step.")
]
NotInOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--not-in",
        metavar="DIR",
        help="Refuse images that this prepared set holds too, such as those for validation; repeatable.",
        show_default=False,
    ),
]
DropDuplicatesOption = Annotated[
    bool,
    typer.Option("--drop-duplicates", help="Leave out images that came before, or are in --not-in; else they count."),
]
StatsOption = Annotated[
    str | None,
    typer.Option(
        "--stats",
        metavar="EXTRACTOR",
        help="At the end keep the set's statistics beside the shards, a reference for hdit eval-fid --ref: inception, "
        "efficientnet-lite0, or a package's.",
        show_default=False,
    ),
]


def _share(task: str | None, finish: bool) -> "ArrayTask":
    """Return this process's share of the work: the one it was told, or the one that Slurm gave it."""
    from hdit_core.data.prepare.array_task import WHOLE_JOB, parse_array_task, slurm_array_task

    if finish and task is not None:
        raise UsageError("--finish: comes once, after all tasks; leave out --task")
    if finish:
        return WHOLE_JOB
    if task is not None:
        return parse_array_task(task)
    share = slurm_array_task(os.environ)
    if share != WHOLE_JOB:
        note(f"task {share} of this Slurm job; --task 0/1 would make everything here")
    return share


def _prepare(settings: "PrepareSettings", task: "ArrayTask", finish: bool) -> "PrepareSummary | TaskSummary":
    """Run the preparation beside a progress bar."""
    from hdit_core.data.prepare.run import finish_data, prepare_data, prepare_task

    with progress("verifying" if finish else "preparing") as bar:

        def show(done: int, total: int, bad: int) -> None:
            bar.update(done, total, f"{bad:,} not usable" if bad else "")

        if task.count > 1:
            return prepare_task(settings, task, show)
        return (finish_data if finish else prepare_data)(settings, show)


@app.command()
def prepare_data(
    source: SourceArgument,
    out: OutOption,
    size: SizeOption,
    channels: ChannelsOption = None,
    labels: LabelsOption = "auto",
    classes: ClassesOption = None,
    crop: CropOption = "center",
    resize: ResizeOption = "lanczos",
    codec: FormatOption = "png",
    quality: QualityOption = None,
    shard_size: ShardSizeOption = 1000,
    workers: WorkersOption = None,
    max_bad: MaxBadOption = None,
    background: BackgroundOption = "#ffffff",
    seed: SeedOption = 0,
    not_in: NotInOption = None,
    drop_duplicates: DropDuplicatesOption = False,
    task: TaskOption = None,
    finish: FinishOption = False,
    stats: StatsOption = None,
    json: JsonOption = False,
) -> None:
    """Turn pictures into verified webdataset shards.

    Beside the shards lie a manifest and an index. Orientation, palettes, CMYK, 16 bits, colour profiles and
    transparency are taken care of; files that cannot be used are listed with the reason in rejects.jsonl. After a
    kill, the same command goes on; the result is the same, byte for byte, whatever the number of processes.
    On a cluster, each task of a job array makes its share, and the same command with --finish comes last.

    Example: hdit prepare-data photos/ --out data/faces --size 1024
    """
    from hdit_core.data.prepare.job import PrepareSettings
    from hdit_core.data.prepare.run import PrepareSummary

    sizes = image_sizes(size)
    settings = PrepareSettings(
        source=source,
        out=out,
        size=sizes[0],
        channels=_channels(channels),
        labels=labels,
        classes=classes,
        crop=crop,
        resize=resize,
        codec=codec,
        quality=_quality(quality, codec),
        shard_size=shard_size,
        workers=_default_workers() if workers is None else workers,
        max_bad=max_bad,
        background=_colour(background),
        seed=seed,
        buckets=sizes if len(sizes) > 1 else (),
        not_in=tuple(not_in or ()),
        drop_duplicates=drop_duplicates,
    )
    if codec == "jpeg":
        note("JPEG loses detail: a model trained on it, and FID against it, show its artefacts; png and webp keep all")
    if stats is not None:
        _check_extractor(stats)
    summary = _prepare(settings, _share(task, finish), finish)
    if not isinstance(summary, PrepareSummary):
        report_task(summary, json)
        return
    if stats is not None:
        _keep_statistics(out, stats)
    report_data_set(summary, json)


def _check_extractor(name: str) -> None:
    """Refuse an extractor that there is not, or whose weights cannot be had, before hours are spent on the images."""
    from hdit_core.evaluate.extractors.extractor import open_extractor

    open_extractor(name)


def _keep_statistics(out: Path, extractor: str) -> None:
    """Keep the statistics of a finished data set in its folder, unless they are there."""
    from hdit_core.evaluate.score import dataset_statistics

    with progress("statistics") as bar:
        path = dataset_statistics(out, extractor, bar.update)
    note(f"statistics: {path}; compare with hdit eval-fid IMAGES --ref {path}")
