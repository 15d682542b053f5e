"""Scripts of `hdit slurm` in a Slurm of this machine: ranks of both launchers, the time limit, and the stop file."""

import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from hdit_core.checkpoint.log import read_log
from hdit_core.checkpoint.status import read_status
from hdit_core.recipe.read import read_recipe
from hdit_core.recipe.write import recipe_toml
from hdit_core.slurm.requeue import saved_step
from tests.endurance.slurm_cluster import cluster, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A recipe of a tiny network, with its data."""
    folder = tmp_path_factory.mktemp("digits")
    command = [sys.executable, "-m", "hdit_cli", "prepare-data", "mnist", "--size", "16", "--out", str(folder / "data")]
    subprocess.run(command, check=True, capture_output=True)
    levels = 'model.levels=[{depth=1,width=32,head_dim=16,attention="global"}]'
    recipe = read_recipe(
        "mnist32",
        [
            "model.image_size=16",
            levels,
            f"data.path={folder / 'data'}",
            "train.batch_size=8",
            "train.num_images=160",
            "train.cooldown_images=0",
            "train.log_every_images=8",
            "train.checkpoint_every_images=80",
            "train.sample_every_images=0",
        ],
    )
    (folder / "tiny.toml").write_text(recipe_toml(recipe))
    return folder / "tiny.toml"


def submit(environment, folder: Path, *words: str) -> str:
    """Print a script with `hdit slurm`, hand it to sbatch, and return the job's number."""
    setup = f"export PATH={Path(sys.executable).parent}:$PATH OMP_NUM_THREADS=1"
    command = [sys.executable, "-m", "hdit_cli", "slurm", *words, "--setup", setup]
    script = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    done = subprocess.run(
        ["sbatch", "--parsable"], input=script, env=environment, cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def job(environment, number: str) -> dict[str, str]:
    """Return what Slurm says of a job."""
    shown = subprocess.run(["scontrol", "show", "job", number], env=environment, capture_output=True, text=True).stdout
    return dict(re.findall(r"(\w+)=(\S+)", shown))


def wait_until(true, seconds: float, folder: Path) -> None:
    end = time.monotonic() + seconds
    while not true():  # a job that failed never becomes complete
        assert time.monotonic() < end, printed(folder)
        time.sleep(0.5)


def printed(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.glob("*.out"))


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_two_ranks_of_either_launcher_train_a_run_to_its_end(slurm, digits, tmp_path, launcher):
    run = tmp_path / "run"
    words = ["train", str(digits), "--out", str(run), "--ranks-per-node", "2", "--time", "10", "--launcher", launcher]
    number = submit(slurm, tmp_path, *words)
    wait_until(lambda: job(slurm, number)["JobState"] == "COMPLETED", 180, tmp_path)

    assert read_status(run)["state"] == "done"
    assert [line["step"] for line in read_log(run)] == list(range(1, 21))
    assert json.loads((max((run / "checkpoints").iterdir()) / "state.json").read_text())["world_size"] == 2
    assert job(slurm, number)["Restarts"] == "0"


def test_both_launchers_and_one_process_log_the_same_losses(slurm, digits, tmp_path):
    losses = []
    for name, words in {"torchrun": ["--ranks-per-node", "2"], "srun": ["--ranks-per-node", "2"], "one": []}.items():
        run = tmp_path / name
        launcher = "srun" if name == "srun" else "torchrun"
        more = ["--out", str(run), "--time", "10", "--launcher", launcher, *words]
        number = submit(slurm, tmp_path, "train", str(digits), *more)
        wait_until(lambda number=number: job(slurm, number)["JobState"] == "COMPLETED", 180, tmp_path)
        losses.append([line["loss"] for line in read_log(run)])

    assert losses[0] == losses[1]
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)


def test_a_job_that_a_step_of_another_job_submits_trains_on_one_rank(slurm, digits, tmp_path):
    run, script, number = tmp_path / "run", tmp_path / "job.sh", tmp_path / "number"
    train = f"{sys.executable} -m hdit_cli train {digits} --out {run}"
    script.write_text(f"#!/bin/sh\nexport OMP_NUM_THREADS=1\nenv | grep ^SLURM_STEP\n{train}\n")
    submitting = f'if [ "$SLURM_PROCID" = 1 ]; then sbatch --parsable {script} > {number}; fi'
    subprocess.run(["srun", "-n2", "sh", "-c", submitting], env=slurm, cwd=tmp_path, check=True, timeout=120)
    wait_until(lambda: job(slurm, number.read_text().strip())["JobState"] == "COMPLETED", 180, tmp_path)

    assert "SLURM_STEP_NUM_TASKS=2" in printed(tmp_path), "the step's variables reach the job"
    assert read_status(run)["state"] == "done"
    assert json.loads((max((run / "checkpoints").iterdir()) / "state.json").read_text())["world_size"] == 1


def listening_of(words: str) -> dict[str, set[str]]:
    """Return the hexadecimal addresses that every Python listens on whose command has these words, by its number."""
    listening = {}
    for name in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
        listening |= {f"socket:[{row[9]}]": row[1].partition(":")[0] for row in rows if row[3] == "0A"}
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_text().replace("\0", " ")
            if "python" in command.partition(" ")[0] and words in command:  # and not srun, which listens for Slurm
                links = {str(link.readlink()) for link in (process / "fd").iterdir()}
                found[process.name] = {listening[link] for link in links & listening.keys()}
    return found


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_on_one_node_every_socket_listens_on_the_loopback_only(slurm, digits, tmp_path, launcher):
    run = tmp_path / "run"
    long = ["--set", "train.num_images=100000000", "--set", "train.checkpoint_every_images=100000000"]
    words = ["train", str(digits), "--out", str(run), "--ranks-per-node", "2", "--time", "10", "--launcher", launcher]
    number = submit(slurm, tmp_path, *words, *long)
    wait_until(lambda: len(read_log(run)) > 1, 180, tmp_path)

    found = listening_of(f"-m hdit_cli train {digits}")  # the ranks, and who started them
    assert len(found) >= 2 and set.union(*found.values()) == {"0100007F"}  # 127.0.0.1
    (run / "STOP").touch()
    wait_until(lambda: job(slurm, number)["JobState"] not in ("RUNNING", "COMPLETING"), 60, tmp_path)


def test_a_run_saves_before_its_time_limit_is_requeued_and_stops_on_request(slurm, digits, tmp_path):
    run = tmp_path / "run"
    long = ["--set", "train.num_images=100000000", "--set", "train.checkpoint_every_images=100000000"]
    number = submit(slurm, tmp_path, "train", str(digits), "--out", str(run), *long, "--time", "2", "--notice", "60")
    wait_until(lambda: job(slurm, number).get("Restarts") == "1", 240, tmp_path)

    assert read_status(run)["state"] == "preempted"
    first = saved_step(run)
    assert first > 0
    assert f"requeued; progress: from step 0 to {first}" in printed(tmp_path)

    wait_until(lambda: read_status(run)["state"] == "running", 300, tmp_path)
    time.sleep(5)
    (run / "STOP").touch()
    wait_until(lambda: job(slurm, number)["JobState"] not in ("RUNNING", "COMPLETING"), 60, tmp_path)

    assert "the run was stopped by the file" in printed(tmp_path)
    assert job(slurm, number)["Restarts"] == "1"
    assert saved_step(run) > first
