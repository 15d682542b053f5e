"""A sweep finds the best candidate."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from hdit_core.checkpoint.denoiser import load_denoiser
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.errors import CheckpointError, HditError, RecipeError, UsageError
from hdit_core.evaluate.score import score
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.evaluate.sweep import run as sweep_module
from hdit_core.evaluate.sweep.defaults import apply_winner, unapply_winner
from hdit_core.evaluate.sweep.journal import Trial
from hdit_core.evaluate.sweep.run import sweep, ties
from hdit_core.evaluate.sweep.search_space import Point, SweepSettings
from hdit_core.generate.provenance import weights_sha256
from hdit_core.recipe.read import check_recipe
from tests.evaluate.sweep.wanted import wanted

pytestmark = pytest.mark.usefixtures("small")


def test_the_best_of_the_grid_wins_and_every_trial_equals_its_separate_score(run, reference):
    before = (run / "recipe.toml").read_bytes()
    result = sweep(wanted(run, reference, ema="ema,model", n=32, confirm=40))
    by_size = {n: [trial for trial in result.trials if trial.n == n] for n in (8, 16, 32)}
    assert [len(trials) for trials in by_size.values()] == [10, 5, 3]
    for few, more in ((8, 16), (16, 32)):
        kept = {trial.point for trial in by_size[more]}
        dropped = [trial.value for trial in by_size[few] if trial.point not in kept]
        assert max(trial.value for trial in by_size[few] if trial.point in kept) <= min(dropped)
    assert result.winner == min(by_size[32], key=lambda trial: trial.value).point

    folder = newest_checkpoint(run)[0].folder
    for trial in (by_size[8][3], by_size[32][0]):
        how = {"checkpoint": str(folder), "checkpoint_weights": trial.point.weights, "sampling": trial.point.sample}
        alone = score(ScoreSettings(None, str(reference), n=trial.n, device="cpu", labels="uniform", seed=3, **how))
        assert alone.frechet.value == trial.value and alone.spread.estimate.standard_error == trial.standard_error
    assert (run / "recipe.toml").read_bytes() == before
    assert result.rows()[0]["images"] == 32 and json.loads(json.dumps(result.to_json()))["score"]["n"] == 40


def test_trials_of_autoguidance_scales_equal_their_separate_scores(run, made, reference):
    guide = {"guide": str(made / "guide"), "guide_weights": "model"}
    scoring = ScoreSettings(None, str(reference), device="cpu", labels="uniform", seed=3, **guide)
    result = sweep(SweepSettings(run, scoring, interval="all,0.5:20", autoguidance="1:3:1", n=16, confirm=16))
    points = {trial.point for trial in result.trials}
    assert {(point.autoguidance, point.interval) for point in points} == {
        (1.0, None), (2.0, None), (2.0, (0.5, 20.0)), (3.0, None), (3.0, (0.5, 20.0)),
    }  # fmt: skip
    folder = newest_checkpoint(run)[0].folder
    values = set()
    for trial in [trial for trial in result.trials if trial.n == 8 and trial.point.interval is None]:
        how = {"checkpoint": str(folder), "checkpoint_weights": "ema", "sampling": trial.point.sample, **guide}
        how |= {"n": 8, "device": "cpu", "labels": "uniform", "seed": 3, "autoguidance": trial.point.autoguidance}
        assert score(ScoreSettings(None, str(reference), **how)).frechet.value == trial.value
        values.add(trial.value)
    assert len(values) == 3
    assert result.score["passport"]["images"]["guide"]["weight"] == result.winner.autoguidance


def test_the_guide_of_the_winner_is_that_of_the_candidates(run, made, reference):
    """Without --guide-weights it has its EMA weights, whatever those of the winner are."""
    scoring = ScoreSettings(None, str(reference), device="cpu", labels="uniform", seed=3, guide=str(made / "guide"))
    result = sweep(SweepSettings(run, scoring, ema="model", autoguidance="2", n=16, confirm=16))
    assert result.score["value"] == result.trials[-1].value, "the same images"
    guide = weights_sha256(load_denoiser(made / "guide", "ema"))
    assert result.score["passport"]["images"]["guide"]["weights_sha256"] == guide


def test_the_guide_of_a_score_has_the_weights_of_the_model_as_in_hdit_sample(run, made, reference):
    (run / "sample.toml").write_text('weights = "model"\n')
    guide = made / "guide"
    settings = ScoreSettings(None, str(reference), checkpoint=str(run), guide=str(guide), n=16, device="cpu")
    found = score(settings).to_json()["passport"]["images"]["guide"]["weights_sha256"]
    assert found == weights_sha256(load_denoiser(guide, "model"))


def test_a_class_distribution_that_the_reference_lacks_is_refused_before_it_is_measured(run, made, tmp_path):
    scoring = ScoreSettings(None, str(made / "pictures"), device="cpu", labels="data", allow_small_n=True)
    with pytest.raises(UsageError, match="--labels data: the reference has no class counts; pass a prepared data set"):
        sweep(SweepSettings(run, scoring, n=16, confirm=16, out=tmp_path / "sweep"))
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"autoguidance": "1:3:1"}, "--guide CKPT and --autoguidance LIST: give both, or neither"),
        ({"guide": "run"}, "--guide CKPT and --autoguidance LIST: give both, or neither"),
        ({"guide": "run", "autoguidance": "2", "apply": True}, r"--apply: RUN/sample\.toml cannot hold a guide"),
    ],
)
def test_a_guide_needs_scales_and_cannot_become_a_default(run, reference, change, message):
    scoring = ScoreSettings(None, str(reference), guide=change.pop("guide", None))
    with pytest.raises(UsageError, match=message):
        SweepSettings(run, scoring, **change)


def test_an_applied_winner_becomes_the_default_of_the_run_and_can_be_undone(run, reference, caplog):
    caplog.set_level("INFO", "hdit")
    result = sweep(wanted(run, reference, guidance="2,3", apply=True))
    settings = ScoreSettings(None, str(reference), checkpoint=str(run), n=24, device="cpu", labels="uniform", seed=3)
    assert score(settings).frechet.value == result.score["value"]
    assert f"weights={result.winner.weights}, guidance={result.winner.guidance:.1f}" in caplog.messages[-1]
    assert unapply_winner(run) is None and not (run / "sample.toml").exists()
    with pytest.raises(UsageError, match=r"sample\.toml: no defaults of a sweep to undo"):
        unapply_winner(run)


def test_undoing_an_applied_winner_restores_the_earlier_defaults(run):
    (run / "sample.toml").write_text('weights = "model"\n')
    for guidance in (2.0, 3.0):
        apply_winner(run, Point("ema", guidance), "hdit sweep at step 1: fid 3")
    assert "guidance = 3.0" in (run / "sample.toml").read_text()
    assert unapply_winner(run) == run / "sample.toml"
    assert (run / "sample.toml").read_text() == 'weights = "model"\n'


def test_without_apply_the_defaults_of_the_run_are_unchanged(run, reference):
    result = sweep(wanted(run, reference, guidance="2,3"))
    assert result.defaults is None and not (run / "sample.toml").exists()
    assert Image.open(result.curve).size[0] > 1000
    page = (run / "sweep" / "report.html").read_text()
    assert page.count("<svg") >= 1 and "Distances of the sweep" in page
    assert not (run / "sweep" / "features").exists()


def test_a_sweep_requests_reproducible_mkl_products_before_its_first_one(run, reference, toy_extractor, monkeypatch):
    """MKL listens at its first product only, and a resumed sweep, whose reference is measured, begins with another."""
    asked = []
    monkeypatch.delenv("MKL_CBWR")
    monkeypatch.setattr(
        sweep_module, "open_extractor", lambda *_: asked.append(os.environ.get("MKL_CBWR")) or toy_extractor
    )
    sweep(wanted(run, reference, guidance="1", n=8))
    assert asked == ["AUTO,STRICT"]


def test_the_reference_and_every_candidate_report_progress_from_the_first_image_on(run, reference):
    heard: dict[str, list[tuple[int, int]]] = {}
    sweep(wanted(run, reference, interval=None), lambda *event: heard.setdefault(event[0], []).append(event[1:]))
    candidates = [f"{place}/3 weights ema, guidance {place}" for place in (1, 2, 3)]
    assert list(heard)[:4] == ["reference", *candidates] and heard["reference"][-1] == (24, 24)
    for candidate in candidates:
        assert heard[candidate][0] == (0, 8) and (8, 8) in heard[candidate]
    assert next(task for task in heard if task.startswith("winner weights ema, guidance "))


def test_candidates_whose_interval_contains_the_winner_are_ties():
    points = [Point("ema", guidance) for guidance in (1.0, 2.0, 3.0, 4.0)]
    rows = [(3.0, 0.1), (3.22, 0.1), (3.23, 0.1), (9.0, None)]
    last = tuple(Trial(point, 16, *row) for point, row in zip(points, rows, strict=True))
    assert ties(points[0], (Trial(points[2], 8, 1.0, 0.1), *last)) == (points[1], points[3])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"confirm": 9}, "--confirm 9: expected at least --count 16"),
        ({"guidance": "x"}, "--guidance x: expected comma-separated numbers"),
        ({"ema": "emma"}, "weights emma: expected ema, model, or an EMA length"),
        ({"n": 4}, "--count: 4 images, too few for the 5 features of toy"),
    ],
)
def test_impossible_grids_are_refused_before_an_image_is_sampled(run, reference, change, message):
    with pytest.raises(UsageError, match=message):
        sweep(wanted(run, reference, **change))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"guidance": "1,-2"}, "sample.guidance = -2.0: expected a number of at least 0"),
        ({"ema": "0.08,0.5"}, "0.5"),
    ],
)
def test_no_candidate_is_scored_if_another_one_is_impossible(run, reference, change, message, monkeypatch):
    started = []
    monkeypatch.setattr(sweep_module, "saved_reference", lambda *_: started.append("reference"))
    with pytest.raises(HditError, match=message):
        sweep(wanted(run, reference, **change))
    assert started == [] and not (run / "sweep").exists()
    assert not list((run / "averages").glob("post-hoc-*"))


def test_guidance_scales_for_a_network_without_classes_are_refused_at_once(run, reference, monkeypatch):
    text = (run / "recipe.toml").read_text()
    checkpoint = newest_checkpoint(run)[0]
    tables = checkpoint.recipe.model_dump(mode="json", exclude_none=True)
    tables["model"]["num_classes"] = 0
    unconditional = replace(checkpoint, recipe=check_recipe(tables, "unconditional"))
    monkeypatch.setattr(sweep_module, "newest_checkpoint", lambda *_: (unconditional, []))
    with pytest.raises(RecipeError, match=r"sample\.guidance = 2\.0 needs classes"):
        sweep(wanted(run, reference, guidance="1,2"))
    assert (run / "recipe.toml").read_text() == text and not (run / "sweep").exists()


def test_the_reference_is_the_data_of_the_run_by_default(run, reference, caplog):
    caplog.set_level("INFO", "hdit")
    settings = wanted(run, reference, guidance="1", interval=None, n=8, confirm=8)
    default = replace(settings, scoring=replace(settings.scoring, reference=None))
    result = sweep(default)
    assert f"comparing with the data of {run}: {reference}" in caplog.messages
    assert result.score["value"] == sweep(replace(settings, out=run / "other")).score["value"]


def test_a_length_without_snapshots_is_refused(run, reference):
    shutil.rmtree(run / "averages")
    with pytest.raises(CheckpointError, match="has no EMA snapshots"):
        sweep(wanted(run, reference, ema="ema,0.08"))


def test_missing_ema_weights_are_reconstructed_from_the_snapshots(run, reference, caplog):
    caplog.set_level("INFO", "hdit")
    result = sweep(wanted(run, reference, ema="0.05,0.08", guidance="1", interval=None))
    assert "reconstructing EMA weights of length 0.08" in caplog.text
    assert {trial.point for trial in result.trials} == {Point("0.05", 1.0), Point("0.08", 1.0)}
    assert Path(result.score["passport"]["images"]["path"]).exists()


def test_a_folder_that_is_not_a_run_is_refused(reference, tmp_path):
    with pytest.raises(CheckpointError, match="no run with a checkpoint"):
        sweep(wanted(tmp_path, reference))
