"""`hdit sample`: its selection and output, refusals of ambiguous arguments, and messages about missing images."""

import itertools

import pytest

from hdit_cli.main import main
from hdit_core.generate import job as module
from tests.conftest import REFERENCE

RUN = str(REFERENCE / "neighborhood.safetensors")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--n", "4", "--seeds", "0-3,7"], "--count 4 and --indices 0-3,7: both select the images; give one of them"),
        (["--out", "x.tar.gz"], "--out x.tar.gz: expected a folder, a name that ends in .tar or .npz, or - for a tar"),
        (["--out", "x.PNG"], "--out x.PNG: expected a folder, a name that ends in .tar or .npz"),
        (["--out", "x.TAR"], "--out x.TAR: expected a folder, a name that ends in .tar or .npz"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_sampled(tmp_path, monkeypatch, capsys, option, message):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "--ckpt", RUN, "--device", "cpu", *option]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--budget", "10"], "--budget 10: expected a time such as 90s, 10m or 2h"),
        (["--grid", "4"], "--grid 4: expected ROWSxCOLUMNS, for example 4x8"),
    ],
)
def test_a_misspelled_option_is_refused_before_the_model_is_opened(capsys, option, message):
    assert main(["sample", "--ckpt", "no-such-run", *option]) == 2
    assert message in capsys.readouterr().err


def test_the_speed_of_a_tar_of_one_batch_is_printed(tmp_path, capsys):
    assert main(["sample", "--ckpt", RUN, "--n", "1", "--steps", "1", "--out", str(tmp_path / "s.tar")]) == 0
    assert "1 of 1 images, " in capsys.readouterr().err


def test_a_folder_may_have_the_name_of_a_file_if_it_exists(tmp_path):
    (tmp_path / "x.png").mkdir()
    assert main(["sample", "--ckpt", RUN, "--n", "1", "--steps", "1", "--out", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png" / "00000000.png").is_file()


@pytest.mark.parametrize(
    ("out", "message"),
    [("s", "missing 3 images; rerun the same command to continue"), ("s.tar", "not generated: 3 images")],
)
def test_after_too_short_a_time_budget_the_missing_images_are_counted(tmp_path, monkeypatch, capsys, out, message):
    monkeypatch.setattr(module.time, "monotonic", itertools.count(step=10).__next__)
    command = ["sample", "--ckpt", RUN, "--n", "5", "--batch-size", "2", "--steps", "1", "--device", "cpu"]
    assert main([*command, "--budget", "1s", "--out", str(tmp_path / out)]) == 0
    assert f"time limit reached: {message}" in capsys.readouterr().err


def test_options_without_effect_and_another_size_are_reported(tmp_path, capsys):
    command = ["sample", "--ckpt", RUN, "-n", "1", "--steps", "1", "--device", "cpu"]
    assert main([*command, "--guidance-interval", "0.2:5", "--guide", RUN, "--out", str(tmp_path / "a")]) == 0
    assert "--guide has no effect: it has the same weights as the model" in capsys.readouterr().err
    assert main([*command, "--guidance", "1", "--guidance-interval", "0.2:5", "--out", str(tmp_path / "b")]) == 0
    captured = capsys.readouterr().err
    assert "the guidance interval has no effect: the guidance scale is 1" in captured and "trained at" not in captured
    assert main([*command, "--size", "64x96", "--out", str(tmp_path / "c")]) == 0
    assert "generating at 64x96; the model was trained at 64x64" in capsys.readouterr().err


def test_ddim_is_refused_with_the_name_of_the_equivalent_sampler(capsys):
    assert main(["sample", "--ckpt", RUN, "--sampler", "ddim"]) == 2
    assert "--sampler ddim: DDIM is euler here; use --sampler euler" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["sample", "--ckpt", RUN, "--out"], ["export", RUN, "--out"]])
def test_a_seed_of_more_than_64_bits_is_one_line_and_leaves_nothing(tmp_path, capsys, command):
    assert main([*command, str(tmp_path / "s"), "--seed", str(2**64), "--count", "1", "--device", "cpu"]) == 2
    assert f"error: seed {2**64}: expected a whole number from 0 to {2**64 - 1}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
