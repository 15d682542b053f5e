"""`hdit runs`, `hdit train --dry-run` and `--repro` from the shell."""

import io
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from hdit_cli.main import main
from hdit_core.checkpoint.layout import checkpoint_folder
from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.write import recipe_toml
from hdit_core.runs import summary as runs_looked_at
from hdit_core.runs.curves import Curve, curves_plot, log_curves, score_curves, side_by_side
from tests.conftest import TINY


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_data):
    """Two finished runs, `a` and `b`, and their recipe."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = folder / "tiny.toml"
    recipe.write_text(recipe_toml(check_recipe(TINY | {"data": TINY["data"] | {"path": str(tiny_data)}}, "tiny")))
    command = ["train", str(recipe), "--set", "train.num_images=64", "--out"]
    assert main([*command, str(folder / "a")]) == 0
    assert main([*command, str(folder / "b"), "--set", "train.lr=0.01", "--set", "train.log_every_images=24"]) == 0
    return folder


def test_a_summary_has_the_status_of_the_run_and_of_its_checkpoints(runs, tmp_path, capsys):
    shutil.copytree(runs / "a", tmp_path / "a")
    (tmp_path / "a" / "incidents").mkdir()
    incident = {"kind": "spike", "step": 5, "loss": 3.5, "grad_norm": 70.0}
    (tmp_path / "a" / "incidents" / "step-000000005.json").write_text(json.dumps(incident))
    weights = checkpoint_folder(tmp_path / "a", 4) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert main(["runs", "show", str(tmp_path / "a"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["step"], said["num_images"], said["total_images"]) == ("done", 8, 64, 64)
    assert [(saved["step"], saved["problem"] is None) for saved in said["checkpoints"]] == [(8, True), (4, False)]
    assert said["incidents"] == [incident | {"file": "incidents/step-000000005.json"}]
    assert said["last"]["loss"] > 0 and said["seconds_left"] == 0
    assert main(["runs", "show", str(tmp_path / "a"), "--plot", str(tmp_path / "a.png")]) == 0
    text = capsys.readouterr().out
    assert "64 of 64 images (100.0%), step 8\n" in text and "step 4, " in text and "corrupt: " in text
    assert "spike, loss 3.5" in text and "noise level" in text
    assert Image.open(tmp_path / "a.png").width > 800


def test_a_summary_skips_damaged_files(runs, tmp_path, capsys):
    run = shutil.copytree(runs / "a", tmp_path / "a")
    (run / "incidents" / "step-000000003.json").mkdir(parents=True)
    for name in ("incidents/step-000000005.json", "status.json", "scores.jsonl"):
        (run / name).write_bytes(b"\xff\xfe")
    with (run / "log.jsonl").open("ab") as log:
        log.write(b'\xff\n{"step": 9, "num_images": 72}\n')
    assert main(["runs", "show", str(run)]) == 0
    text = capsys.readouterr().out
    assert "unknown" in text and "72 of 64 images" in text and "incident" not in text and "scores" not in text


def test_a_checkpoint_that_a_running_run_removes_is_not_shown_as_damaged(runs, tmp_path, capsys, monkeypatch):
    run = shutil.copytree(runs / "a", tmp_path / "a")
    read = runs_looked_at.open_checkpoint

    def remove_and_read(folder):
        if folder == checkpoint_folder(run, 4):
            shutil.rmtree(folder)
        return read(folder)

    monkeypatch.setattr(runs_looked_at, "open_checkpoint", remove_and_read)
    assert main(["runs", "show", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [(saved["step"], saved["problem"]) for saved in found] == [(8, None)]


def test_two_runs_are_compared_by_their_recipes_and_losses(runs, tmp_path, capsys):
    command = ["runs", "compare", str(runs / "a"), str(runs / "b")]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {row["key"]: (row["first"], row["second"]) for row in said["recipe"]} == {
        "train.lr": (0.0005, 0.01),
        "train.log_every_images": (16, 24),
    }
    first, *_, last = said["loss"]
    assert (first["num_images"], last["num_images"]) == (16, 64) and len(said["loss"]) == 12
    assert first[str(runs / "a")] > 0 and first[str(runs / "b")] is None  # its first line is at 24
    assert main([*command, "--plot", str(tmp_path / "both.png")]) == 0
    assert "train.lr" in capsys.readouterr().out and Image.open(tmp_path / "both.png").format == "PNG"
    assert main(["runs", "compare", str(runs / "a"), str(runs / "a")]) == 0
    assert "the recipes are equal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs", "show", "."], "is not a run of hdit: there is no recipe.toml in it"),
        (["runs", "show", "RUN", "--plot", "x.jpg"], "--plot x.jpg: expected a name that ends in .png"),
        (["runs", "show", "RUN", "--plot", "no/x.png"], "--plot no/x.png: there is no folder no"),
        (["runs", "compare", "RUN", "."], "is not a run of hdit"),
        (["runs", "show", "nope"], "nope: no such directory"),
        (["runs", "list", "nope"], "nope: no such directory"),
        (["train", "RECIPE", "--dry-run", "--repro", "1"], "--dry-run and --repro exclude each other"),
        (["train", "RECIPE", "--dry-run", "--watch", "wandb"], "--tracker is for training"),
        (["train", "RECIPE", "--save-images", "x.png"], "name the step with --repro STEP"),
        (["train", "RECIPE", "--repro", "1", "--save-images", "x.gif"], "expected a name that ends in .png"),
        (["train", "RECIPE", "--repro", "1", "--save-images", "nowhere/x.png"], "there is no folder nowhere"),
        (["train", "RECIPE", "--repro", "99", "--out", "RUN"], "the last step of the run is 11"),
        (["train", "RECIPE", "--out", "NEW", "--watch", "tensorbored"], "no such tracker"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_files(runs, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(runs / "a"), "RECIPE": str(runs / "tiny.toml"), "NEW": "new"}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    complaints = [line for line in captured.err.splitlines() if "error" in line]
    assert len(complaints) == 1 and message in complaints[0] and not captured.out
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_logged_nothing_yet_has_a_summary_and_no_plot(runs, tmp_path, capsys):
    (tmp_path / "recipe.toml").write_text((runs / "a" / "recipe.toml").read_text())
    assert main(["runs", "show", str(tmp_path)]) == 0
    assert "unknown" in capsys.readouterr().out
    assert main(["runs", "show", str(tmp_path), "--plot", str(tmp_path / "x.png")]) == 2
    assert "logged no loss yet" in capsys.readouterr().err


def test_a_dry_run_reports_the_cost_of_a_run_and_creates_no_folder(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(runs / "tiny.toml"), "--dry-run", "--out", "new", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["images_left"] == 96 and said["days"] == pytest.approx(96 / said["images_per_s"] / 86_400)
    assert main(["train", str(runs / "tiny.toml"), "--dry-run"]) == 0
    assert "96 images, " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_step_is_replayed_from_the_shell(runs, tmp_path, capsys):
    command = ["train", str(runs / "tiny.toml"), "--out", str(runs / "a"), "--repro", "5"]
    assert main([*command, "--save-images", str(tmp_path / "five.png")]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["number", "index", "sigma", "loss", "grad", "norm", "finite"] and len(lines) == 10
    assert lines[1].split()[0] == "40" and lines[-1].startswith("step 5: finite, loss 0.")
    assert "2 of 2 steps" in captured.err and (tmp_path / "five.png").exists()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"][7]["number"] == 47


def test_a_single_curve_has_no_legend_and_many_have_colors_of_their_own(monkeypatch):
    figure = Figure()
    monkeypatch.setattr("hdit_core.runs.curves.render", lambda draw, *_, **__: draw(figure) or b"")
    levels = [Curve("a", f"sigma {level}", (10, 200_000), (level + 1.0, 1.0)) for level in range(10)]
    curves_plot([[Curve("a", "grad_norm", (10, 200_000), (4.0, 2.0))], levels])
    alone, many = figure.axes
    assert alone.get_legend() is None and alone.get_ylabel() == "gradient norm"
    assert [text.get_text() for text in many.get_legend().get_texts()] == [level.name for level in levels]
    assert len({tuple(line.get_color()) for line in many.lines}) == 10
    assert many.xaxis.get_major_formatter()(200_000) == "200k"


def test_names_are_drawn_letter_by_letter(monkeypatch):
    figure = Figure()
    monkeypatch.setattr("hdit_core.runs.curves.render", lambda draw, *_, **__: draw(figure) or b"")
    names = ["runs/a$\\frac$", "runs/_b\udcff"]
    panel = [Curve(name, "fid$_$", (10, 20), (4.0, 2.0)) for name in names]
    curves_plot([panel], " and ".join(names))
    figure.savefig(io.BytesIO(), format="png")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["a\\$\\frac\\$: fid\\$_\\$", " _b?: fid\\$_\\$"]


def test_curves_are_interpolated_between_their_points_and_not_extrapolated():
    curves = [Curve("a", "loss", (10, 30), (4.0, 2.0)), Curve("b", "loss", (20,), (1.0,)), Curve("c", "loss", (), ())]
    assert (curves[0].at(20), curves[0].at(9), curves[0].at(31), curves[2].at(1)) == (3.0, None, None, None)
    rows = side_by_side(curves)
    assert rows[0] == {"num_images": 10, "a": 4.0, "b": None, "c": None} and rows[-1]["num_images"] == 30
    assert side_by_side(curves[2:]) == []


def test_losses_and_scores_are_plotted_in_two_columns(tmp_path):
    lines = [{"step": n, "num_images": 10 * n, "fid": 50.0 / n} for n in (1, 2, 3)]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"num_im')
    [curve] = score_curves(tmp_path)
    assert (curve.name, curve.num_images, curve.values) == ("fid", (10, 20, 30), (50.0, 25.0, 50.0 / 3))
    loss, empty = Curve("a", "loss", (10, 30), (4.0, 2.0)), Curve("a", "lr", (), ())
    sizes = []
    for panels in ([[loss]], [[loss], [curve], [empty]], [[loss], [curve], [loss]]):
        with Image.open(io.BytesIO(curves_plot(panels))) as plot:
            sizes.append(plot.size)
    (width, height), *others = sizes
    assert others == [(2 * width, height), (2 * width, 2 * height)]


def test_runs_of_a_folder_are_listed_with_state_progress_and_loss(runs, capsys):
    assert main(["runs", "list", str(runs), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [Path(row["run"]).name for row in listed] == ["a", "b"]
    facts = [[row[key] for key in ("state", "step", "images", "total_images")] for row in listed]
    assert facts == [["done", 8, 64, 64]] * 2
    assert all(row["loss"] > 0 for row in listed)
    written = (runs / "a" / "status.json").stat().st_mtime
    assert datetime.fromisoformat(listed[0]["updated"]).timestamp() == int(written)
    assert main(["runs", "list", str(runs)]) == 0
    assert "done" in capsys.readouterr().out


def test_a_plot_shows_loss_by_noise_level_gradient_learning_rate_and_speed(runs):
    panels = log_curves(runs / "a")
    assert all("e+" not in curve.name for curve in panels[1])
    assert [panel[0].name for panel in panels if len(panel) == 1] == ["loss", "grad_norm", "lr", "images_per_s"]
    assert all(panel[0].num_images for panel in panels)
    assert all(curve.name.startswith("sigma ") for curve in panels[1]) and len(panels[1]) > 1


def test_the_help_of_runs_loads_neither_torch_nor_numpy():
    code = "import sys; from hdit_cli.main import main; main(['runs', 'show', '--help']); print(sorted(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    modules = said.stdout.splitlines()[-1]
    assert "'torch'" not in modules and "'numpy'" not in modules
