"""`hdit sweep`: search of EMA length, guidance and guidance interval for the lowest FID."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hdit_cli.console import emit, note, progress, table
from hdit_cli.options.evaluation import LabelsOption, ScoredGuideOption
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.scored_sets import SweepScoringOptions
from hdit_cli.options.shared import OUTPUT, RECIPES, SAMPLING, WEIGHTS, JsonOption
from hdit_cli.stopping import stopping_early
from hdit_core.errors import UsageError, counted

if TYPE_CHECKING:
    from hdit_core.evaluate.sweep.run import SweepResult
    from hdit_core.evaluate.sweep.search_space import SweepSettings


app = typer.Typer(add_completion=False)

SEARCH = "Search"

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run with a checkpoint.")]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        "--ref",
        metavar="DATA",
        help="Reference: a folder, a data set, or saved statistics (.npz).",
        show_default="the run's data",
        rich_help_panel=SEARCH,
    ),
]
WeightsListOption = Annotated[
    str,
    typer.Option(
        "--weights",
        "--ema",
        metavar="LIST",
        help=f"Weights, as {WEIGHTS} of hdit sample --weights, such as ema,0.05,0.1.",
        rich_help_panel=SEARCH,
    ),
]
GuidanceOption = Annotated[
    str | None,
    typer.Option(
        "--guidance",
        metavar="LIST",
        help="Guidance scales: numbers or LOW:HIGH:STEP, such as 1:3:0.25.",
        show_default=RECIPES,
        rich_help_panel=SEARCH,
    ),
]
IntervalOption = Annotated[
    str | None,
    typer.Option(
        "--guidance-interval",
        "--interval",
        metavar="LIST",
        help="Noise levels LOW:HIGH at which guidance is applied, or all, such as all,0.2:5.",
        show_default=RECIPES,
        rich_help_panel=SEARCH,
    ),
]
GuideWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--guide-weights",
        metavar=WEIGHTS,
        help="Weights of the guide, for all candidates.",
        show_default="ema",
        rich_help_panel=SAMPLING,
    ),
]
AutoguidanceListOption = Annotated[
    str | None,
    typer.Option(
        "--autoguidance",
        metavar="LIST",
        help="Autoguidance scales, with --guide: numbers or LOW:HIGH:STEP, such as 1:3:0.5.",
        rich_help_panel=SEARCH,
    ),
]
NumOption = Annotated[
    int,
    typer.Option(
        "--count",
        "-n",
        "--n",
        min=1,
        help="Images per candidate in the last round.",
        rich_help_panel=SEARCH,
    ),
]
ConfirmOption = Annotated[
    int,
    typer.Option("--confirm", min=1, help="Images for re-scoring the winner.", rich_help_panel=SEARCH),
]
ApplyOption = Annotated[
    bool,
    typer.Option("--apply", help="Make the winner the run's default (RUN/sample.toml).", rich_help_panel=OUTPUT),
]
UnapplyOption = Annotated[
    bool,
    typer.Option("--unapply", help="Undo --apply, and do nothing else.", rich_help_panel=OUTPUT),
]
SweepOutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="DIR", help="Folder of the sweep.", show_default="RUN/sweep", rich_help_panel=OUTPUT
    ),
]


@dataclass(frozen=True)
class AutoguidanceOptions:
    """The weaker model, and the scales to try."""

    guide: ScoredGuideOption = None
    guide_weights: GuideWeightsOption = None
    autoguidance: AutoguidanceListOption = None

    def __post_init__(self) -> None:
        """Refuse, with a UsageError, weights of a guide without --guide."""
        if self.guide is None and self.guide_weights is not None:
            raise UsageError(f"--guide-weights {self.guide_weights}: needs a weaker model; give one with --guide CKPT")

    @property
    def settings(self) -> dict[str, Any]:
        """The model under the names of `ScoreSettings`."""
        return {"guide": self.guide, "guide_weights": self.guide_weights}


@app.command()
@grouped_options
def sweep(
    *,
    run: RunArgument,
    ref: ReferenceOption = None,
    weights: WeightsListOption = "ema",
    guidance: GuidanceOption = None,
    interval: IntervalOption = None,
    auto: AutoguidanceOptions,
    num: NumOption = 8_000,
    confirm: ConfirmOption = 50_000,
    apply: ApplyOption = False,
    unapply: UnapplyOption = False,
    out: SweepOutOption = None,
    json: JsonOption = False,
    labels: LabelsOption = "balanced",
    scoring: SweepScoringOptions,
) -> None:
    """Search guidance and EMA length for the lowest FID.

    Examples:
      hdit sweep runs/digits --guidance 1:3:0.25 --apply
      hdit sweep runs/faces --ref faces.npz --autoguidance 1:3:0.5 \\
        --guide runs/faces/checkpoints/step-000010000
      hdit sweep runs/digits --unapply

    Successive halving: every combination is scored with few images, the better half with twice as many, and so on up
    to --count; the winner is scored again with --confirm images. With --apply it becomes the default of hdit sample,
    eval-fid, edit and export. All combinations start from the same noise. Rerun the same command to resume; another
    grid reuses the finished scores. Guidance scales other than 1 need classes, EMA lengths train.ema_profiles.
    """
    from hdit_core.evaluate.settings import ScoreSettings
    from hdit_core.evaluate.sweep.search_space import SweepSettings

    if unapply:
        _unapply(run, apply, json)
        return
    settings = ScoreSettings(images=None, reference=ref, labels=labels, **auto.settings, **scoring.settings)
    _sweep(SweepSettings(run, settings, weights, guidance, interval, auto.autoguidance, num, confirm, out, apply), json)


def _unapply(run: Path, apply: bool, json: bool) -> None:
    if apply:
        raise UsageError("--apply and --unapply: give one of them")
    from hdit_core.evaluate.sweep.defaults import unapply_winner

    restored = unapply_winner(run)
    text = f"restored {restored}" if restored else f"{run}: the recipe's sampling settings are the defaults again"
    emit({"run": str(run), "defaults": str(restored) if restored else None}, json, [text])


class _BarPerTask:
    """Shows a progress bar for the reference and for each candidate, with its own image count and timing."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._current: tuple[str, int | None] | None = None

    def update(self, task: str, done: int, total: int | None) -> None:
        """Show the number of finished images of the reference or of a candidate."""
        if (task, total) != self._current:
            self._stack.close()
            self._current, self._bar = (task, total), self._stack.enter_context(progress(task))
        self._bar.update(done, total)
        if done == total:  # later messages are printed below the bar
            self._stack.close()
            self._current = None


def _sweep(settings: "SweepSettings", json: bool) -> None:
    """Sweep on all ranks; print progress and the result on the main rank."""
    from hdit_core.distributed import LONG_TIMEOUT_S, init_ranks
    from hdit_core.evaluate.sweep.run import sweep as run_sweep

    kept = f"the scores and features in {settings.folder}"
    with stopping_early(kept), init_ranks(settings.scoring.device, LONG_TIMEOUT_S) as world:
        if not world.is_main:
            run_sweep(settings, world=world)
            return
        with ExitStack() as stack:
            result = run_sweep(settings, _BarPerTask(stack).update, world)
    assert result is not None  # only on other ranks
    estimate = result.score["estimates"][result.score["name"]]
    best = [f"best: {result.winner}", f"{result.score['name']} {estimate['value']:.4f}", ""]
    emit(result.to_json(), json, [*best, *table(result.rows()), "", f"plot: {result.curve}"])
    _note_decision(settings, result)


def _note_decision(settings: "SweepSettings", result: "SweepResult") -> None:
    """Print whether the winner is significant, and whether it is now the run's default."""
    if result.ties:
        names = "; ".join(map(str, result.ties[:3])) + ("; ..." if len(result.ties) > 3 else "")
        others = counted(len(result.ties), "other")
        note(f"the winner is not significantly better than {others}: {names}")
    if result.defaults is None:
        note("the run's defaults are unchanged; rerun with --apply to make the winner the default")
        return
    if settings.scoring.allow_small_n:
        note("the winner was found with --allow-small-n, on fewer images than the metric needs")
    note(f"saved as defaults for hdit sample, eval-fid, edit and export: {result.defaults}; --unapply undoes this")
