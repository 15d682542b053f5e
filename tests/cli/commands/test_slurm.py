"""`hdit slurm`: scripts on stdout, and errors before a job is submitted."""

import shlex
import subprocess

import pytest

from hdit_cli.main import main
from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.recipe.write import recipe_toml

MISTAKES = {
    "an option of sbatch without its value": (
        ["train", "mnist32", "--sbatch", "account", "--time", "60"],
        "--sbatch account: expected a value, for example account=NAME",
    ),
    "an option of sbatch with an empty value": (
        ["train", "mnist32", "--sbatch", "account=", "--time", "60"],
        "a value",
    ),
    "ranks that cannot share a step": (
        ["train", "imagenet256", "--nodes", "3", "--time", "60"],
        "the job's ranks: a step of 256 images cannot be divided equally among 3 devices; use 2 or 4",
    ),
    "an option that hdit train does not have": (
        ["train", "imagenet256", "--time", "60", "--sett", "x=1"],
        "no such option: --sett; did you mean '--set'? (see 'hdit train --help')",
    ),
    "a recipe that is none": (["train", "imagenet", "--time", "60"], "imagenet"),
    "a time that is none": (["sample", "--ckpt", "runs/a", "--time", "soon"], "--time soon: expected a time"),
    "no time": (["train", "imagenet256"], "missing option '--time'"),
    "the last step in an array": (
        ["prepare-data", "photos", "--out", "d", "--size", "64", "--finish", "--tasks", "4", "--time", "60"],
        "--finish with --tasks: merging is a single job that waits for the array",
    ),
    "one share of an array": (
        ["prepare-data", "photos", "--out", "d", "--size", "64", "--task", "0/4", "--tasks", "4", "--time", "60"],
        "--task with --tasks: every job of the array would process that same part; remove --task",
    ),
    "paths on a stdin that a job has not": (
        ["prepare-data", "-", "--out", "d", "--size", "64", "--time", "60"],
        "-: the stdin of a Slurm job is empty; write the data to a file",
    ),
    "images on a stdin that a job has not": (
        ["eval-fid", "-", "--ref", "faces.npz", "--time", "60"],
        "the stdin of a Slurm job is empty",
    ),
    "images in the log": (
        ["sample", "--ckpt", "runs/a", "--out", "-", "--time", "60"],
        "--out -: the images would be written to the job's log; give a folder, a .tar or an .npz",
    ),
    "a score of nothing": (
        ["eval-fid", "--ref", "faces.npz", "--time", "60"],
        "expected either IMAGES (a folder, an archive or a data set) or --ckpt RUN, got neither",
    ),
    "a score against nothing": (["eval-fid", "samples", "--time", "60"], "--ref is missing"),
    "a guidance scale without a weaker model": (
        ["eval-fid", "--ckpt", "runs/a", "--autoguidance", "2", "--time", "60"],
        "--autoguidance 2.0: needs a weaker model; give one with --guide CKPT",
    ),
    "a report on pairs": (
        ["eval-fid", "samples", "--ref", "originals", "--paired", "--report", "a.html", "--time", "60"],
        "--report a.html: does not apply to --paired; leave it out",
    ),
    "a range of values that are not read": (
        ["eval-fid", "samples", "--ref", "originals", "--range", "0,1", "--time", "60"],
        "--range: applies to --paired; other scores are computed from 8-bit images",
    ),
    "an option that hdit eval-fid does not have": (
        ["eval-fid", "samples", "--reff", "faces.npz", "--time", "60"],
        "no such option: --reff; did you mean '--ref'? (see 'hdit eval-fid --help')",
    ),
    "statistics without a file": (
        ["eval-fid", "stats", "data/faces", "--time", "60"],
        "missing option '--out' / '-o' (see 'hdit eval-fid stats --help')",
    ),
    "a job that is told to end as it begins": (
        ["sample", "--ckpt", "runs/a", "--time", "1"],
        "--notice 60: the job would get the signal as soon as it starts, since --time 1 is 60 seconds",
    ),
    "two things to do": (["train", "mnist32", "--dry-run", "--repro", "3", "--time", "60"], "exclude each other"),
    "a board that is none": (
        ["train", "mnist32", "--watch", "tensorbord", "--time", "60"],
        "--tracker tensorbord: no such tracker; did you mean 'tensorboard'?",
    ),
}


@pytest.mark.parametrize(("args", "complaint"), MISTAKES.values(), ids=MISTAKES)
def test_an_error_is_reported_and_no_script_printed(capsys, args, complaint):
    assert main(["slurm", *args]) == 2
    out, err = capsys.readouterr()
    assert complaint in err and not out


def test_only_the_script_is_on_stdout_and_it_contains_the_command(capsys):
    words = ["imagenet256", "--out", "runs/a b", "--set", "train.num_images=512"]
    assert main(["slurm", "train", *words, "--nodes", "2", "--gpus-per-node", "8", "--time", "24:00:00"]) == 0
    out, err = capsys.readouterr()

    assert "-m hdit_cli train imagenet256 --out 'runs/a b' --set train.num_images=512 &" in out
    assert "slurm requeue 'runs/a b' --most 3" in out
    assert "--nnodes=2 --nproc-per-node=8" in out and not err


@pytest.mark.parametrize(
    "words",
    [
        ["train", "imagenet256", "--nodes", "2", "--gpus-per-node=8", "--out", "a b", "--time", "24:00:00"],
        ["prepare-data", "photos", "--tasks", "10", "--out", "d", "--size", "64", "-t", "60"],
        ["eval-fid", "samples", "--ref", "a.npz", "--sbatch", "partition=gpu", "--time", "60"],
    ],
)
def test_the_first_comment_of_a_script_is_the_command_that_wrote_it(capsys, words):
    assert main(["slurm", *words]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["#!/bin/bash", f"# Made by: hdit slurm {shlex.join(words)}"]


@pytest.mark.parametrize("once", [["--dry-run"], ["--repro", "0"]])
def test_a_dry_run_and_a_replay_are_not_requeued(capsys, once):
    assert main(["slurm", "train", "mnist32", *once, "--time", "60"]) == 0
    out, _ = capsys.readouterr()
    assert f"-m hdit_cli train mnist32 {' '.join(once)} &" in out
    assert "slurm requeue" not in out and "scontrol requeue" not in out and "STOP" not in out


@pytest.mark.parametrize("words", ["samples --ref a.npz", "--ckpt runs/a --ref a.npz", "stats data --out a.npz"])
def test_scores_and_statistics_keep_their_arguments(capsys, words):
    assert main(["slurm", "eval-fid", *words.split(), "--time", "60"]) == 0
    assert f"-m hdit_cli eval-fid {words} &\n" in capsys.readouterr().out


def test_there_is_one_rank_per_gpu_by_default(capsys):
    main(["slurm", "sample", "--ckpt", "runs/a", "--gpus-per-node", "4", "--time", "60"])
    assert "#SBATCH --ntasks-per-node=4" in capsys.readouterr().out
    main(["slurm", "sample", "--ckpt", "runs/a", "--ranks-per-node", "2", "--time", "60"])
    assert "#SBATCH --ntasks-per-node=2" in capsys.readouterr().out


def test_the_script_of_a_job_array_names_the_next_command(capsys):
    assert main(["slurm", "prepare-data", "photos", "--out", "d", "--size", "64", "--tasks", "10", "--time", "60"]) == 0
    out, err = capsys.readouterr()
    assert "#SBATCH --array=1-10" in out
    assert "--finish instead of --tasks, | sbatch --dependency=afterok:ID" in err


def test_a_run_that_may_be_requeued_exits_with_0_and_others_with_1(tmp_path, capsys):
    assert main(["slurm", "again", str(tmp_path), "--most", "1"]) == 0
    assert main(["slurm", "again", str(tmp_path), "--most", "1"]) == 1
    assert "no progress beyond step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "gpus", "warned"), [("imagenet256", "0", True), ("imagenet256", "8", False), ("mnist32", "0", False)]
)
def test_a_long_training_without_gpus_is_warned_about(capsys, recipe, gpus, warned):
    assert main(["slurm", "train", recipe, "--gpus-per-node", gpus, "--sbatch", "exclusive", "--time", "60"]) == 0
    captured = capsys.readouterr()
    assert ("warning: the job has no GPUs (--gpus-per-node 0)" in captured.err) is warned
    assert captured.out.startswith("#!/bin/bash") and "#SBATCH --exclusive\n" in captured.out


def test_the_step_variables_that_sbatch_passes_on_are_unset_first(capsys):
    assert main(["slurm", "prepare-data", "photos", "--out", "d", "--size", "64", "--time", "60"]) == 0
    script = "SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=0 SLURM_JOB_ID=7; export SLURM_STEP_NUM_TASKS\n"
    script += capsys.readouterr().out.replace("exec python", "env; exit; python")
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert "SLURM_STEP" not in found


def test_a_fork_is_checked_before_the_job_as_training_checks_it(capsys, tmp_path, trained):
    recipe = trained({})
    state = State(step=4, num_images=32, data_hash="ab" * 32)
    save_checkpoint(tmp_path / "a", recipe, state, {"model": {}, "ema": {}, "optimizer": {}})
    (tmp_path / "tiny.toml").write_text(recipe_toml(recipe))
    words = ["slurm", "train", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "b"), "--time", "60", "--from"]
    for source, complaint in (
        (["a@999"], "a@999: no checkpoint of this step; there are 4"),
        (["none"], "none: does not exist; expected RUN or RUN@STEP"),
        (["a", "--set", "train.num_images=16"], "was trained on 32 images, train.num_images is 16"),
        (["a", "--reset", "weights"], "--reset weights: expected optimizer, ema, counter"),
    ):
        assert main([*words, str(tmp_path / source[0]), *source[1:]]) in (2, 4)
        out, err = capsys.readouterr()
        assert complaint in err and not out
    assert main([*words, str(tmp_path / "a@4")]) == 0
    assert f"--from {tmp_path}/a@4 &" in capsys.readouterr().out
