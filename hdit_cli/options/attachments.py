"""The options of `hdit prepare-data` for condition images, vectors and captions."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer

from hdit_core.errors import UsageError

DtypeOption = Annotated[
    Literal["uint8", "uint16", "float32"],
    typer.Option(
        "--dtype",
        metavar="uint8|uint16|float32",
        help="Data type of the stored values; uint8 reduces 16 bits.",
        rich_help_panel="Image transform",
    ),
]
RangeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--range",
        metavar="LOW,HIGH",
        help="Values that are mapped to -1 and 1, required with float32; repeat it for each channel.",
        show_default="all values of the integers",
        rich_help_panel="Image transform",
    ),
]
PagesOption = Annotated[
    bool,
    typer.Option(
        "--pages-as-channels",
        help="The pages of a TIFF are the channels of one image, also of condition images.",
        rich_help_panel="Image transform",
    ),
]
ConditionOption = Annotated[
    str | None,
    typer.Option(
        "--condition",
        metavar="DIR|ZIP|TAR|COLUMN",
        help="Condition images: each has the name of its image, apart from the suffix; or a column of a Parquet "
        "SOURCE. Webdataset shards as SOURCE contain them as KEY.cond.png, without this option.",
    ),
]
ConditionChannelsOption = Annotated[
    int | None,
    typer.Option(
        "--condition-channels",
        min=1,
        max=64,
        help="Channels of the condition images.",
        show_default="those of the first one",
    ),
]
ConditionDtypeOption = Annotated[
    Literal["uint8", "uint16", "float32"] | None,
    typer.Option(
        "--condition-dtype",
        metavar="uint8|uint16|float32",
        help="Data type of the condition images.",
        show_default="that of the first one",
    ),
]
ConditionRangeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--condition-range",
        metavar="LOW,HIGH",
        help="Values of the condition images that are mapped to -1 and 1; repeat it for each channel.",
        show_default="all values of the integers",
    ),
]
ConditionResizeOption = Annotated[
    Literal["lanczos", "area", "bicubic", "nearest"] | None,
    typer.Option(
        "--condition-resize",
        metavar="lanczos|area|bicubic|nearest",
        help="Resize filter of the condition images; nearest for masks and labels.",
        show_default="as --resize",
    ),
]
VectorsOption = Annotated[
    str | None,
    typer.Option(
        "--vectors",
        metavar="FILE|COLUMN",
        help="A vector per image: CSV or Parquet with the columns file,v0,v1,... (Parquet also: file, list); .npy with "
        "the names of its rows in a .txt file next to it, one per line; or a column of a Parquet SOURCE.",
    ),
]
CaptionsOption = Annotated[
    bool,
    typer.Option(
        "--captions",
        help="Store captions, which training does not use: a.txt next to a.jpg, KEY.txt in shards, or a text column.",
    ),
]


def expanded_path(text: str) -> str:
    """Return a path with `~` expanded, which the shell does not do in `--labels=~/x` or in quotes."""
    return str(Path(text).expanduser()) if text.startswith("~") else text


def value_ranges(option: str, texts: list[str] | None) -> tuple[tuple[float, float], ...]:
    """Read ranges of values such as `"0,1000"`.

    Raises:
        UsageError: a text is not a range.
    """
    ranges = []
    for text in texts or ():
        try:
            low, high = (float(number) for number in text.split(","))
        except ValueError:
            low = high = 0.0
        if not low < high or math.inf in (-low, high):
            raise UsageError(f"{option} {text}: expected LOW,HIGH with LOW below HIGH, for example 0,1")
        ranges.append((low, high))
    return tuple(ranges)


@dataclass(frozen=True)
class AttachmentOptions:
    """The data that is prepared in addition to images; one option per field."""

    SECTION: ClassVar[str] = "Condition images, vectors and captions"

    condition: ConditionOption = None
    condition_channels: ConditionChannelsOption = None
    condition_dtype: ConditionDtypeOption = None
    condition_range: ConditionRangeOption = None
    condition_resize: ConditionResizeOption = None
    vectors: VectorsOption = None
    captions: CaptionsOption = False

    def settings(self) -> dict[str, Any]:
        """Return the checked fields of `AttachmentSettings`.

        Raises:
            UsageError: an option has no such value.
        """
        return {
            "condition": None if self.condition is None else expanded_path(self.condition),
            "condition_channels": self.condition_channels,
            "condition_dtype": self.condition_dtype,
            "condition_range": value_ranges("--condition-range", self.condition_range),
            "condition_resize": self.condition_resize,
            "vectors": None if self.vectors is None else expanded_path(self.vectors),
            "captions": self.captions,
        }
