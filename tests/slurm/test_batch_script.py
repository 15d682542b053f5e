"""The batch scripts: valid for bash, with all words quoted, and correct with a simulated Slurm."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hdit_core.errors import UsageError
from hdit_core.slurm.batch_script import Request, array_script, job_script, train_script

REQUEST = Request("a run", "24:00:00", nodes=2, gpus_per_node=8, cpus_per_task=4, more=("partition=gpu", "exclusive"))
HOSTILE = ["it's", "$(touch pwned)", "`touch pwned`", "a\n#SBATCH --nodes=99\ntouch pwned", 'a"; touch pwned; "', "x y"]


def scripts(words, request=REQUEST, run=Path("runs/a")):
    return {
        "torchrun": train_script(request, words, run, (), "torchrun", 3),
        "srun": train_script(request, words, run, (), "srun", 3),
        "sample": job_script(request, ["sample", *words], (), 3),
        "prepare-data": array_script(request, ["prepare-data", *words], (), 10),
    }


@pytest.mark.parametrize("kind", ["torchrun", "srun", "sample", "prepare-data"])
def test_bash_finds_nothing_wrong_with_a_script(kind):
    script = scripts(["a recipe.toml", *HOSTILE], run=Path("runs/it's $(here)"))[kind]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_directives_request_the_given_resources():
    script = scripts(["imagenet256"])["srun"]
    found = re.findall(r"^#SBATCH --(.*)$", script, re.MULTILINE)
    assert found == [
        "job-name=a-run",
        "nodes=2",
        "ntasks-per-node=8",
        "gpus-per-node=8",
        "cpus-per-task=4",
        "time=24:00:00",
        "signal=B:USR1@300",
        "requeue",
        "open-mode=append",
        "output=%x-%j.out",
        "partition=gpu",
        "exclusive",
    ]
    torchrun = scripts(["imagenet256"])["torchrun"]
    assert "ntasks-per-node=1\n" in torchrun and "cpus-per-task=32\n" in torchrun  # the eight ranks of one task
    assert "array=1-10\n" in scripts([])["prepare-data"]
    assert "gpus" not in train_script(Request("r", "60"), ["mnist32"], Path("r"), (), "srun", 3)


@pytest.mark.parametrize("time", ["", "soon", "1:2:3:4", "24:00:00\n#SBATCH --nodes=9", "-5", "1-"])
def test_a_time_that_sbatch_would_refuse_is_refused(time):
    with pytest.raises(UsageError, match=r"(?s)--time .*: expected a time as sbatch takes it, such as 24:00:00"):
        Request("r", time)


@pytest.mark.parametrize("time", ["60", "30:00", "24:00:00", "2-12", "2-12:30", "2-12:30:15"])
def test_every_time_format_of_sbatch_is_accepted(time):
    assert f"#SBATCH --time={time}" in list(Request("r", time).directives(1))


@pytest.mark.parametrize("option", ["--partition=gpu", "-p", "partition=a b", "comment='x'", "wrap=$(x)", "x\ny", ""])
def test_an_invalid_sbatch_option_is_refused(option):
    with pytest.raises(UsageError, match="expected an option of sbatch without hyphens"):
        Request("r", "60", more=(option,))


@pytest.mark.parametrize(("kind", "cores"), [("torchrun", 32), ("srun", 4), ("sample", 4)])
def test_srun_gets_the_number_of_cores_that_it_does_not_inherit(kind, cores):
    assert f"srun --kill-on-bad-exit=1 --cpus-per-task={cores} python" in scripts([])[kind]


def test_a_preparation_gets_no_signal_before_its_limit():
    assert "signal=" not in array_script(Request("r", "1", notice_s=0), ["prepare-data"], (), 10)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("1", 60), ("1:30", 90), ("1:00:30", 3630), ("1-2", 93_600), ("1-2:3", 93_780), ("1-2:3:4", 93_784)],
)
def test_a_notice_time_as_long_as_the_job_is_refused(time, seconds):
    with pytest.raises(UsageError, match=f"--notice {seconds}: .* --time {time} is {seconds} seconds; expected"):
        Request("r", time, notice_s=seconds)
    Request("r", time, notice_s=seconds - 1)
    Request("r", "0", notice_s=seconds)  # no limit


PLAYED = {
    "srun": """trap 'exit "${SRUN_EXIT:-143}"' TERM; env > "$TMP/environment"; printf "%s\\n" "$@" > "$TMP/srun"
        if [ -e "$TMP/slow" ]; then while [ ! -e "$TMP/STOP" ]; do sleep 0.05; done; fi
        exit "${SRUN_EXIT:-0}\"""",
    "scontrol": 'if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" > "$TMP/scontrol"; fi',
    "python": 'case "$*" in *requeue*) echo "$@" > "$TMP/again"; exit "${AGAIN:-0}";; *) exit 9;; esac',
}


def play(tmp_path, script, **environment):
    """Run a script with commands of Slurm that only note how they were called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in PLAYED.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    known = {
        "SLURM_JOB_ID": "71",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "TMP": str(tmp_path),
        "STOP": str(tmp_path / "STOP"),
    }
    return subprocess.Popen(
        ["bash", "-c", script], env=os.environ | known | environment | {"PATH": path}, cwd=tmp_path, stderr=sys.stderr
    )


def wait_for(path, job):
    while not path.exists():
        assert job.poll() is None
        time.sleep(0.005)


@pytest.mark.parametrize("kind", ["torchrun", "srun", "sample"])
def test_every_argument_reaches_the_command_unchanged_and_nothing_else_runs(tmp_path, kind):
    words = ["recipe.toml", "--set", *HOSTILE]
    assert play(tmp_path, scripts(words, run=tmp_path)[kind]).wait(120) == 0

    given = (tmp_path / "srun").read_text()
    assert given.endswith("".join(f"{word}\n" for word in words))
    assert not (tmp_path / "pwned").exists()


def test_ranks_meet_at_the_first_node_on_a_port_of_the_job(tmp_path):
    assert play(tmp_path, scripts(["imagenet256"], run=tmp_path)["torchrun"]).wait(120) == 0

    given = (tmp_path / "srun").read_text().splitlines()
    assert {"--rdzv-endpoint=node1:20071", "--rdzv-id=71-0", "--nnodes=2", "--nproc-per-node=8"} <= set(given)
    assert "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGUSR1,SIGUSR2" in given


def test_ranks_of_one_node_meet_in_a_file_and_not_at_a_port(tmp_path):
    request = Request("r", "60", ranks_per_node=2)
    assert play(tmp_path, train_script(request, ["mnist32"], tmp_path, (), "torchrun", 3)).wait(120) == 0

    given = (tmp_path / "srun").read_text().splitlines()
    endpoint = next(word.partition("=")[2] for word in given if word.startswith("--rdzv-endpoint="))
    assert Path(endpoint).is_absolute() and Path(endpoint).name == "store"
    assert not Path(endpoint).parent.exists()  # made for the job, and taken away with it
    assert {"--rdzv-conf=store_type=file", "--local-addr=127.0.0.1", "--nnodes=1", "--nproc-per-node=2"} <= set(given)
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in (tmp_path / "environment").read_text().splitlines()


def test_a_resumable_run_is_requeued_and_another_ends_with_its_exit_code(tmp_path):
    (tmp_path / "yes").mkdir()
    (tmp_path / "no").mkdir()
    script = scripts(["imagenet256"])["srun"]
    assert play(tmp_path / "yes", script, AGAIN="0", SRUN_EXIT="75").wait(120) == 0
    assert play(tmp_path / "no", script, AGAIN="1", SRUN_EXIT="5").wait(120) == 5

    assert (tmp_path / "yes" / "scontrol").read_text() == "requeue 71\n"
    assert not (tmp_path / "no" / "scontrol").exists()
    assert (tmp_path / "yes" / "again").read_text() == "-m hdit_cli slurm requeue runs/a --most 3\n"


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_a_dry_run_is_not_requeued_and_its_end_does_not_stop_the_run(tmp_path, launcher):
    (tmp_path / "slow").touch()
    request = Request("r", "60", ranks_per_node=2)
    job = play(tmp_path, train_script(request, ["mnist32", "--dry-run"], tmp_path, (), launcher, None), SRUN_EXIT="9")
    while not (tmp_path / "srun").exists():
        pass
    job.send_signal(10)

    assert job.wait(30) != 0
    assert not {"STOP", "again", "scontrol"} & {path.name for path in tmp_path.iterdir()}


def test_slurms_signal_creates_the_stop_file_and_is_distinguished_from_a_users(tmp_path):
    (tmp_path / "slow").touch()
    job = play(tmp_path, train_script(REQUEST, ["imagenet256"], tmp_path, (), "srun", 2))
    wait_for(tmp_path / "srun", job)
    job.send_signal(10)  # SIGUSR1

    assert job.wait(120) == 0
    assert (tmp_path / "again").read_text() == f"-m hdit_cli slurm requeue {tmp_path} --most 2 --asked\n"


def test_a_sampling_job_is_requeued_only_when_slurm_ended_it_and_not_forever(tmp_path):
    script = job_script(REQUEST, ["sample"], (), 3)
    cases = (("first", "0", "75", True), ("fourth", "3", "75", False), ("done at the last moment", "0", "0", False))
    for name, restarts, code, queued in cases:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "slow").touch()
        job = play(folder, script, SLURM_RESTART_COUNT=restarts, SRUN_EXIT=code)
        wait_for(folder / "srun", job)
        job.send_signal(10)
        assert job.wait(120) == (0 if queued else int(code))
        assert (folder / "scontrol").exists() == queued
