"""The summary of `hdit prepare-data`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from hdit_cli.console import align, emit, note
from hdit_cli.tables.data import attachment_rows, channels_of, pixel_rows
from hdit_core.errors import counted

if TYPE_CHECKING:
    from hdit_core.data.prepare.run import PrepareSummary, TaskSummary


HINTS = {
    "color converted to grayscale": "; --channels 3 keeps the colors",
    "upscaled": "; --no-upscale or --min-size leaves them out",
    "exact duplicates of an earlier image": "; --drop-duplicates drops them",
}


MOSTLY = {"grayscale, stored as RGB": "; --channels 1 stores one channel"}
"""Hints on remarks that hold for most images."""


def _hint(remark: str, count: int, images: int) -> str:
    return HINTS.get(remark) or (MOSTLY.get(remark, "") if 2 * count > images else "")


def _sizes(summary: "PrepareSummary") -> list[tuple[str, str]]:
    channels = channels_of(summary.channels)
    if not summary.buckets:
        return [("images", f"{summary.images:,} of {summary.height}x{summary.width} pixels, {channels}")]
    sizes = ((f"of {size} pixels", f"{count:,}") for size, count in summary.buckets.items())
    return [("images", f"{summary.images:,}, {channels}"), *sizes]


def _folder_classes(summary: "PrepareSummary") -> str:
    if not summary.classes_from_folders:
        return ""
    names = ", ".join(f"{name} ({count:,})" for name, count in summary.first_classes.items())
    more = ", ..." if summary.classes > len(summary.first_classes) else ""
    return f", from folders: {names}{more}; --labels none ignores them"


def _condition(summary: "PrepareSummary") -> str | None:
    return channels_of(summary.condition_channels) if summary.condition_channels else None


def _lines(summary: "PrepareSummary") -> list[str]:
    rows = [
        ("data set", summary.out),
        *_sizes(summary),
        *attachment_rows(_condition(summary), summary.vector_dim, summary.captions),
        ("classes", f"{summary.classes:,}{_folder_classes(summary)}"),
        ("left out", f"{summary.rejects:,}"),
        *((name, f"{count:,}{_hint(name, count, summary.images)}") for name, count in summary.remarks.items()),
        *pixel_rows(summary.pixel_mean, summary.pixel_std, summary.sigma_data),
        ("shards", f"{summary.shards:,}, {summary.bytes / 1e6:,.1f} MB"),
        ("checksum", summary.root),
    ]
    return align(rows)


def report_data_set(summary: "PrepareSummary", as_json: bool) -> None:
    """Print the contents of a data set, and notes about possible problems."""
    if summary.rejects:
        note(f"left out {counted(summary.rejects, 'file')}; reasons: {summary.out}/rejects.jsonl")
    if summary.already_complete:
        note(f"{summary.out}: already complete, nothing written")
    emit(asdict(summary), as_json, None if as_json else _lines(summary))


def report_task(summary: "TaskSummary", as_json: bool) -> None:
    """Print what a task processed, and the next step."""
    note(f"task {summary.task} is done; once all are, run the same command with --finish to merge the parts")
    rows = [
        ("data set", summary.out),
        ("task", summary.task),
        ("inputs", f"{summary.inputs:,}"),
        ("unusable", f"{summary.rejects:,}"),
        ("shards", f"{summary.shards:,}"),
    ]
    emit(asdict(summary), as_json, None if as_json else align(rows))
