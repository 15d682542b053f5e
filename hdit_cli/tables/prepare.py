"""What `hdit prepare-data` says at its end."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from hdit_cli.console import align, emit, note

if TYPE_CHECKING:
    from hdit_core.data.prepare.run import PrepareSummary, TaskSummary


def _sizes(summary: "PrepareSummary") -> list[tuple[str, str]]:
    channels = "3 channels" if summary.channels == 3 else "1 channel"
    if not summary.buckets:
        return [("images", f"{summary.images:,} of {summary.height}x{summary.width} pixels, {channels}")]
    sizes = ((f"of {size} pixels", f"{count:,}") for size, count in summary.buckets.items())
    return [("images", f"{summary.images:,}, {channels}"), *sizes]


def _lines(summary: "PrepareSummary") -> list[str]:
    rows = [
        ("data set", summary.out),
        *_sizes(summary),
        ("classes", f"{summary.classes:,}"),
        ("left out", f"{summary.rejects:,}"),
        *((remark, f"{count:,}") for remark, count in summary.remarks.items()),
        ("shards", f"{summary.shards:,}, {summary.bytes / 1e6:,.1f} MB"),
        ("root hash", summary.root),
    ]
    return align(rows)


def report_data_set(summary: "PrepareSummary", as_json: bool) -> None:
    """Say what a data set holds, and what may be wrong with it."""
    if summary.rejects:
        note(f"{summary.rejects:,} files are left out; {summary.out}/rejects.jsonl says why")
    if summary.already_complete:
        note(f"{summary.out}: already complete, nothing written")
    emit(asdict(summary), as_json, None if as_json else _lines(summary))


def report_task(summary: "TaskSummary", as_json: bool) -> None:
    """Say what a task made, and what comes after it."""
    note(f"task {summary.task} is done; when all are, the same command with --finish makes the data set")
    rows = [
        ("data set", summary.out),
        ("task", summary.task),
        ("inputs", f"{summary.inputs:,}"),
        ("not usable", f"{summary.rejects:,}"),
        ("shards", f"{summary.shards:,}"),
    ]
    emit(asdict(summary), as_json, None if as_json else align(rows))
