"""Runs the stages one after the other, each within its time, and writes what each printed as it ends.

A stage that fails or is too slow costs its own results only. `summary.json` and `summary.txt` say how each ended, and
`results.tar.gz` has what each printed: some machines return only a few files.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
LIMIT_S = 540.0
SLOW_S = 600.0  # each: a shared CPU may be busy
PYTHON = [sys.executable]
HDIT = [*PYTHON, "-m", "hdit_cli"]


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: of its files.
        limit_s: it is ended then.
        command: what it prints on stdout is kept as NAME.json if it is JSON, and as NAME.txt else.
    """

    name: str
    limit_s: float
    command: list[str]


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: code 0 is success, None is a stage that ran out of time or was not begun."""

    name: str
    code: int | None
    elapsed_s: float
    problem: str


def bench(*arguments: str) -> list[str]:
    """Return a command of `hdit bench` that prints JSON."""
    return [*HDIT, "bench", *arguments, "--json"]


def own(script: str, *arguments: str) -> list[str]:
    """Return a command of a script in this folder."""
    return [*PYTHON, str(HERE / script), *arguments]


def train(recipe: str, backend: str, compiled: bool, batch_size: int) -> list[str]:
    """Return the command that times a training step."""
    settings = {
        "model.attention_backend": f'"{backend}"',
        "train.compile": str(compiled).lower(),
        "train.batch_size": str(batch_size),
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return bench("train", recipe, "--device", "cuda", "--seconds", "6", *overrides)


FFHQ, IMAGENET = 16, 64  # images per step; `hdit plan --gpu h100` has room for 26 and 91


def gpu_stages(work: Path) -> list[Stage]:
    """Return the stages on a GPU, the most needed first.

    Args:
        work: folder of what is not a result.
    """
    cuda = ("--device", "cuda")
    correctness = partial(own, "correctness.py", *cuda)
    attention = partial(bench, "attention", *cuda, "--seconds", "2", "--sizes")
    sample = partial(bench, "sample", "ffhq1024", *cuda, "--seconds", "4", "--set", "sample.batch_size=1")
    profile = partial(own, "profile_step.py", *cuda, "--recipe", "ffhq1024", "--batch-size", str(FFHQ))
    stages = [
        Stage("environment", 40, own("environment.py", *cuda)),
        Stage("correctness-triton", 110, correctness("--backends", "triton", "tiled")),
        Stage("train-ffhq1024-triton", 40, train("ffhq1024", "triton", False, FFHQ)),
        Stage("attention-256", 60, attention("256")),
        Stage("correctness-network", 60, correctness("--network", "eager")),
        Stage("train-ffhq1024-triton-compiled", 75, train("ffhq1024", "triton", True, FFHQ)),
        Stage("profile", 40, profile()),
        Stage("train-imagenet256-compiled", 70, train("imagenet256", "auto", True, IMAGENET)),
        Stage("resume", 60, own("resume.py", *cuda, "--work", str(work / "resume"))),
        Stage("mnist32", 90, own("digits.py", *cuda, "--work", str(work / "mnist32"))),
        Stage("sample", 20, sample()),
        Stage("sample-cuda-graphs", 20, sample("--cuda-graphs")),
        Stage("correctness-compiled", 60, correctness("--network", "compiled")),
        Stage("attention-128", 30, attention("128")),
        Stage("attention-64", 30, attention("64")),
        Stage("train-imagenet256", 35, train("imagenet256", "auto", False, IMAGENET)),
        Stage(
            "scaling", 90, bench("scaling", *cuda, "--sizes", "256,512,1024,2048", "--width", "768", "--seconds", "0.5")
        ),
        Stage("train-ffhq1024-flex", 45, train("ffhq1024", "flex", False, FFHQ)),
        Stage("sample-compiled-cuda-graphs", 50, sample("--compile", "--cuda-graphs")),
        Stage("profile-compiled", 50, profile("--compile")),
        Stage("correctness-flex", 60, correctness("--backends", "flex")),
    ]
    if find_spec("natten") is not None:
        stages.append(Stage("train-ffhq1024-natten", 25, train("ffhq1024", "natten", False, FFHQ)))
    return stages


def rehearsal(work: Path) -> list[Stage]:
    """Return the same kinds of stages as they can run on a CPU, each at a size that takes seconds."""
    cpu = ("--device", "cpu")
    tiny = ("--set", "train.batch_size=2", "--seconds", "0.1", *cpu)
    correctness = partial(own, "correctness.py", *cpu, "--rehearse")
    return [
        Stage("environment", SLOW_S, own("environment.py", *cpu)),
        Stage("correctness-tiled", SLOW_S, correctness("--backends", "tiled", "triton")),
        Stage("correctness-network", SLOW_S, correctness("--network", "eager")),
        Stage("correctness-compiled", SLOW_S, correctness("--network", "compiled")),
        Stage("attention", SLOW_S, bench("attention", *cpu, "--sizes", "16", "--seconds", "0.1")),
        Stage("train", SLOW_S, bench("train", "mnist32", *tiny)),
        Stage("profile", SLOW_S, own("profile_step.py", *cpu, "--recipe", "mnist32", "--batch-size", "2")),
        Stage("resume", SLOW_S, own("resume.py", *cpu, "--work", str(work / "resume"), "--num-images", "128")),
        Stage("mnist32", SLOW_S, own("digits.py", *cpu, "--work", str(work / "mnist32"), "--rehearse")),
        Stage(
            "sample",
            SLOW_S,
            bench("sample", "mnist32", *cpu, "--set", "sample.batch_size=2", "--seconds", "0.1"),
        ),
        Stage("scaling", SLOW_S, bench("scaling", *cpu, "--sizes", "32,64", "--seconds", "0.1")),
    ]


def run(stage: Stage, out: Path, left_s: float) -> Outcome:
    """Run a stage within its time and what is left of all, and write what it printed."""
    if left_s < 5:
        return Outcome(stage.name, None, 0.0, "no time was left to begin")
    began_at, problem = time.monotonic(), ""
    with (out / f"{stage.name}.log").open("w") as log:
        process = subprocess.Popen(
            stage.command, stdout=subprocess.PIPE, stderr=log, cwd=HERE.parents[1], start_new_session=True, text=True
        )
        try:
            printed, _ = process.communicate(timeout=min(stage.limit_s, left_s))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, _ = process.communicate()
            problem = f"ended after {time.monotonic() - began_at:.0f} s"
        except BaseException:  # Ctrl-C: the stage is in a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            raise
    write(stage.name, printed, out)
    code = None if problem else process.returncode
    return Outcome(stage.name, code, time.monotonic() - began_at, problem or (last_line(out, stage) if code else ""))


def write(name: str, printed: str, out: Path) -> None:
    """Write what a stage printed, as JSON where it is that."""
    try:
        content, ending = json.dumps(json.loads(printed), indent=1), "json"
    except ValueError:
        content, ending = printed, "txt"
    (out / f"{name}.{ending}").write_text(content)


def last_line(out: Path, stage: Stage) -> str:
    """Return the last line that a stage wrote on stderr."""
    return (out / f"{stage.name}.log").read_text().strip().rpartition("\n")[2][:300]


def summarize(outcomes: list[Outcome], out: Path) -> None:
    """Write how all stages so far ended."""
    (out / "summary.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    lines = [f"{o.name:<32}{'ok' if o.code == 0 else 'FAILED':<8}{o.elapsed_s:6.1f} s  {o.problem}" for o in outcomes]
    (out / "summary.txt").write_text("".join(f"{line.rstrip()}\n" for line in lines))


def pack(folder: Path, archive: Path) -> None:
    """Write the files of a folder as an archive, in place of an earlier one."""
    unfinished = archive.with_suffix(".part")
    with tarfile.open(unfinished, "w:gz") as tar:
        tar.add(folder, "results")
    unfinished.replace(archive)


def main() -> int:
    parser = argparse.ArgumentParser(description="Stages of benchmarks/gpu/run.sh.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of what is not a result")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="run these stages only")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="SECONDS", help="time for all stages together")
    arguments = parser.parse_args()
    out, results, began_at = arguments.out.resolve(), arguments.work.resolve() / "results", time.monotonic()
    results.mkdir(parents=True, exist_ok=True)
    stages = (rehearsal if arguments.rehearse else gpu_stages)(arguments.work.resolve())
    outcomes: list[Outcome] = []
    for stage in stages:
        if arguments.only and stage.name not in arguments.only:
            continue
        left_s = float("inf") if arguments.rehearse else arguments.limit - (time.monotonic() - began_at)
        outcomes.append(run(stage, results, left_s))
        summarize(outcomes, out)
        pack(results, out / "results.tar.gz")
        print(f"{outcomes[-1].name}: {outcomes[-1].code} after {outcomes[-1].elapsed_s:.0f} s", file=sys.stderr)
    print((out / "summary.txt").read_text(), end="")
    return 0 if all(outcome.code == 0 for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
