"""The table and the plot of `ablations.py`, from its results."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdit_core.figures import STYLES, finish, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}  # Student's t, 97.5 %, by degrees of freedom
NORMAL_QUANTILE = 1.960

Record = dict[str, Any]


def report(title: str, baselines: Mapping[str, str], records: Sequence[Record], plot: Path | None) -> None:
    """Print the table of a job list's results as Markdown, and plot them.

    Args:
        title: of the job list.
        baselines: for each row, in order, the row that it is compared with.
        records: the results.
        plot: file of the plot, a PNG; None: no plot.
    """
    rows = {row: found for row in baselines if (found := [each for each in records if each["row"] == row])}
    if not rows:
        print("no results yet")
        return
    print(f"{title}\n")
    for line in table(baselines, rows):
        print("| " + " | ".join(line) + " |")
    for line in notes(records):
        print(f"\n{line}")
    if plot is not None:
        plot.write_bytes(render(lambda figure: _draw(figure, title, rows), "png", 9.0, 3.8))


def table(baselines: Mapping[str, str], rows: Mapping[str, list[Record]]) -> list[list[str]]:
    """Return the cells of the table, with a header; without the columns of the distance where none was measured."""
    records = [record for each in rows.values() for record in each]
    sigmas = list(records[0]["held_out"])
    scores = ["FD", "FD - baseline"] if any("value" in record for record in records) else []
    header = ["row", "seeds", "parameters", "GMAC", "images", "CPU min", *scores]
    header += ["held-out loss", *(f"at {sigma}" for sigma in sigmas)]
    lines = [header, ["---", *("---:" for _ in header[1:])]]
    for row, of_row in rows.items():
        first, baseline = of_row[0], baselines[row]
        compared = "" if row == baseline else f"{_difference(of_row, rows.get(baseline, []))} ({baseline})"
        lines.append(
            [
                row,
                str(len(of_row)),
                f"{first['parameters']:,}",
                f"{first['macs'] / 1e9:.3f}",
                f"{first['num_images']:,}",
                f"{_mean(of_row, _minutes):.1f}",
                *([_distance(of_row), compared] if scores else []),
                f"{_mean(of_row, mean_loss):.4f}",
                *(f"{_mean(of_row, lambda record, sigma=sigma: record['held_out'][sigma]):.4f}" for sigma in sigmas),
            ]
        )
    return lines


def notes(records: Sequence[Record]) -> list[str]:
    """Return how the columns were measured."""
    metrics = sorted({record["metric"] for record in records if "metric" in record})
    machines = "; ".join(sorted({record["machine"] for record in records}))
    hours = sum(record["train_cpu_s"] for record in records) / 3600
    score = (
        f"FD is {', '.join(metrics)}: the mean over the seeds with its 95 % interval (Student's t), for one seed with "
        "the jackknife interval of its samples. Differences are paired by seed. "
    )
    return [
        f"{score if metrics else ''}The held-out loss is the unweighted error of the network's output on unseen "
        "images, the mean over the noise levels and at each.",
        f"Training took {hours:.2f} CPU hours in total on: {machines}.",
    ]


def mean_loss(record: Record) -> float:
    """Return the mean held-out loss of a run over the noise levels."""
    return statistics.fmean(record["held_out"].values())


def _minutes(record: Record) -> float:
    return float(record["train_cpu_s"]) / 60


def _mean(records: Sequence[Record], value: Callable[[Record], float]) -> float:
    return statistics.fmean(map(value, records))


def _distance(records: Sequence[Record]) -> str:
    values = [record["value"] for record in records if "value" in record]
    if not values:
        return "-"
    if len(values) > 1:
        return with_interval(values)
    low, high = records[0]["low"], records[0]["high"]
    return f"{values[0]:.1f}" + ("" if low is None else f" ({low:.1f} to {high:.1f})")


def _difference(records: Sequence[Record], baseline: Sequence[Record]) -> str:
    of_seed = {record["seed"]: record["value"] for record in baseline if "value" in record}
    values = [record["value"] - of_seed[record["seed"]] for record in records if record["seed"] in of_seed]
    return with_interval(values, sign="+") if values else "-"


def with_interval(values: Sequence[float], sign: str = "") -> str:
    """Return the mean of values with its 95 % interval, such as `"12.3 (11.0 to 13.6)"`."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:{sign}.1f}"
    margin = T_QUANTILES.get(len(values) - 1, NORMAL_QUANTILE) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:{sign}.1f} ({mean - margin:{sign}.1f} to {mean + margin:{sign}.1f})"


def _draw(figure: "Figure", title: str, rows: Mapping[str, list[Record]]) -> None:
    figure.suptitle(title, fontsize=10)
    left, right = figure.subplots(1, 2, sharey=True)
    _scatter(left, rows, lambda record: record["macs"] / 1e9)
    _scatter(right, rows, _minutes)
    finish(left, "GMAC per image, forward", "Fréchet distance")
    finish(right, "training time, CPU minutes")


def _scatter(axes: "Axes", rows: Mapping[str, list[Record]], x_of: Callable[[Record], float]) -> None:
    """Draw each run as a small point, and the mean of each row as a large one with its name."""
    for number, (row, records) in enumerate(rows.items()):
        style = {key: STYLES[number % len(STYLES)][key] for key in ("color", "marker")}
        places = [x_of(record) for record in records]
        values = [record["value"] for record in records]
        axes.plot(places, values, linestyle="none", markersize=3, alpha=0.6, **style)
        mean = statistics.fmean(places), statistics.fmean(values)
        axes.plot(*mean, linestyle="none", markersize=7, markerfacecolor="none", **style)
        axes.annotate(row, mean, xytext=(5, 5), textcoords="offset points", fontsize=8)
