"""`hdit sweep` from the command line: arguments, output, and a progress bar per candidate."""

import json
import re
from pathlib import Path

import pytest

from hdit_cli.main import main
from hdit_core.evaluate.sweep import run as sweep_module
from hdit_core.evaluate.sweep.journal import Trial
from hdit_core.evaluate.sweep.run import SweepResult
from hdit_core.evaluate.sweep.search_space import Point

POINTS = Point("ema", 1.0), Point("ema", 2.0)


@pytest.fixture
def asked(monkeypatch):
    """Replace the sweep by one with two candidates, and return the list of its arguments."""
    found = []

    def stand_in(settings, on_images, world):
        found.append(settings)
        for place, point in enumerate(POINTS, 1):
            for done in (4, 8):
                on_images(f"{place}/2 {point}", done, 8)
        score = {"name": "fid20", "estimates": {"fid20": {"value": 3.25}}}
        trials = tuple(Trial(point, 8, 4.0 + place, 0.5) for place, point in enumerate(POINTS))
        defaults = Path("run/sample.toml") if settings.apply else None
        return SweepResult(POINTS[0], score, trials, POINTS[1:], defaults, Path("run/sweep/curve.png"))

    monkeypatch.setattr(sweep_module, "sweep", stand_in)
    return found


def test_every_grid_point_has_its_own_line_with_its_images_per_second(asked, capsys):
    assert main(["sweep", "run", "--ref", "faces.npz", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    for guidance in (1, 2):
        line = rf"^hdit: {guidance}/2 weights ema, guidance {guidance}: 8 of 8 images, [0-9.e+,]+ images/s, 0:00 left$"
        assert len(re.findall(line, err, re.MULTILINE)) == 1
    assert out.startswith("best: weights ema, guidance 1\nfid20 3.2500\n") and "plot: run/sweep/curve.png" in out
    assert "the winner is not significantly better than 1 other: weights ema, guidance 2" in err
    assert "the run's defaults are unchanged; rerun with --apply" in err


def test_the_typed_values_are_swept(asked, capsys):
    grid = ["--ema", "0.05,0.1", "--guidance", "1:3:0.25", "--interval", "all,0.2:5", "--n", "64", "--confirm", "99"]
    how = ["--extractor", "efficientnet-lite0", "--labels", "uniform", "--seed", "3", "--batch-size", "7"]
    assert main(["sweep", "run", "--ref", "faces.npz", *grid, *how, "--device", "cpu", "--out", "there", "--json"]) == 0
    (found,) = asked
    assert (found.run, found.folder, found.n, found.confirm) == (Path("run"), Path("there"), 64, 99)
    assert (found.ema, found.guidance, found.interval) == ("0.05,0.1", "1:3:0.25", "all,0.2:5")
    scoring = found.scoring
    assert (scoring.reference, scoring.extractor, scoring.labels) == ("faces.npz", "efficientnet-lite0", "uniform")
    assert (scoring.seed, scoring.batch_size, scoring.device, scoring.allow_small_n) == (3, 7, "cpu", False)
    assert json.loads(capsys.readouterr().out)["winner"] == {"weights": "ema", "guidance": 1.0}


def test_a_guide_is_tried_at_a_list_of_scales(asked):
    guide = ["--guide", "runs/smaller", "--guide-weights", "0.05", "--autoguidance", "1:3:0.5"]
    assert main(["sweep", "run", "--ref", "faces.npz", *guide, "--device", "cpu"]) == 0
    assert (asked[0].scoring.guide, asked[0].scoring.guide_weights) == ("runs/smaller", "0.05")
    assert asked[0].autoguidance == "1:3:0.5"


def test_apply_is_reported_with_the_command_that_undoes_it_and_a_small_sample_size(asked, capsys):
    assert main(["sweep", "run", "--ref", "faces.npz", "--device", "cpu", "--apply", "--allow-small-n"]) == 0
    err = capsys.readouterr().err
    assert "run/sample.toml; --unapply undoes this" in err
    assert "the winner was found with --allow-small-n" in err


def test_unapply_needs_no_reference_and_runs_no_sweep(asked, capsys, tmp_path):
    (tmp_path / "sample.toml").write_text("# hdit sweep at step 1\n")
    assert main(["sweep", str(tmp_path), "--unapply"]) == 0
    assert "the recipe's sampling settings are the defaults again" in capsys.readouterr().out
    assert main(["sweep", str(tmp_path), "--unapply"]) == 2
    assert "no defaults of a sweep to undo" in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize("command", [["eval-fid", "stats"], ["sweep"]])
def test_no_help_mentions_an_option_that_the_command_lacks(command, capsys):
    assert main([*command, "--help"]) == 0
    assert "--ckpt" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guide-weights", "model"], "--guide-weights model: needs a weaker model; give one with --guide CKPT"),
        (["--apply", "--unapply"], "--apply and --unapply: give one of them"),
    ],
)
def test_options_without_an_effect_are_refused(asked, capsys, options, message):
    assert main(["sweep", "run", *options]) == 2
    assert message in capsys.readouterr().err and asked == []
