"""`hdit prepare-data`: converts images of any kind to shards that `hdit train` reads."""

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

MOST_WORKERS = 16  # by default: others use a login node with 128 cores too

INPUT, PIXELS, OUTPUT = "Input", "Image transform", "Output"
FILTERS, CLUSTER = "Filtering and duplicates", "Performance and job arrays"

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder of images (subfolders are classes), shards or Parquet files; zip, tar or tar.gz; a pattern such "
        "as 'train-*.parquet'; a text file of paths, or - for such paths on stdin; or a named set (mnist, emoji).",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out", "-o", metavar="DIR", help="Folder of the data set.", show_default=False, rich_help_panel=OUTPUT
    ),
]
SizeOption = Annotated[
    str,
    typer.Option(
        "--size",
        metavar="N|HxW[,HxW...]",
        help="Height and width in pixels; one number for both. With several sizes, each image gets the one with the "
        "nearest aspect ratio.",
        rich_help_panel=PIXELS,
    ),
]
ChannelsOption = Annotated[
    int | None,
    typer.Option(
        "--channels",
        metavar="1|3",
        help="1: greyscale; 3: RGB.",
        show_default="the named set's, or 3",
        rich_help_panel=PIXELS,
    ),
]
LabelsOption = Annotated[
    str,
    typer.Option(
        "--labels",
        metavar="FILE|auto|none",
        help="auto: labels of the source, else class folders, if any; none: no classes; or a file: CSV with the "
        "columns file,label, JSONL with these keys, or TXT with one label per line, in the order of the sorted names.",
        rich_help_panel=INPUT,
    ),
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="FILE|DIR|imagenet",
        help="Class names in index order: a list file (one per line, or JSON), a prepared set, or imagenet.",
        show_default="the sorted names",
        rich_help_panel=INPUT,
    ),
]
CropOption = Annotated[
    Literal["center", "random", "fit"],
    typer.Option(
        "--crop",
        metavar="center|random|fit",
        help="Crop of images with another aspect ratio: center or random; fit pads them instead.",
        rich_help_panel=PIXELS,
    ),
]
FormatOption = Annotated[
    Literal["png", "webp", "jpeg"],
    typer.Option(
        "--format",
        metavar="png|webp|jpeg",
        help="Image format in the shards: png or webp (both lossless), or jpeg (lossy).",
        rich_help_panel=OUTPUT,
    ),
]
QualityOption = Annotated[
    int | None,
    typer.Option(
        "--quality", min=1, max=100, metavar="1-100", help="JPEG quality.", show_default="95", rich_help_panel=OUTPUT
    ),
]
ResizeOption = Annotated[
    Literal["lanczos", "area", "bicubic"],
    typer.Option("--resize", metavar="lanczos|area|bicubic", help="Downsampling filter.", rich_help_panel=PIXELS),
]
ShardSizeOption = Annotated[
    int, typer.Option("--shard-size", min=1, metavar="N", help="Images per shard.", rich_help_panel=OUTPUT)
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        metavar="N",
        help="Worker processes.",
        show_default=f"one per CPU, at most {MOST_WORKERS}",
        rich_help_panel=CLUSTER,
    ),
]
MaxBadOption = Annotated[
    str | None,
    typer.Option(
        "--max-bad",
        metavar="N|P%",
        help="Stop with exit code 3 if more files than this are unusable, for example 10 or 0.01%.",
        show_default="unusable files are listed and skipped",
        rich_help_panel=FILTERS,
    ),
]
BackgroundOption = Annotated[
    str,
    typer.Option(
        "--background",
        metavar="#RRGGBB",
        help="Colour behind transparent pixels, and of the padding of --crop fit.",
        rich_help_panel=PIXELS,
    ),
]


def _colour(text: str) -> tuple[int, int, int]:
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise UsageError(f"--background {text}: expected a colour as '#RRGGBB', for example '#ffffff'")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def _channels(number: int | None) -> Literal[1, 3] | None:
    if number not in (None, 1, 3):
        raise UsageError(f"--channels {number}: expected 1 for greyscale or 3 for RGB")
    return number  # type: ignore[return-value]


def _quality(chosen: int | None, codec: str) -> int:
    from hdit_core.data.image.codec import JPEG_QUALITY

    if chosen is not None and codec != "jpeg":
        raise UsageError(f"--quality {chosen}: applies to JPEG only; --format {codec} is lossless")
    return JPEG_QUALITY if chosen is None else chosen


def _expanded(text: str) -> str:
    """Return a path with its home folder, which the shell leaves alone in `--labels=~/x` and between quotes."""
    return str(Path(text).expanduser()) if text.startswith("~") else text


def _default_workers() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # macOS has the latter
    return min(cpus or 1, MOST_WORKERS)


TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="I/N",
        help="Process part I of N (I from 0); all parts share --out. 0/1: everything.",
        show_default="Slurm's array task or srun rank, else 0/1",
        rich_help_panel=CLUSTER,
    ),
]
FinishOption = Annotated[
    bool, typer.Option("--finish", help="Verify and merge the parts (run once, last).", rich_help_panel=CLUSTER)
]
NotInOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--not-in",
        metavar="DIR",
        help="Fail if an image is also in this prepared set (e.g. validation), or drop it with --drop-duplicates; "
        "repeatable.",
        rich_help_panel=FILTERS,
        show_default=False,
    ),
]
DropDuplicatesOption = Annotated[
    bool,
    typer.Option(
        "--drop-duplicates",
        help="Drop exact duplicates, within the set and against --not-in; without it, they are kept and counted.",
        rich_help_panel=FILTERS,
    ),
]
MinSizeOption = Annotated[
    int,
    typer.Option(
        "--min-size",
        min=0,
        metavar="PX",
        help="Leave out images whose shorter side has fewer pixels; 0: none.",
        rich_help_panel=FILTERS,
    ),
]
NoUpscaleOption = Annotated[
    bool,
    typer.Option(
        "--no-upscale",
        help="Leave out images that would have to be upscaled to --size; without it, they are upscaled and counted.",
        rich_help_panel=FILTERS,
    ),
]
StatsOption = Annotated[
    str | None,
    typer.Option(
        "--stats",
        metavar="EXTRACTOR",
        help="Also write reference statistics for hdit eval-fid --ref next to the shards: inception, "
        "efficientnet-lite0, or the name of an installed extractor.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]


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

    with progress("verifying" if finish else "preparing") as bar:

        def show(done: int, total: int, bad: int) -> None:
            bar.update(done, total, f"{bad:,} unusable" if bad else "")

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
    min_size: MinSizeOption = 0,
    no_upscale: NoUpscaleOption = False,
    task: TaskOption = None,
    finish: FinishOption = False,
    stats: StatsOption = None,
    json: JsonOption = False,
) -> None:
    """Convert images to verified webdataset shards.

    EXIF orientation, palettes, CMYK, 16 bits, colour profiles and transparency are handled; unusable files are listed
    in rejects.jsonl with the reason. If interrupted, rerun the same command to resume; the result is byte-identical for
    any number of processes. On a cluster, each array task processes one part; run the command once more with --finish
    to merge them.

    Example: hdit prepare-data photos/ --out data/faces --size 1024
    """
    from hdit_core.data.prepare.job import PrepareSettings
    from hdit_core.data.prepare.run import PrepareSummary

    sizes = image_sizes(size)
    settings = PrepareSettings(
        source=_expanded(source),
        out=out.expanduser(),
        size=sizes[0],
        channels=_channels(channels),
        labels=_expanded(labels),
        classes=None if classes is None else _expanded(classes),
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
        not_in=tuple(folder.expanduser() for folder in not_in or ()),
        drop_duplicates=drop_duplicates,
        min_size=min_size,
        no_upscale=no_upscale,
    )
    if codec == "jpeg":
        note("JPEG is lossy: models trained on it, and FID against it, show its artefacts; png and webp are lossless")
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
    """Refuse an unknown extractor, or one without weights, before hours are spent on the images."""
    from hdit_core.evaluate.extractors.extractor import open_extractor

    open_extractor(name)


def _write_statistics(out: Path, extractor: str) -> None:
    """Write the statistics of a finished data set to its folder, unless they are there."""
    from hdit_core.evaluate.score import dataset_statistics

    with progress("statistics") as bar:
        path = dataset_statistics(out, extractor, bar.update)
    note(f"statistics: {path}; compare with hdit eval-fid IMAGES --ref {path}")
