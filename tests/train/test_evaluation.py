"""Evaluation during training: scores, no effect on the weights, the best checkpoint, and kills."""

import json
import os
import signal

import pytest
import torch

from hdit_core.checkpoint import load_denoiser
from hdit_core.checkpoint.layout import checkpoint_folder, checkpoint_folders
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.retention import best_checkpoint, mark_best
from hdit_core.errors import DataError, StoppedEarly, UsageError
from hdit_core.evaluate import feature_batch as pieces
from hdit_core.evaluate import score as score_module
from hdit_core.evaluate.extractors.extractor import Extractor
from hdit_core.evaluate.score import score
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.progress_bar import ProgressBar
from hdit_core.recipe.evaluate import EvaluateRecipe
from hdit_core.train import evaluation as scoring
from hdit_core.train.evaluation import is_due
from hdit_core.train.monitor.callbacks import showing
from hdit_core.train.run import train

EVAL = {"train.eval_every_images": 16, "train.eval_num_images": 12, "train.num_images": 40, "sample.steps": 2}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """Pieces of 4 images, and an extractor of five random projections."""
    weights = torch.randn(5, 3 * 8 * 8, generator=torch.Generator().manual_seed(1)) / 100
    device = torch.device("cpu")
    toy = Extractor("toy", "fd-toy", "kd-toy", 5, 8, 4, "0" * 64, lambda levels: levels.flatten(1) @ weights.T, device)
    monkeypatch.setattr(pieces, "IMAGES_PER_CHUNK", 4)
    for module in (score_module, scoring):
        monkeypatch.setattr(module, "open_extractor", lambda *_: toy)


def lines(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


def test_a_run_whose_extractor_is_unavailable_reports_it_with_the_keys_of_its_recipe(trained, tmp_path, monkeypatch):
    def fail(*_):
        raise DataError("weights.pt: cannot be downloaded; name it with --extractor-weights PATH")

    monkeypatch.setattr(scoring, "open_extractor", fail)
    with pytest.raises(
        DataError,
        match=r"^train.eval_every_images needs evaluate.extractor = 'inception': weights.pt: .* \(use --set "
        r"evaluate.extractor=NAME, or --set train.eval_every_images=0 to train without evaluation\)$",
    ):
        train(trained(EVAL), tmp_path)


def against(recipe, path):
    return recipe.model_copy(update={"evaluate": EvaluateRecipe(reference=str(path))})


def test_a_score_equals_that_of_eval_fid_on_the_checkpoint_and_changes_no_weight(trained, tiny_data, tmp_path, notes):
    plain, scored = tmp_path / "plain", tmp_path / "scored"
    train(trained(EVAL | {"train.eval_every_images": 0}), plain)
    train(trained(EVAL), scored)
    ours, theirs = (newest_checkpoint(run)[0].tensors("ema") for run in (scored, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    found = lines(scored)
    assert [line["num_images"] for line in found] == [16, 32, 40]
    for line in found[1:]:
        checkpoint = str(checkpoint_folder(scored, line["step"]))
        result = score(ScoreSettings(None, str(tiny_data), checkpoint=checkpoint, n=12, device="cpu"))
        assert line["fd-toy-12"] == pytest.approx(result.frechet.value, rel=1e-12)
        assert line["kd-toy"] == result.kernel.value
    assert sum("score after" in line for line in notes) == 3
    assert not (plain / "scores.jsonl").exists()


def test_the_progress_bar_shows_an_evaluation(trained, tmp_path):
    bar, seen = ProgressBar("train", "images", None), []
    bar.show = lambda: seen.append((bar.done, bar.remark))
    train(trained(EVAL), tmp_path, callbacks=showing(bar))
    assert seen[:5] == [(0, f"reference image {done} of 20") for done in (4, 8, 12, 16, 20)]
    samples = [f"evaluation sample {done} of 12" for done in (4, 8, 12)]
    for num_images in (16, 32, 40):
        assert [remark for done, remark in seen if done == num_images][1:] == samples


def test_the_best_checkpoint_is_marked_never_pruned_and_can_be_sampled_from(trained, tmp_path, monkeypatch):
    values = iter([5.0, 1.0, 4.0, 3.0, 2.0, 6.0])
    monkeypatch.setattr(scoring.PeriodicEvaluation, "_values", lambda self, statistics: {"fd-toy-12": next(values)})
    change = {"train.num_images": 96, "train.keep_checkpoints": 2, "train.checkpoint_every_images": 16}
    train(trained(EVAL | change), tmp_path)
    steps = [folder.name for folder in checkpoint_folders(tmp_path)]
    assert steps == ["step-000000012", "step-000000010", "step-000000004"]
    assert best_checkpoint(tmp_path) == checkpoint_folder(tmp_path, 4)
    record = json.loads((tmp_path / "best.json").read_text())
    assert record["checkpoint"] == "checkpoints/step-000000004" and record["fd-toy-12"] == 1.0
    assert record["metric"] == "fd-toy-12" and record["num_images"] == 32
    load_denoiser(tmp_path / "best")
    (tmp_path / "moved").mkdir()
    for name in ("best", "checkpoints"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    load_denoiser(tmp_path / "moved" / "best")


def test_the_kernel_distance_may_choose_the_best(trained, tmp_path, monkeypatch):
    values = iter([(1.0, 0.5), (2.0, 0.1), (3.0, 0.3)])
    monkeypatch.setattr(
        scoring.PeriodicEvaluation,
        "_values",
        lambda self, statistics: dict(zip(("fd-toy-12", "kd-toy"), next(values), strict=True)),
    )
    train(trained(EVAL | {"train.eval_metric": "kernel"}), tmp_path)
    assert json.loads((tmp_path / "best.json").read_text())["num_images"] == 32


def test_a_run_stopped_during_scoring_stops_soon_and_scores_after_resuming(trained, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    recipe = trained(EVAL)
    train(recipe, whole)
    opened = []
    original = scoring.generated_images

    def drawing(*arguments, **options):
        images = original(*arguments, **options)

        def read(places):
            opened.append(places)
            if len(opened) == 2:  # in the midst of the first score
                os.kill(os.getpid(), signal.SIGTERM)
            yield from images.open(places)

        return scoring.replace(images, open=read)

    monkeypatch.setattr(scoring, "generated_images", drawing)
    with pytest.raises(StoppedEarly):
        train(recipe, stopped)
    assert len(opened) == 2 and not (stopped / "scores.jsonl").exists()
    train(recipe, stopped)
    assert lines(stopped) == lines(whole)


def test_scores_repeated_after_resuming_are_recomputed(trained, tmp_path):
    recipe = trained(EVAL)
    train(recipe, tmp_path)
    before = lines(tmp_path)
    folder = checkpoint_folder(tmp_path, 5)
    (folder / "model.safetensors").write_bytes(b"damaged")
    train(recipe, tmp_path)
    assert lines(tmp_path) == before


def test_a_reference_may_be_saved_statistics(trained, tiny_data, tmp_path):
    score(ScoreSettings(str(tiny_data), None, device="cpu", save_stats=tmp_path / "ref.npz"))
    train(against(trained(EVAL), tmp_path / "ref.npz"), tmp_path / "a")
    train(trained(EVAL), tmp_path / "b")
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    assert (tmp_path / "b" / "reference-toy.npz").exists() and not (tmp_path / "a" / "reference-toy.npz").exists()


def test_a_missing_reference_is_reported_before_the_first_step(trained, tmp_path):
    with pytest.raises(UsageError, match="no such"):
        train(against(trained(EVAL), tmp_path / "none.npz"), tmp_path / "run")
    assert not (tmp_path / "run" / "scores.jsonl").exists()


@pytest.mark.parametrize("num_images, due", [(0, False), (8, False), (16, True), (24, False), (40, True), (32, True)])
def test_scores_are_due_when_a_multiple_is_crossed_and_at_the_end(changed, num_images, due):
    assert is_due(changed(EVAL).train, num_images) is due
    assert not is_due(changed({"train.num_images": 40}).train, num_images)


def test_without_a_mark_there_is_no_best_checkpoint(tmp_path):
    assert best_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints" / "step-000000001").mkdir(parents=True)
    mark_best(tmp_path, checkpoint_folder(tmp_path, 1), {"metric": "x"})
    assert best_checkpoint(tmp_path) == checkpoint_folder(tmp_path, 1)
    checkpoint_folder(tmp_path, 1).rmdir()
    assert best_checkpoint(tmp_path) is None
