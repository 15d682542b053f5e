"""The options of `hdit prepare-data`, and the settings made from them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hdit_cli.options.attachments import DtypeOption, PagesOption, RangeOption, expanded_path, value_ranges
from hdit_cli.options.shared import image_sizes
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.data.prepare.job import PrepareSettings

MOST_WORKERS = 16  # by default, since login nodes with 128 cores are shared

INPUT, PIXELS, OUTPUT = "Input", "Image transform", "Output"
FILTERS, CLUSTER = "Filtering and duplicates", "Performance and job arrays"

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder of images (subfolders are classes), shards or Parquet files; zip, tar or tar.gz; a pattern such "
        "as 'train-*.parquet'; a text file of paths, or - for paths on stdin (a tar has to be a file); or a built-in "
        "data set (mnist, emoji).",
    ),
]
OutOption = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="DIR", help="Folder of the data set.", rich_help_panel=OUTPUT),
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
CropSeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Random seed of --crop random.", rich_help_panel=PIXELS)
]
ChannelsOption = Annotated[
    int | None,
    typer.Option(
        "--channels",
        min=1,
        max=64,
        metavar="N",
        help="1: grayscale; 3: RGB; up to 64 for arrays (.npy, TIFF, PNG with alpha).",
        show_default="the built-in set's, or 3",
        rich_help_panel=PIXELS,
    ),
]
LabelsOption = Annotated[
    str,
    typer.Option(
        "--labels",
        metavar="FILE|auto|none",
        help="Where the classes come from. auto: the labels in SOURCE, or its subfolders; none: no classes; FILE: CSV "
        "with the columns file,label, JSONL with these keys, or TXT with one label per line, in the order of the "
        "sorted names.",
        rich_help_panel=INPUT,
    ),
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="FILE|DIR|imagenet",
        help="Class names in index order: a list file (one per line, or JSON), a prepared data set, or imagenet.",
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
        "--quality", min=1, max=100, metavar="N", help="JPEG quality.", show_default="95", rich_help_panel=OUTPUT
    ),
]
ResizeOption = Annotated[
    Literal["lanczos", "area", "bicubic"],
    typer.Option("--resize", metavar="lanczos|area|bicubic", help="Downsampling filter.", rich_help_panel=PIXELS),
]
ShardSizeOption = Annotated[int, typer.Option("--shard-size", min=1, help="Images per shard.", rich_help_panel=OUTPUT)]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Worker processes; 0 converts in the main process.",
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
        show_default="none: they are listed and skipped",
        rich_help_panel=FILTERS,
    ),
]
BackgroundOption = Annotated[
    str,
    typer.Option(
        "--background",
        metavar="#RRGGBB",
        help="Color behind transparent pixels, and of the padding of --crop fit.",
        rich_help_panel=PIXELS,
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="I/N",
        help="Process part I of N (I from 0); all parts share --out. 0/1: everything.",
        show_default="the task or rank of Slurm, or 0/1",
        rich_help_panel=CLUSTER,
    ),
]
FinishOption = Annotated[
    bool,
    typer.Option(
        "--finish",
        help="Verify and merge the parts: run it once, after all tasks, with the same SOURCE and options.",
        rich_help_panel=CLUSTER,
    ),
]
NotInOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--not-in",
        metavar="DIR",
        help="Fail if an image is also in this prepared data set (e.g. validation), or drop it with "
        "--drop-duplicates; repeatable.",
        rich_help_panel=FILTERS,
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
        metavar="PIXELS",
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
        help="Also write reference statistics for hdit eval-fid --ref next to the shards, by this extractor of "
        "hdit eval-fid, such as inception or efficientnet-lite0.",
        rich_help_panel=OUTPUT,
    ),
]


@dataclass(frozen=True)
class PrepareOptions:
    """The source and its transformation; one option per field."""

    source: SourceArgument
    out: OutOption
    size: SizeOption
    channels: ChannelsOption = None
    labels: LabelsOption = "auto"
    classes: ClassesOption = None
    crop: CropOption = "center"
    resize: ResizeOption = "lanczos"
    codec: FormatOption = "png"
    quality: QualityOption = None
    shard_size: ShardSizeOption = 1000
    workers: WorkersOption = None
    max_bad: MaxBadOption = None
    background: BackgroundOption = "#ffffff"
    seed: CropSeedOption = 0
    not_in: NotInOption = None
    drop_duplicates: DropDuplicatesOption = False
    min_size: MinSizeOption = 0
    no_upscale: NoUpscaleOption = False
    dtype: DtypeOption = "uint8"
    value_range: RangeOption = None
    pages_as_channels: PagesOption = False

    def settings(self, attachments: Mapping[str, Any]) -> "PrepareSettings":
        """Return the checked settings of the preparation.

        Raises:
            UsageError: an option has no such value.
        """
        from hdit_core.data.prepare.job import PrepareSettings

        sizes = image_sizes(self.size)
        converted = {
            "source": expanded_path(self.source),
            "out": self.out.expanduser(),
            "size": sizes[0],
            "labels": expanded_path(self.labels),
            "classes": None if self.classes is None else expanded_path(self.classes),
            "quality": _quality(self.quality, self.codec),
            "workers": _default_workers() if self.workers is None else self.workers,
            "background": _color(self.background),
            "buckets": sizes if len(sizes) > 1 else (),
            "not_in": tuple(folder.expanduser() for folder in self.not_in or ()),
            "value_range": value_ranges("--range", self.value_range),
        }
        return PrepareSettings(**{**vars(self), **converted, **attachments})


def _color(text: str) -> tuple[int, int, int]:
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise UsageError(f"--background {text}: expected a color as '#RRGGBB', for example '#ffffff'")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def _quality(chosen: int | None, codec: str) -> int:
    from hdit_core.data.image.codec import JPEG_QUALITY

    if chosen is not None and codec != "jpeg":
        raise UsageError(f"--quality {chosen}: applies to JPEG only; --format {codec} is lossless")
    return JPEG_QUALITY if chosen is None else chosen


def _default_workers() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # macOS has the latter
    return min(cpus or 1, MOST_WORKERS)
