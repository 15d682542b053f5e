"""`hdit data`: looks at a prepared data set, and finds out whether it is still whole."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import align, emit, note, progress
from hdit_cli.options.shared import JsonOption
from hdit_cli.tables.data import describe, describe_lines
from hdit_core.errors import DataError, UsageError

if TYPE_CHECKING:
    from hdit_core.data.format.verify import VerifyReport


app = typer.Typer(add_completion=False, rich_markup_mode=None)

DataSetArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder that hdit prepare-data wrote.", show_default=False)
]


@app.callback()
def data() -> None:
    """Look at a prepared data set, or verify it.

    Example: hdit data verify data/faces
    """


def _verdict_lines(verdict: "VerifyReport") -> list[str]:
    """Return every damage, and what was looked at."""
    rows = [
        ("data set", verdict.out),
        ("looked at", f"{verdict.images:,} images, {verdict.shards:,} shards, {verdict.bytes / 1e6:,.1f} MB"),
        ("level", verdict.level),
        ("damaged", f"{len(verdict.defects):,} parts" if verdict.defects else "nothing"),
        ("root hash", verdict.root or "-"),
    ]
    return [*(f"{damage.file}: {damage.problem}" for damage in verdict.defects), *align(rows)]


@app.command()
def verify(
    folder: DataSetArgument,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare sizes and the index only, in about a second.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also decode every image and compare it with the index.")
    ] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, metavar="N", help="Shards side by side.")] = 2,
    json: JsonOption = False,
) -> None:
    """Find every part of a data set that is damaged.

    Every byte is compared with the manifest. What is not the same is named, one part a line; the exit code is 3 then.

    Example: hdit data verify data/faces --deep
    """
    from dataclasses import asdict

    from hdit_core.data.format.verify import verify as verify_data_set

    if quick and deep:
        raise UsageError("--quick, --deep: expected one of them at most")
    level = "quick" if quick else "deep" if deep else "full"
    with progress("verifying") as bar:
        verdict = verify_data_set(folder, level, workers, bar.update)  # type: ignore[arg-type]
    emit(asdict(verdict), json, _verdict_lines(verdict))
    if verdict.defects:
        raise DataError(f"{folder}: {len(verdict.defects):,} parts are damaged; prepare or copy the data again")


@app.command()
def show(
    folder: DataSetArgument,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="FILE.png", help="Write a contact sheet of the images.", show_default=False),
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, max=4096, metavar="N", help="Images on the sheet.")] = 64,
    json: JsonOption = False,
) -> None:
    """Say what a data set holds and how it was made.

    Example: hdit data show data/faces --sheet faces.png
    """
    from hdit_core.data.format.manifest import read_manifest

    if sheet is not None and sheet.suffix.lower() != ".png":
        raise UsageError(f"--sheet {sheet}: expected a name that ends in .png")
    manifest = read_manifest(folder)
    if sheet is not None:
        from hdit_core.data.loader.contact_sheet import write_contact_sheet

        write_contact_sheet(folder, sheet, images)
        note(f"{sheet}: contact sheet written")
    emit(describe(folder, manifest), json, describe_lines(folder, manifest))
