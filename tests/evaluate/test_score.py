"""From two sets to a score with its provenance."""

import io
import json
import shutil
import tarfile
import types
import warnings

import numpy as np
import pytest
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from PIL import Image

from hdit_core.checkpoint import load_denoiser
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate import score as score_module
from hdit_core.evaluate.metrics.confidence_intervals import Estimate
from hdit_core.evaluate.score import score
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.generate.generate import generate
from hdit_core.images import png_bytes, to_uint8
from hdit_core.recipe.write import recipe_toml


def by_clean_fid(folder, weights):
    """Clean-fid's features of a folder: its resize, its network."""
    resizer = build_resizer("clean")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        resized = np.stack([resizer(np.asarray(Image.open(path))) for path in sorted(folder.iterdir())])
    with torch.inference_mode():
        return (
            InceptionV3W(str(weights), download=False)(torch.from_numpy(resized).permute(0, 3, 1, 2)).double().numpy()
        )


def test_the_score_equals_clean_fids_end_to_end(picture_folder, inception_stand_in, tmp_path):
    """With a stand-in network and few images: the root's trace from eigenvalues of a product that is not symmetric."""
    a, b = picture_folder("a", 6, seed=1), picture_folder("b", 5, seed=2, size=(20, 14))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "inception-2015-12-05.pt").symlink_to(inception_stand_in)
    x, y = by_clean_fid(a, tmp_path / "weights"), by_clean_fid(b, tmp_path / "weights")
    centered_x, centered_y = (x - x.mean(0)) / len(x[1:]) ** 0.5, (y - y.mean(0)) / len(y[1:]) ** 0.5
    across = centered_x @ centered_y.T
    root = np.sqrt(np.linalg.eigvals(across @ across.T).real.clip(0)).sum()
    expected = (
        np.square(x.mean(0) - y.mean(0)).sum() + np.square(centered_x).sum() + np.square(centered_y).sum() - 2 * root
    )
    settings = ScoreSettings(str(a), str(b), weights=inception_stand_in, device="cpu", allow_small_n=True)
    assert score(settings).frechet.value == pytest.approx(expected, rel=1e-4)


def test_a_set_scored_against_itself_has_distance_zero_and_a_note(picture_folder, toy):
    folder = picture_folder("a")
    result = toy(folder, folder)
    assert result.frechet.value <= 1e-8 * float(result.images.statistics.covariance.trace())
    assert "both sets contain exactly the same images" in result.remarks


def test_the_score_does_not_depend_on_batches_or_names(picture_folder, toy, tmp_path):
    a, b = picture_folder("a", seed=1), picture_folder("b", seed=2)
    shutil.copytree(a, tmp_path / "renamed")
    for place, path in enumerate(sorted((tmp_path / "renamed").iterdir(), reverse=True)):
        path.rename(path.with_name(f"x{place}.png"))
    first, second = toy(a, b, batch_size=1), toy(tmp_path / "renamed", b, batch_size=7)
    assert second.frechet.value == pytest.approx(first.frechet.value, rel=1e-6)
    assert second.kernel.value == pytest.approx(first.kernel.value, rel=1e-5)


def test_saved_statistics_are_as_good_as_the_images(picture_folder, toy, tmp_path):
    a, b = picture_folder("a", seed=1), picture_folder("b", seed=2)
    saved = toy(b, None, save_stats=tmp_path / "ref.NPZ")
    assert saved.to_json()["saved"] == str(tmp_path / "ref.NPZ") and saved.to_json()["n"] == 12
    direct, through_file = toy(a, b), toy(a, tmp_path / "ref.NPZ")
    assert (through_file.frechet, through_file.kernel) == (direct.frechet, direct.kernel)
    assert through_file.reference.source["images"] == str(b)


def test_clean_fids_statistics_give_a_distance_without_a_kernel(picture_folder, toy, tmp_path):
    a, b = picture_folder("a", seed=1), picture_folder("b", seed=2)
    toy(b, None, save_stats=tmp_path / "ref.npz")
    with np.load(tmp_path / "ref.npz") as ours:
        np.savez(tmp_path / "theirs.npz", mu=ours["mu"], sigma=ours["sigma"])
    result = toy(a, tmp_path / "theirs.npz")
    assert result.frechet.value == pytest.approx(toy(a, b).frechet.value, rel=1e-12)
    assert result.kernel is None and result.to_json()["kd-toy"] is None and result.to_json()["n_reference"] is None
    assert any("no kernel distance" in remark for remark in result.remarks)


def test_the_result_has_the_provenance_of_the_score(picture_folder, toy):
    a, b = picture_folder("a", seed=1, count=30), picture_folder("b", seed=2, channels=1, size=(8, 9))
    result = toy(a, b, n=10, seed=4)
    found = json.loads(json.dumps(result.to_json()))
    assert (found["metric"], found["name"], found["n"], found["n_reference"]) == ("fd-toy", "fd-toy-10", 10, 12)
    assert found["kd-toy"]["seed"] == 4
    passport = found["passport"]
    assert passport["extractor"]["weights_sha256"] == "0" * 64
    assert passport["images"]["path"] == str(a) and passport["images"]["subset_seed"] == 4
    assert passport["reference"]["num_grey"] == 12 and len(passport["reference"]["fingerprint"]) == 64
    assert set(passport["versions"]) == {"hdit", "torch", "numpy", "pillow"}
    assert "image sizes are 10x12; those of the reference are 8x9" in found["remarks"]
    assert "all images of one set are grey, those of the other are not" in found["remarks"]


def test_a_checkpoint_scores_as_its_saved_samples_do(picture_folder, toy, checkpoint, tmp_path):
    (tmp_path / "samples").mkdir()
    for batch in generate(load_denoiser(checkpoint), range(8), seed=3):
        for index, image_u8 in zip(batch.indices, to_uint8(batch.images), strict=True):
            (tmp_path / "samples" / f"{index}.png").write_bytes(png_bytes(image_u8))
    reference = picture_folder("b", size=(16, 24))

    drawn, saved = (
        toy(None, reference, checkpoint=str(checkpoint), n=8, seed=3),
        toy(tmp_path / "samples", reference, seed=3),
    )
    assert drawn.images.statistics.fingerprint == saved.images.statistics.fingerprint
    assert drawn.frechet == saved.frechet
    source = drawn.images.source
    assert (source["kind"], source["seed"], source["labels"], source["size"]) == ("checkpoint", 3, "balanced", "16x24")
    assert source["sampling"]["steps"] == 4 and len(source["weights_sha256"]) == 64 and source["weights"] == "unknown"
    json.dumps(drawn.to_json())


def test_the_number_of_images_and_the_extractor_default_to_the_checkpoints_recipe(
    picture_folder, toy_extractor, checkpoint, monkeypatch
):
    asked = []
    monkeypatch.setattr(score_module, "open_extractor", lambda name, *_: asked.append(name) or toy_extractor)
    reference = str(picture_folder("b"))
    result = score(ScoreSettings(None, reference, checkpoint=str(checkpoint), device="cpu"))
    assert (asked, result.images.statistics.n) == (["efficientnet-lite0"], 7)
    score(ScoreSettings(reference, reference, device="cpu"))
    assert asked[1] == "inception"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"extractor": "efficientnet-lite0", "model": {"run": "gone"}}, "efficientnet-lite0"),
        ({"model": {"run": "RUN"}}, "efficientnet-lite0"),  # of an early version
        ({"model": {"run": "gone"}}, "inception"),
        ({}, "inception"),
    ],
)
def test_samples_of_a_run_are_scored_with_the_extractor_of_its_recipe(
    picture_folder, toy_extractor, trained, tmp_path, monkeypatch, caplog, record, expected
):
    caplog.set_level("INFO", "hdit")
    asked, folder, run = [], picture_folder("a"), tmp_path / "run"
    monkeypatch.setattr(score_module, "open_extractor", lambda name, *_: asked.append(name) or toy_extractor)
    run.mkdir()
    (run / "recipe.toml").write_text(recipe_toml(trained({"evaluate.extractor": "efficientnet-lite0"})))
    text = json.dumps({"status": "complete", "origin": {}, **record}).replace('"RUN"', json.dumps(str(run)))
    (folder / "samples.json").write_text(text)
    reference = str(picture_folder("b", seed=1))
    score(ScoreSettings(str(folder), reference, device="cpu"))
    score(ScoreSettings(str(folder), reference, device="cpu", extractor="dinov2"))
    assert asked == [expected, "dinov2"]
    noted = f"extractor {expected}, as in the recipe of the run of {folder}; --extractor selects another"
    assert (noted in caplog.text) == (expected != "inception")


def test_progress_counts_the_images_of_both_sides(picture_folder, toy_extractor, monkeypatch):
    monkeypatch.setattr(score_module, "open_extractor", lambda *_: toy_extractor)
    a, b = picture_folder("a", 6), picture_folder("b", 7, seed=1)
    told = []
    score(ScoreSettings(str(a), str(b), device="cpu"), lambda *count: told.append(count))
    assert told == [(4, 13), (6, 13), (10, 13), (13, 13)]


def test_a_checkpoint_without_a_reference_is_compared_with_its_data(toy, checkpoint, tiny_data, caplog, monkeypatch):
    caplog.set_level("INFO", "hdit")
    recipe = load_denoiser(checkpoint).recipe
    monkeypatch.chdir(tiny_data.parent)
    assert recipe.data.path == tiny_data.name or recipe.data.path == str(tiny_data)
    result = toy(None, None, checkpoint=str(checkpoint), n=8)
    assert result.reference.source["path"] == recipe.data.path and result.reference.statistics.n == 20
    assert f"comparing with the data of {checkpoint}: {recipe.data.path}" in caplog.text


def test_a_checkpoint_whose_data_set_is_missing_needs_a_reference(toy, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hdit_core.evaluate.inputs.Path.exists", lambda path: False)
    with pytest.raises(UsageError, match=r"--ref is missing, and the data of .* are not here; pass a data set"):
        toy(None, None, checkpoint=str(checkpoint), n=8)


def test_the_record_of_hdit_sample_is_part_of_the_provenance(picture_folder, toy):
    folder, reference = picture_folder("a"), picture_folder("b", seed=1)
    model = {"run": "runs/a", "step": 750, "weights": "0.080"}
    origin = {"weights_sha256": "5" * 64, "seed": 7, "settings": {"steps": 9}}
    (folder / "samples.json").write_text(json.dumps({"status": "complete", "model": model, "origin": origin}))
    result = toy(folder, reference)
    images = result.to_json()["passport"]["images"]
    assert images["samples"] == origin and images["model"] == model
    assert ("images", f"{folder} (12 images; model: run runs/a, step 750, weights 0.080)") in result.lines()
    (folder / "samples.json").write_text("[")
    with pytest.raises(DataError, match=r"samples.json: cannot be read .*; write the samples again, or remove it"):
        toy(folder, reference)


def test_labels_of_the_data_come_from_the_reference(toy, checkpoint, tiny_data, tmp_path):
    """Of a data set, and of the statistics that were kept of it."""
    drawn = toy(None, tiny_data, checkpoint=str(checkpoint), n=8, labels="data")
    assert drawn.images.source["labels"] == "data"
    assert sum(drawn.reference.source["class_counts"]) == 20
    toy(tiny_data, None, save_stats=tmp_path / "ref.npz")
    through_file = toy(None, tmp_path / "ref.npz", checkpoint=str(checkpoint), n=8, labels="data")
    assert through_file.images.statistics.fingerprint == drawn.images.statistics.fingerprint


def test_a_stream_on_stdin_is_the_set_of_its_images(picture_folder, toy, monkeypatch):
    folder, reference = picture_folder("a"), picture_folder("b", seed=1)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(folder, arcname="a")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    streamed, direct = toy("-", reference), toy(folder, reference)
    assert streamed.images.statistics.fingerprint == direct.images.statistics.fingerprint
    assert streamed.frechet.value == pytest.approx(direct.frechet.value, rel=1e-6)
    assert streamed.images.source["kind"] == "stream"


def test_samples_in_an_npz_are_read_as_images_and_statistics_of_adm_need_its_extractor(picture_folder, toy, tmp_path):
    a, b = picture_folder("a", seed=1), picture_folder("b", seed=2)
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(b.iterdir())])
    np.savez(tmp_path / "samples.npz", images)
    from_images = toy(a, tmp_path / "samples.npz")
    assert from_images.reference.statistics.fingerprint == toy(a, b).reference.statistics.fingerprint
    np.savez(tmp_path / "adm.npz", images, mu=np.zeros(5), sigma=np.eye(5), mu_s=np.zeros(5))
    with pytest.raises(DataError, match="inception"):
        toy(a, tmp_path / "adm.npz")


def test_the_nearest_neighbors_are_shown_and_copies_counted(picture_folder, toy, tmp_path):
    a, b = picture_folder("a", 30, seed=1), picture_folder("b", seed=2)
    shutil.copy(b / "003.png", a / "copy.png")
    result = toy(a, b, nearest=tmp_path / "nearest.png", report=tmp_path / "report.html")
    assert result.to_json()["nearest"]["copies"] == 1
    assert Image.open(tmp_path / "nearest.png").size[0] > 6 * 128
    assert toy(a, b).to_json()["nearest"] is None


def test_generated_samples_are_shown_next_to_their_nearest_neighbors(toy, checkpoint, tiny_data, tmp_path):
    toy(None, tiny_data, checkpoint=str(checkpoint), n=8, nearest=tmp_path / "nearest.png")
    assert (tmp_path / "nearest.png").exists()


def test_every_number_has_a_confidence_interval(picture_folder, toy):
    result = toy(picture_folder("a", 80, seed=1), picture_folder("b", 80, seed=2))
    names = ["fd-toy-80", "kd-toy", "precision", "recall", "density", "coverage", "authenticity"]
    assert list(result.estimates())[: len(names)] == names
    for found in result.to_json()["estimates"].values():
        assert found["low"] <= found["value"] <= found["high"] and found["standard_error"] >= 0
    assert result.spread.infinity < result.frechet.value
    assert any("95 %" in text for _, text in result.lines())


@pytest.mark.parametrize("mode, name", [("clean", "fd-inception-6"), ("adm", "fd-inception-adm-6")])
def test_the_result_names_its_mode(picture_folder, inception_stand_in, mode, name):
    a, b = picture_folder("a", 6, seed=1), picture_folder("b", 5, seed=2, size=(20, 14))
    Image.new("RGB", (31, 9)).save(b / "other.png")
    settings = ScoreSettings(str(a), str(b), weights=inception_stand_in, device="cpu", allow_small_n=True, mode=mode)
    result = score(settings)
    assert result.name == name and result.frechet.value > 0
    assert result.images.extractor["resize"].startswith({"clean": "clean-fid", "adm": "adm: bilinear"}[mode])


def test_an_added_metric_is_a_row_in_the_table(picture_folder, toy, monkeypatch):
    ratio = lambda images, reference: {"count_ratio": Estimate(images.n / reference.n)}  # noqa: E731
    monkeypatch.setattr(score_module, "METRICS", (*score_module.METRICS, ratio))
    result = toy(picture_folder("a", 9, seed=1), picture_folder("b", 6, seed=2))
    assert result.to_json()["estimates"]["count_ratio"]["value"] == 1.5
    assert ("count_ratio", "1.5000") in result.lines()


def test_the_inception_score_comes_from_the_same_pass(picture_folder, inception_stand_in):
    a, b = picture_folder("a", 60, seed=1), picture_folder("b", 4, seed=2)
    settings = ScoreSettings(str(a), str(b), weights=inception_stand_in, device="cpu", allow_small_n=True)
    found = score(settings).estimates()["inception_score"]
    assert 1 <= found.value <= 11


def test_statistics_that_do_not_say_how_many_images_are_grey_are_a_reference(picture_folder, toy, tmp_path):
    toy(picture_folder("b", seed=1), None, save_stats=tmp_path / "ref.npz")
    with np.load(tmp_path / "ref.npz") as archive:
        arrays = dict(archive)
    passport = json.loads(arrays["passport"].tobytes())
    del passport["source"]["num_grey"]
    np.savez(tmp_path / "ref.npz", **arrays | {"passport": np.frombuffer(json.dumps(passport).encode(), np.uint8)})
    assert toy(picture_folder("a"), tmp_path / "ref.npz").remarks == ()
