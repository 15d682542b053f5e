"""Train and score small variants of a recipe side by side: the paper's ablations, and comparisons of techniques.

    python benchmarks/ablations.py run benchmarks/jobs/table1.toml --out runs/table1
    python benchmarks/ablations.py report benchmarks/jobs/table1.toml --out runs/table1 --plot table1.png

A job list is a TOML file with rows and seeds; a job is one row with one seed. Each job trains, measures the denoising
loss on held-out images at several noise levels, scores samples, and appends one line to OUT/results.jsonl. Finished
jobs are skipped and an interrupted one resumes, so the same command continues after a stop (Ctrl-C or SIGTERM; exit
code 75). Jobs run one seed after the other, so that all rows have a result early. A job whose settings have changed is
trained again, and only results of the current settings are reported.

Training time is CPU time of the training process, which hardly depends on what else the machine does. With more than
one thread it also counts the time in which threads wait for each other.
"""

import argparse
import hashlib
import json
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ablation_report import mean_loss, report
from pydantic import BaseModel, Field
from techniques import TECHNIQUES, Technique

from hdit_core import jsonl
from hdit_core.api import PreparedDataset, load_denoiser, read_recipe
from hdit_core.bench.machine import this_machine
from hdit_core.diffusion.loss import denoising_loss
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import HditError, UsageError
from hdit_core.evaluate.report.result import Score
from hdit_core.evaluate.score import dataset_statistics, score
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.flops.count import count
from hdit_core.locks import LockHeldError, locked
from hdit_core.randomness import normal
from hdit_core.recipe.read import override_recipe
from hdit_core.recipe.run import Recipe
from hdit_core.train.monitor.callbacks import Callbacks, Progress
from hdit_core.train.run import train

BATCH_SIZE = 32  # of held-out images
RESULTS = "results.jsonl"


class Row(BaseModel, extra="forbid"):
    """One variant: a recipe with shared and own overrides."""

    name: str
    recipe: str
    use: list[str] = []
    set: dict[str, Any] = {}
    train_data: str | None = None
    held_out: str | None = None
    baseline: str | None = None
    technique: Technique = "none"


class JobList(BaseModel, extra="forbid"):
    """A job list, as in its file.

    Attributes:
        title: of the table and the plot.
        train_data: prepared data set to train on, also the reference of the score; a row may have its own.
        held_out: prepared data set of unseen images; a row may have its own.
        baseline: row that the others are compared with, seed by seed; a row may have its own.
        seeds: of the runs, each also the seed of the run's samples.
        num_samples: samples to score; 0: no score.
        num_held_out: held-out images, spread over the set.
        sigmas: noise levels of the held-out loss.
        extractor: feature network of the score.
        sets: overrides by name; those in `all` apply to every row, others to rows that list them in `use`.
        row: the variants.
    """

    title: str
    train_data: str
    held_out: str
    baseline: str
    seeds: list[int]
    num_samples: int
    num_held_out: int
    sigmas: list[float]
    extractor: str = "efficientnet-lite0"
    sets: dict[str, dict[str, Any]] = {}
    row: list[Row] = Field(min_length=1)


@dataclass(frozen=True)
class Job:
    """One row with one seed.

    Attributes:
        row, seed: which.
        recipe: with all overrides.
        held_out: data set of unseen images.
        baseline: name of the row that this one is compared with.
        technique: tried in this row; see `techniques.py`.
        key: digest of everything that determines the result; keys of the recipe that have their defaults are left
            out, so that it survives new keys.
    """

    row: str
    seed: int
    recipe: Recipe
    held_out: str
    baseline: str
    technique: Technique
    key: str


def read_jobs(path: Path) -> tuple[JobList, list[Job]]:
    """Return a job list and its jobs in the order in which they run."""
    listed = JobList.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    return listed, [_job(listed, row, seed) for seed in listed.seeds for row in listed.row]


def _job(listed: JobList, row: Row, seed: int) -> Job:
    overrides = {key: value for name in ("all", *row.use) for key, value in listed.sets.get(name, {}).items()}
    for name in row.use:
        if name not in listed.sets:
            raise UsageError(
                f"row {row.name}: there are no overrides '{name}' in [sets]; expected {', '.join(listed.sets)}"
            )
    data = row.train_data or listed.train_data
    recipe = read_recipe(row.recipe, overrides | row.set | {"train.seed": seed, "data.path": data})
    held_out = row.held_out or listed.held_out
    scoring = [held_out, listed.num_samples, listed.num_held_out, listed.sigmas, listed.extractor]
    tried = [] if row.technique == "none" else [row.technique]
    text = json.dumps([recipe.model_dump(mode="json", exclude_defaults=True), scoring, *tried], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Job(row.name, seed, recipe, held_out, row.baseline or listed.baseline, row.technique, key)


def finished(jobs: list[Job], out: Path) -> list[dict[str, Any]]:
    """Return the results of these jobs that exist, in the order of the jobs."""
    by_key = {record.get("key"): record for record in jsonl.read(out / RESULTS)}
    return [by_key[job.key] for job in jobs if job.key in by_key]


class CpuClock:
    """CPU time of training, kept in a file so that it survives interruptions.

    What was trained after the last line of the log of an interrupted run is not counted: neither its time nor its
    images.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        known = json.loads(path.read_text()) if path.exists() else {"num_images": 0, "cpu_s": 0.0}
        self._num_images, self._cpu_s = known["num_images"], known["cpu_s"]
        self._last: tuple[int, float] | None = None

    def on_step(self, now: Progress) -> None:
        """Start the clock after the first step, which compiles and allocates."""
        self._last = self._last or (now.num_images, time.process_time())

    def on_progress(self, now: Progress) -> None:
        """Add what was trained since the last call."""
        if self._last is not None:
            cpu_s = time.process_time()
            self._num_images += now.num_images - self._last[0]
            self._cpu_s += cpu_s - self._last[1]
            self._last = now.num_images, cpu_s
            self._path.write_text(json.dumps({"num_images": self._num_images, "cpu_s": self._cpu_s}))

    def seconds_for(self, num_images: int) -> float:
        """Return the CPU time of so many images at the measured rate."""
        return self._cpu_s / self._num_images * num_images if self._num_images else float("nan")


def run_job(job: Job, listed: JobList, folder: Path) -> dict[str, Any]:
    """Train and score a job, resuming what is there, and return its result."""
    clock = CpuClock(folder / f"{job.key}-cpu.json")
    callbacks = Callbacks(on_step=clock.on_step, on_progress=clock.on_progress)
    state = train(job.recipe, folder / job.key, callbacks=callbacks)
    counted = count(job.recipe.model)
    return {
        "row": job.row,
        "seed": job.seed,
        "key": job.key,
        "num_images": state.num_images,
        "parameters": counted.parameters,
        "macs": counted.macs,
        "train_cpu_s": round(clock.seconds_for(state.num_images), 1),
        "elapsed_s": round(state.elapsed_s, 1),
        "held_out": held_out_losses(folder / job.key, job.held_out, listed),
        **(scored(job, listed, folder) if listed.num_samples else {}),
        "machine": str(this_machine(torch.device("cpu"), torch.get_num_threads())),
    }


def scored(job: Job, listed: JobList, folder: Path) -> dict[str, Any]:
    """Return the Frechet distance of a run's samples with its interval."""
    reference = dataset_statistics(Path(job.recipe.data.path), listed.extractor, lambda done, total: None)
    settings = ScoreSettings(
        None,
        str(reference),
        checkpoint=str(folder / job.key),
        extractor=listed.extractor,
        n=listed.num_samples,
        seed=job.seed,
        allow_small_n=True,
        keep_features=folder / f"{job.key}-features",
    )
    result = score(settings)
    assert isinstance(result, Score)  # there is a reference, and one process
    estimate = result.spread.estimate
    return {"metric": result.name, "value": estimate.value, "low": estimate.low, "high": estimate.high}


@torch.inference_mode()
def held_out_losses(run: Path, data: str, listed: JobList) -> dict[str, float]:
    """Return the mean squared error of the network's EDM output on unseen images, by noise level.

    The error is not weighted, so that runs with different loss weightings can be compared. Each image has the same
    noise in all runs.
    """
    denoiser = load_denoiser(run)
    plain = override_recipe(denoiser.recipe, {"diffusion.weighting": "karras", "diffusion.loss_scales": 1})
    judged = Denoiser(denoiser.network, plain)
    dataset = PreparedDataset(data)
    count = min(listed.num_held_out, len(dataset))
    indices = [index * len(dataset) // count for index in range(count)]
    return {
        f"{sigma:g}": sum(_losses(judged, dataset, indices, level, sigma)) / count
        for level, sigma in enumerate(listed.sigmas)
    }


def _losses(
    judged: Denoiser, dataset: PreparedDataset, indices: list[int], level: int, sigma: float
) -> Iterator[float]:
    has_classes = judged.recipe.model.num_classes > 0
    for start in range(0, len(indices), BATCH_SIZE):
        chunk = indices[start : start + BATCH_SIZE]
        images, classes = zip(*(dataset[index] for index in chunk), strict=True)
        clean = torch.stack(images)
        noise = normal(0, "held-out", chunk, clean.shape[1:], part=level)
        class_ids = torch.tensor(classes) if has_classes else None
        yield from denoising_loss(judged, clean, noise, torch.full((len(chunk),), sigma), class_ids=class_ids).tolist()


def run(options: argparse.Namespace) -> None:
    """Run the jobs of a list that are not finished."""
    torch.set_num_threads(options.threads)
    listed, jobs = read_jobs(options.list)
    with locked(options.out / ".lock"):
        done = {record["key"] for record in finished(jobs, options.out)}
        waiting = [job for job in jobs if job.key not in done][: options.at_most]
        for number, job in enumerate(waiting, 1):
            print(f"{number} of {len(waiting)}: {job.row}, seed {job.seed}", file=sys.stderr, flush=True)
            with TECHNIQUES[job.technique]():
                result = run_job(job, listed, options.out)
            jsonl.append(options.out / RESULTS, result)
            score_line = f"{result['metric']} {result['value']:.2f}, " if "value" in result else ""
            print(f"  {score_line}held-out loss {mean_loss(result):.4f}", file=sys.stderr, flush=True)


def show(options: argparse.Namespace) -> None:
    """Print the table of a list's results, and plot them."""
    listed, jobs = read_jobs(options.list)
    baselines = {job.row: job.baseline for job in jobs}
    report(listed.title, baselines, finished(jobs, options.out), options.plot)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, and run or report a job list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run), ("report", show)):
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("list", type=Path, metavar="LIST.toml", help="job list")
        command.add_argument("--out", type=Path, required=True, help="folder for the runs and the results")
        if function is run:
            command.add_argument("--threads", type=int, default=1, help="CPU threads")
            command.add_argument("--at-most", type=int, metavar="N", help="stop after N jobs")
        else:
            command.add_argument("--plot", type=Path, metavar="FILE.png", help="plot the distances")
    options = parser.parse_args(arguments)
    try:
        options.function(options)
    except HditError as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_code)
    except LockHeldError:
        sys.exit(f"{options.out}: another process runs jobs there")


if __name__ == "__main__":
    main()
