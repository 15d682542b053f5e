"""`hdit runs`: the status of runs, and their differences."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hdit_cli.console import align, duration, emit, note, printable, table
from hdit_cli.options.shared import JsonOption
from hdit_core.errors import UsageError
from hdit_core.files import check_output

if TYPE_CHECKING:
    from hdit_core.runs.summary import RunSummary


app = typer.Typer(add_completion=False, help="Show the status of runs, or compare two.")

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE.png", help="Plot loss, gradients, speed and scores."),
]


@app.command("list")
def list_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that contains runs.")] = Path("runs"),
    json: JsonOption = False,
) -> None:
    """List the runs in a folder.

    Prints state, progress, last loss and time of the last status of each: running, preempted (rerun the command to
    resume), done or failed. A running process writes it at least once a minute; after a kill it stays `running`.

    Example: hdit runs list runs
    """
    from hdit_core.runs.run_list import list_runs

    runs = list_runs(folder)
    emit(runs, json)
    if not runs:
        note(f"{folder}: no runs")


@app.command()
def show(run: RunArgument, plot: PlotOption = None, json: JsonOption = False) -> None:
    """Print the status of a run.

    Prints progress, throughput, losses, scores, checkpoints, and incidents (loss spikes and non-finite losses). Every
    checkpoint is read and verified.

    Example: hdit runs show runs/digits --plot digits.png
    """
    check_output("--plot", plot, ".png")
    from hdit_core.runs.summary import summarize

    summary = summarize(run)
    emit(summary.to_json(), json, _lines(summary))
    if plot:
        _draw([run], plot)


@app.command()
def compare(
    first: RunArgument,
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Another run directory.")],
    plot: PlotOption = None,
    json: JsonOption = False,
) -> None:
    """Compare the recipes, losses and scores of two runs.

    Example: hdit runs compare runs/digits runs/digits-larger --plot both.png
    """
    check_output("--plot", plot, ".png")
    from hdit_core.recipe.diff import differences
    from hdit_core.runs.curves import loss_curve, score_curves, side_by_side
    from hdit_core.runs.summary import recipe_of

    runs = [first, second]
    changed = differences(*(recipe_of(run).model_dump(mode="json") for run in runs))
    losses = side_by_side([loss_curve(run) for run in runs])
    names = dict.fromkeys(curve.name for run in runs for curve in score_curves(run))
    scores = {
        name: side_by_side([curve for run in runs for curve in score_curves(run) if curve.name == name])
        for name in names
    }
    result = {
        "runs": [str(run) for run in runs],
        "recipe": [{"key": key, "first": one, "second": other} for key, one, other in changed],
        "loss": losses,
        "scores": scores,
    }
    emit(result, json, _comparison(result))
    if plot:
        _draw(runs, plot)


def _draw(runs: list[Path], plot: Path) -> None:
    from hdit_core.files import write_atomic
    from hdit_core.runs.curves import loss_curve, run_plot

    losses = [loss_curve(run) for run in runs]
    if not any(curve.num_images for curve in losses):
        raise UsageError(f"--plot {plot}: {' and '.join(map(str, runs))} logged no loss yet")
    write_atomic(plot, run_plot(runs))
    note(f"wrote {plot}")


def _lines(summary: "RunSummary") -> Iterator[str]:
    last, done = summary.last, summary.num_images / summary.total_images
    left = f", {duration(summary.seconds_left)} left" if summary.seconds_left else ""
    reason = f": {printable(summary.reason)}" if summary.reason else ""
    rows = [("run", summary.run), ("state", summary.state + reason)]
    rows += [("updated", summary.updated)] if summary.updated else []
    rows += [("forked from", str(fork)) for fork in reversed(summary.lineage)]
    rows += [("model", f"{summary.parameters:,} parameters")]
    progress = f"{summary.num_images:,} of {summary.total_images:,} images ({done:.1%}), step {summary.step:,}"
    rows += [("progress", progress + left)]
    if {"loss", "grad_norm", "lr"} <= last.keys():
        rows += [("loss", f"{last['loss']:.4g}, grad norm {last['grad_norm']:.3g}, learning rate {last['lr']:.3g}")]
    if "images_per_s" in last:
        rows += [("throughput", _throughput(last))]
    if summary.scores:
        scores = {key: value for key, value in summary.scores.items() if key not in ("step", "num_images")}
        rows += [
            ("scores", ", ".join(f"{key} {value:.4g}" for key, value in scores.items() if isinstance(value, float)))
        ]
    rows += [("checkpoint", _checkpoint(saved)) for saved in summary.checkpoints]
    rows += [("incident", f"{each.file}: {each.kind}, loss {each.loss}") for each in summary.incidents]
    yield from align(rows)
    if last.get("loss_by_sigma"):
        yield ""
        yield from table([_bin(row) for row in last["loss_by_sigma"]])


def _bin(row: dict[str, Any]) -> dict[str, Any]:
    low, high = row["sigma"]
    return {"noise level": f"{low:.3g} to {high:.3g}", "images": row["images"], "loss": row["loss"]}


def _throughput(last: dict[str, Any]) -> str:
    parts = [f"{last['images_per_s']:,.3g} images/s"]
    parts += [f"{last['flops_per_s'] / 1e9:,.3g} GFLOP/s"] if "flops_per_s" in last else []
    parts += [f"MFU {last['utilisation']:.0%}"] if "utilisation" in last else []
    parts += [f"data wait {last['waiting']:.0%}"] if "waiting" in last else []
    parts += [f"peak memory {last['peak_bytes'] / 2**30:.3g} GiB"] if "peak_bytes" in last else []
    return ", ".join(parts)


def _checkpoint(saved: Any) -> str:
    return f"step {saved.step:,}, {saved.size_bytes / 1e6:,.3g} MB, " + (
        f"corrupt: {saved.problem}" if saved.problem else "valid"
    )


def _comparison(result: dict[str, Any]) -> Iterator[str]:
    first, second = result["runs"]
    if result["recipe"]:
        yield from table(
            [{"key": row["key"], first: str(row["first"]), second: str(row["second"])} for row in result["recipe"]]
        )
    else:
        yield "the recipes are equal"
    for name, rows in {"loss": result["loss"], **result["scores"]}.items():
        if rows:
            yield ""
            yield f"{name} by images:"
            yield from table(rows)
