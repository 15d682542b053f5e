"""`hdit sweep`: how a run's images are best drawn."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import emit, note, progress, table
from hdit_cli.options.evaluation import Labels, LabelsOption, ScoringOptions
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.shared import RECIPES, JsonOption

if TYPE_CHECKING:
    from hdit_core.evaluate.sweep.search_space import Point, SweepSettings


app = typer.Typer(add_completion=False)


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run with a checkpoint.", show_default=False)]
ReferenceOption = Annotated[
    str,
    typer.Option("--ref", metavar="DATA", help="Folder, data set, or saved statistics (.npz).", show_default=False),
]
EmaOption = Annotated[
    str, typer.Option("--ema", metavar="LIST", help="Weights: ema, model, lengths of averages such as 0.05,0.1.")
]
GuidanceOption = Annotated[
    str | None,
    typer.Option(
        "--guidance", metavar="LIST", help="Numbers, or LOW:HIGH:STEP, such as 1:3:0.25.", show_default=RECIPES
    ),
]
IntervalOption = Annotated[
    str | None,
    typer.Option(
        "--interval",
        metavar="LIST",
        help="Noise levels LOW:HIGH between which there is guidance, or all, such as all,0.2:5.",
        show_default=RECIPES,
    ),
]
NumOption = Annotated[
    int, typer.Option("--n", "--count", min=1, metavar="N", help="Images of a point in the last round.")
]
ConfirmOption = Annotated[int, typer.Option("--confirm", min=1, metavar="N", help="Images of the best, in the end.")]
SweepOutOption = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder of the sweep.", show_default="RUN/sweep")
]


@app.command()
@grouped_options
def sweep(
    *,
    run: RunArgument,
    ref: ReferenceOption,
    ema: EmaOption = "ema",
    guidance: GuidanceOption = None,
    interval: IntervalOption = None,
    num: NumOption = 8_000,
    confirm: ConfirmOption = 50_000,
    labels: LabelsOption = Labels.BALANCED,
    scoring: ScoringOptions,
    out: SweepOutOption = None,
    json: JsonOption = False,
) -> None:
    """Find how a run's images are best drawn.

    That is, which weights and what guidance; what is found becomes the run's default.

    Every combination is scored at few images, the better half at twice as many, and so on up to --n; the best is
    scored again at --confirm. Image i begins with the same noise everywhere. The same command goes on after a kill;
    under torchrun the ranks share the work. RUN/sample.toml then tells hdit sample and hdit eval-fid how to draw.

    Example: hdit sweep runs/faces --ref faces.npz --ema 0.05,0.1 --guidance 1:3:0.25
    """
    from hdit_core.evaluate.settings import ScoreSettings
    from hdit_core.evaluate.sweep.search_space import SweepSettings

    judged = ScoreSettings(images=None, reference=ref, labels=labels.value, **scoring.settings)
    _sweep(SweepSettings(run, judged, ema, guidance, interval, num, confirm, out), json)


class _BarOfEach:
    """Shows every point by a bar of its own, since its images are counted, and timed, from its beginning."""

    def __init__(self, shown: ExitStack) -> None:
        self._shown = shown
        self._point: tuple[Point, int] | None = None

    def update(self, point: "Point", done: int, total: int) -> None:
        """Show how many of a point's images are done."""
        if (point, total) != self._point:
            self._shown.close()
            self._point, self._bar = (point, total), self._shown.enter_context(progress(str(point)))
        self._bar.update(done, total)
        if done == total:  # what is said next stands below
            self._shown.close()
            self._point = None


def _sweep(settings: "SweepSettings", json: bool) -> None:
    """Sweep on all ranks; the main one shows progress and the result."""
    from hdit_core.distributed import LONG_TIMEOUT_S, init_ranks
    from hdit_core.evaluate.sweep.run import sweep as run_sweep

    with init_ranks(settings.scoring.device, LONG_TIMEOUT_S) as world:
        if not world.is_main:
            run_sweep(settings, world=world)
            return
        with ExitStack() as shown:
            result = run_sweep(settings, _BarOfEach(shown).update, note, world)
    assert result is not None  # only other ranks have none
    estimate = result.score["estimates"][result.score["name"]]
    best = [f"best: {result.winner}", f"{result.score['name']} {estimate['value']:.4f}", ""]
    emit(result.to_json(), json, [*best, *table(result.rows()), "", f"look at {result.curve}"])
    note(f"hdit sample and hdit eval-fid draw this run so from now on, as {result.defaults} says")
