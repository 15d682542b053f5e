"""`hdit data`: inspects or verifies a prepared data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import align, emit, note, progress
from hdit_cli.options.shared import JsonOption
from hdit_cli.tables.data import describe, describe_lines
from hdit_core.errors import DataError, UsageError, counted
from hdit_core.files import check_output

if TYPE_CHECKING:
    from hdit_core.data.format.verify import VerifyReport


app = typer.Typer(add_completion=False, rich_markup_mode=None)

DataSetArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder written by hdit prepare-data.")]


@app.callback()
def data() -> None:
    """Inspect or verify a prepared data set.

    Example: hdit data verify data/faces
    """


def _verdict_lines(verdict: "VerifyReport") -> list[str]:
    """Return every damaged part, and a summary of the checks."""
    size = f"{verdict.bytes / 1e6:,.1f} MB"
    rows = [
        ("data set", verdict.out),
        ("checked", ", ".join([counted(verdict.images, "image"), counted(verdict.shards, "shard"), size])),
        ("level", verdict.level),
        ("damaged", counted(len(verdict.defects), "part") if verdict.defects else "nothing"),
        ("checksum", verdict.root or "-"),
    ]
    return [*(f"{damage.file}: {damage.problem}" for damage in verdict.defects), *align(rows)]


@app.command()
def verify(
    folder: DataSetArgument,
    quick: Annotated[bool, typer.Option("--quick", help="Check only sizes and the index, in about a second.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also decode every image and compare it with the index.")
    ] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Shards checked in parallel.")] = 2,
    json: JsonOption = False,
) -> None:
    """Find every damaged part of a data set.

    Compares every byte of the shards with the checksums in the manifest. Damaged shards, images and index entries are
    listed, one per line, with exit code 3.

    Example: hdit data verify data/faces --deep
    """
    from dataclasses import asdict

    from hdit_core.data.format.verify import verify as verify_data_set

    if quick and deep:
        raise UsageError("--quick, --deep: expected at most one of them")
    level = "quick" if quick else "deep" if deep else "full"
    with progress("verifying") as bar:
        verdict = verify_data_set(folder.expanduser(), level, workers, bar.update)  # type: ignore[arg-type]
    result = asdict(verdict)
    result["damages"] = result.pop("defects")
    emit(result, json, _verdict_lines(verdict))
    if verdict.defects:
        raise DataError(f"{folder}: damaged: {counted(len(verdict.defects), 'part')}; prepare or copy the data again")


@app.command()
def show(
    folder: DataSetArgument,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="FILE.png", help="Write an image grid of the data set."),
    ] = None,
    images: Annotated[int, typer.Option("--count", "-n", "--images", min=1, max=4096, help="Images in the grid.")] = 64,
    json: JsonOption = False,
) -> None:
    """Print what a data set contains and how it was prepared.

    Prints the number of images, their size, the classes, mean and standard deviation of the pixels, and the settings
    of the preparation.

    Example: hdit data show data/faces --sheet faces.png
    """
    from hdit_core.data.format.manifest import read_manifest

    sheet = sheet and sheet.expanduser()
    check_output("--sheet", sheet, ".png")
    folder = folder.expanduser()
    manifest = read_manifest(folder)
    if sheet is not None:
        from hdit_core.data.loader.contact_sheet import write_contact_sheet

        write_contact_sheet(folder, sheet, images)
        note(f"wrote {sheet}")
    emit(describe(folder, manifest), json, describe_lines(folder, manifest))
