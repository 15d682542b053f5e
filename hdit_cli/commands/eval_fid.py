"""`hdit eval-fid`: how far images are from a reference.

`stats` keeps one side for later, `compare` sets two results beside each other. Under torchrun all ranks share the work.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import align, emit, note, progress, table
from hdit_cli.default_command import DEFAULT, DefaultCommand, DefaultGroup
from hdit_cli.options.evaluation import (
    CountOption,
    DataArgument,
    GeneratedOptions,
    ImagesArgument,
    KeepOption,
    NearestOption,
    ReferenceOption,
    ReportOption,
    SaveStatsOption,
    ScoringOptions,
)
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.shared import JsonOption, OutOption

if TYPE_CHECKING:
    from hdit_core.evaluate.settings import ScoreSettings


app = typer.Typer(cls=DefaultGroup, add_completion=False, help="Score images by their distance to a reference.")


@app.command(DEFAULT, cls=DefaultCommand, epilog="Also: hdit eval-fid stats --help, hdit eval-fid compare --help.")
@grouped_options
def eval_fid(
    *,
    images: ImagesArgument = None,
    ref: ReferenceOption = None,
    num: CountOption = None,
    drawn: GeneratedOptions,
    scoring: ScoringOptions,
    nearest: NearestOption = None,
    report: ReportOption = None,
    save_stats: SaveStatsOption = None,
    keep_features: KeepOption = None,
    json: JsonOption = False,
) -> None:
    """Score images by Frechet and kernel distance to a reference, by precision, recall, density and coverage.

    Called FID and KID with Inception and clean-fid's resize; with any other extractor they have another name.
    Under torchrun each rank works on its share, and the result is the same, bit for bit.

    Example: hdit eval-fid samples/ --ref data/faces
    """
    from hdit_core.evaluate.settings import ScoreSettings

    settings = ScoreSettings(images, ref, n=num, **drawn.settings, **scoring.settings, keep_features=keep_features)
    _score(replace(settings, nearest=nearest, report=report, save_stats=save_stats), json)


@app.command()
@grouped_options
def stats(
    *,
    data: DataArgument,
    out: OutOption,
    num: CountOption = None,
    scoring: ScoringOptions,
    keep_features: KeepOption = None,
    json: JsonOption = False,
) -> None:
    """Keep the statistics of a set of images, as a reference that need not be read again.

    Example: hdit eval-fid stats data/faces --out faces.npz
    """
    from hdit_core.evaluate.settings import ScoreSettings

    _score(ScoreSettings(data, None, n=num, save_stats=out, keep_features=keep_features, **scoring.settings), json)


def _score(settings: "ScoreSettings", json: bool) -> None:
    """Score on all ranks; the main one shows progress and the result."""
    from hdit_core.distributed import LONG_TIMEOUT_S, init_ranks
    from hdit_core.evaluate.score import score

    with init_ranks(settings.device, LONG_TIMEOUT_S) as world:
        if not world.is_main:
            score(settings, world=world)
            return
        with progress("score") as bar:
            result = score(settings, bar.update, note, world)
    assert result is not None  # only other ranks have none
    for remark in result.remarks:
        note(remark)
    emit(result.to_json(), json, align(result.lines()))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="A result of --json.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="Another.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Compare results whose passports are unlike.")] = False,
    json: JsonOption = False,
) -> None:
    """Set two results beside each other, unless they were measured differently.

    Example: hdit eval-fid compare before.json after.json
    """
    from hdit_core.evaluate.report.compare import compare_results

    found = compare_results(a, b, force)
    for key, *values in found.unlike:
        note(f"not comparable: {key} is {values[0]} and {values[1]}")
    differences = [("", str(a), str(b)), *((key, str(x), str(y)) for key, x, y in [*found.unlike, *found.other])]
    emit(found.to_json(), json, [*table(found.rows()), "", *align(differences)])
