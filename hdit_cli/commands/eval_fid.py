"""`hdit eval-fid`: FID, KID and precision/recall of images against a reference.

`stats` saves the statistics of one set for later, `compare` compares two results.
"""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import align, emit, note, progress, table
from hdit_cli.default_command import DEFAULT, DefaultCommand, DefaultGroup
from hdit_cli.options.attachments import value_ranges
from hdit_cli.options.evaluation import (
    CountOption,
    DataArgument,
    GeneratedOptions,
    ImagesArgument,
    KeepOption,
    NearestOption,
    PairedOption,
    PairedRangeOption,
    ReferenceOption,
    ReportOption,
    SaveStatsOption,
    ScoringOptions,
)
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.scored_sets import StatisticsOptions, StatisticsOutOption, SubsetCountOption
from hdit_cli.options.shared import JsonOption
from hdit_cli.stopping import stopping_early

if TYPE_CHECKING:
    from hdit_core.evaluate.settings import ScoreSettings


app = typer.Typer(
    cls=DefaultGroup,
    add_completion=False,
    help="Compute FID, KID, precision and recall of images.",
)


@app.command(DEFAULT, cls=DefaultCommand)
@grouped_options
def eval_fid(
    *,
    images: ImagesArgument = None,
    ref: ReferenceOption = None,
    num: CountOption = None,
    generated: GeneratedOptions,
    scoring: ScoringOptions,
    paired: PairedOption = False,
    value_range: PairedRangeOption = None,
    report: ReportOption = None,
    nearest: NearestOption = None,
    save_stats: SaveStatsOption = None,
    keep_features: KeepOption = None,
    json: JsonOption = False,
) -> None:
    """Compute FID, KID, precision, recall, density, coverage and authenticity of images against a reference.

    Examples:
      hdit eval-fid samples/ --ref data/faces
      hdit eval-fid --ckpt runs/faces --count 50000 --report faces.html
      hdit sample --ckpt runs/faces --count 50000 --out - | \\
        hdit eval-fid - --ref faces.npz
      hdit eval-fid restored/ --ref originals/ --paired

    The distances are called FID and KID with Inception and clean-fid's resizing only; with other extractors they are
    called FD-NAME and KD-NAME. Under torchrun the ranks share the work; the result is bit-identical for any number of
    ranks.
    """
    from hdit_core.evaluate.settings import ScoreSettings

    settings = ScoreSettings(images, ref, n=num, **generated.settings, **scoring.settings, keep_features=keep_features)
    command = shlex.join(["hdit", *sys.argv[1:]])
    settings = replace(settings, nearest=nearest, report=report, save_stats=save_stats, command=command)
    settings = replace(settings, paired=paired, value_range=value_ranges("--range", value_range))
    _score(settings, json)


@app.command()
@grouped_options
def stats(
    *,
    data: DataArgument,
    out: StatisticsOutOption,
    num: SubsetCountOption = None,
    scoring: StatisticsOptions,
    keep_features: KeepOption = None,
    json: JsonOption = False,
) -> None:
    """Save the statistics of a set of images, for use as --ref.

    Example:
      hdit eval-fid stats data/faces --out faces.npz
    """
    from hdit_core.evaluate.settings import ScoreSettings

    _score(ScoreSettings(data, None, n=num, save_stats=out, keep_features=keep_features, **scoring.settings), json)


def _score(settings: "ScoreSettings", json: bool) -> None:
    """Score on all ranks; print progress and the result on the main rank."""
    from hdit_core.distributed import LONG_TIMEOUT_S, init_ranks
    from hdit_core.evaluate.paired.score_pairs import score_pairs
    from hdit_core.evaluate.score import score

    compute = score_pairs if settings.paired else score
    kept = None if settings.keep_features is None else f"the features in {settings.keep_features}"
    with stopping_early(kept), init_ranks(settings.device, LONG_TIMEOUT_S) as world:
        if not world.is_main:
            compute(settings, world=world)
            return
        with progress("score") as bar:
            result = compute(settings, bar.update, world)
    assert result is not None  # only on other ranks
    for remark in result.remarks:
        note(remark)
    emit(result.to_json(), json, align(result.lines()))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="A result of --json.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="Another result.")],
    force: Annotated[bool, typer.Option("--force", help="Compare results that were measured differently.")] = False,
    json: JsonOption = False,
) -> None:
    """Compare two results, if they were measured alike.

    Example:
      hdit eval-fid compare before.json after.json
    """
    from hdit_core.evaluate.report.compare import compare_results

    comparison = compare_results(a, b, force)
    for key, *values in comparison.unlike:
        note(f"not comparable: {key}: {values[0]} and {values[1]}")
    rows = [*comparison.unlike, *comparison.other]
    differences = [("", str(a), str(b)), *((key, str(x), str(y)) for key, x, y in rows)]
    emit(comparison.to_json(), json, [*table(comparison.rows()), "", *align(differences)])
