"""The output of `hdit data show`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdit_cli.console import align

if TYPE_CHECKING:
    from hdit_core.data.format.manifest import Contents, Manifest
    from hdit_core.data.image.arrays.pixel_format import PixelFormat


BAR = 40  # characters of the longest bar
MOST_BARS = 40  # with more classes, a histogram of their sizes is shown instead


def pixel_rows(mean: Sequence[float], std: Sequence[float], sigma_data: float | None) -> list[tuple[str, str]]:
    """Return the rows with the statistics of the pixels; empty if these are unknown."""
    if sigma_data is None:
        return []
    return [
        ("pixel mean", f"{' '.join(f'{value:.3f}' for value in mean)} (per channel, in [-1, 1])"),
        ("pixel std", f"{' '.join(f'{value:.3f}' for value in std)}; diffusion.sigma_data = {sigma_data:.3f}"),
    ]


def channels_of(number: int) -> str:
    """Return a number of channels in words."""
    return "1 channel" if number == 1 else f"{number} channels"


def attachment_rows(condition: str | None, vector_dim: int, has_captions: bool) -> list[tuple[str, str]]:
    """Return the row that lists what the set contains in addition to images; empty if nothing.

    Args:
        condition: the format of the condition images; None: there are none.
        vector_dim: length of the vectors; 0: there are none.
        has_captions: whether some images have one.
    """
    parts = [
        *([f"condition images of {condition}"] if condition else []),
        *([f"vectors of {vector_dim:,} numbers"] if vector_dim else []),
        *(["captions"] if has_captions else []),
    ]
    return [("with each image", ", ".join(parts))] if parts else []


def _bar(count: int, most: int) -> str:
    return "#" * -(-count * BAR // max(1, most))


def _class_bars(contents: "Contents") -> list[tuple[str, ...]]:
    counts = contents.class_counts or ()
    names = enumerate(zip(contents.classes or (), counts, strict=True))
    return [(str(number), name, f"{count:,}", _bar(count, max(counts))) for number, (name, count) in names]


def _sizes_of_classes(contents: "Contents", ranges: int = 10) -> list[tuple[str, ...]]:
    """Return a histogram of the class sizes in equal ranges."""
    counts = contents.class_counts or ()
    fewest, most = min(counts), max(counts)
    step = max(1, -(-(most - fewest + 1) // ranges))
    rows: list[tuple[str, ...]] = []
    for first in range(fewest, most + 1, step):
        last = min(first + step - 1, most)
        classes = sum(first <= count <= last for count in counts)
        rows.append((f"{first:,} to {last:,} images", f"{classes:,} classes", _bar(classes, len(counts))))
    return rows


def _histogram(contents: "Contents") -> list[str]:
    if not contents.classes:
        return []
    few = len(contents.classes) <= MOST_BARS
    return ["", *align(_class_bars(contents) if few else _sizes_of_classes(contents))]


def _format(pixels: "PixelFormat") -> str:
    """Return channels, data type and range in words; only the channels of 8-bit images."""
    if pixels.dtype == "uint8" and not pixels.value_range:
        return channels_of(pixels.channels)
    ranges = " ".join(f"{low:g}..{high:g}" for low, high in pixels.ranges)
    return f"{channels_of(pixels.channels)} of {pixels.dtype} in {ranges}"


def _describe_condition(contents: "Contents") -> dict[str, Any] | None:
    condition = contents.condition
    if condition is None:
        return None
    ranges = [list(pair) for pair in condition.pixels.ranges]
    return {
        "channels": condition.channels,
        "format": condition.codec,
        "dtype": condition.dtype,
        "range": ranges,
    }


def describe(folder: Path, manifest: "Manifest") -> dict[str, Any]:
    """Return the description of a data set, for programs."""
    from hdit_core.data.format.manifest import sigma_data

    contents = manifest.contents
    classes = zip(contents.classes or (), contents.class_counts or (), strict=True)
    return {
        "out": str(folder),
        "images": contents.samples,
        "sizes": [size.model_dump(mode="json") for size in contents.sizes],
        "channels": contents.channels,
        "format": contents.codec,
        "dtype": contents.dtype,
        "range": [list(pair) for pair in contents.pixels.ranges],
        "condition": _describe_condition(contents),
        "vector_dim": contents.vectors.dim if contents.vectors else 0,
        "captions": contents.captions,
        "classes": [{"name": name, "images": count} for name, count in classes],
        "shards": len(contents.shards),
        "bytes": sum(shard.bytes for shard in contents.shards),
        "left_out": manifest.rejects,
        "remarks": manifest.remarks,
        "source": {"kind": manifest.origin.kind, "name": manifest.origin.name, "inputs": manifest.origin.inputs},
        "settings": manifest.settings,
        "made_with": manifest.made_with,
        "pixel_mean": list(manifest.pixel_mean),
        "pixel_std": list(manifest.pixel_std),
        "sigma_data": sigma_data(manifest),
        "root": manifest.root,
    }


def describe_lines(folder: Path, manifest: "Manifest") -> list[str]:
    """Return the description of a data set, for people."""
    from hdit_core.data.format.manifest import sigma_data

    contents = manifest.contents
    total_bytes = sum(shard.bytes for shard in contents.shards)
    rows = [
        ("data set", str(folder)),
        ("images", f"{contents.samples:,}, {_format(contents.pixels)}, {contents.codec}"),
        *((f"of {size.height}x{size.width} pixels", f"{size.samples:,}") for size in contents.sizes),
        *attachment_rows(
            f"{_format(contents.condition.pixels)}, {contents.condition.codec}" if contents.condition else None,
            contents.vectors.dim if contents.vectors else 0,
            contents.captions,
        ),
        ("classes", f"{len(contents.classes or ()):,}"),
        ("shards", f"{len(contents.shards):,}, {total_bytes / 1e6:,.1f} MB"),
        ("source", f"{manifest.origin.kind} '{manifest.origin.name}', {manifest.origin.inputs:,} inputs"),
        ("left out", f"{manifest.rejects:,}"),
        *((remark, f"{count:,}") for remark, count in manifest.remarks.items()),
        *((setting.replace("_", " "), str(value)) for setting, value in manifest.settings.items()),
        *pixel_rows(manifest.pixel_mean, manifest.pixel_std, sigma_data(manifest)),
        ("checksum", manifest.root),
    ]
    return [*align(rows), *_histogram(contents)]
