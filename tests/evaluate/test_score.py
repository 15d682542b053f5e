"""From two sets to a score with its passport, and every refusal on the way."""

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
from hdit_core.errors import CheckpointError, DataError, UsageError
from hdit_core.evaluate import score as score_module
from hdit_core.evaluate.report import name_with_count
from hdit_core.evaluate.score import ScoreSettings, score
from hdit_core.generate.generate import generate
from hdit_core.images import png_bytes, to_uint8


@pytest.fixture
def toy(toy_extractor, monkeypatch):
    """Return a function that scores with the toy extractor on the CPU; keywords are the settings'."""
    monkeypatch.setattr(score_module, "open_extractor", lambda *_: toy_extractor)

    def run(images, reference, **settings):
        return score(ScoreSettings(images and str(images), reference and str(reference), device="cpu", **settings))

    return run


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


def test_the_score_is_clean_fids_end_to_end(picture_folder, inception_stand_in, tmp_path):
    """With a stand-in network and few images: the root's trace from eigenvalues of a product that is not symmetric."""
    a, b = picture_folder("a", 6, seed=1), picture_folder("b", 5, seed=2, size=(20, 14))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "inception-2015-12-05.pt").symlink_to(inception_stand_in)
    x, y = by_clean_fid(a, tmp_path / "weights"), by_clean_fid(b, tmp_path / "weights")
    centred_x, centred_y = (x - x.mean(0)) / len(x[1:]) ** 0.5, (y - y.mean(0)) / len(y[1:]) ** 0.5
    across = centred_x @ centred_y.T
    root = np.sqrt(np.linalg.eigvals(across @ across.T).real.clip(0)).sum()
    expected = (
        np.square(x.mean(0) - y.mean(0)).sum() + np.square(centred_x).sum() + np.square(centred_y).sum() - 2 * root
    )
    settings = ScoreSettings(str(a), str(b), weights=inception_stand_in, device="cpu", allow_small_n=True)
    assert score(settings).frechet.value == pytest.approx(expected, rel=1e-4)


def test_a_set_scored_against_itself_is_at_distance_zero_and_says_so(picture_folder, toy):
    folder = picture_folder("a")
    result = toy(folder, folder)
    assert result.frechet.value <= 1e-8 * float(result.images.statistics.covariance.trace())
    assert "both sets hold the very same images" in result.remarks


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
    saved = toy(b, None, save_stats=tmp_path / "ref.npz")
    assert saved.to_json()["saved"] == str(tmp_path / "ref.npz") and saved.to_json()["n"] == 12
    direct, through_file = toy(a, b), toy(a, tmp_path / "ref.npz")
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


def test_the_passport_says_what_made_the_score(picture_folder, toy):
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
    assert "the images are 10x12 pixels, those of the reference 8x9" in found["remarks"]
    assert "the images of one set are all grey, those of the other are not" in found["remarks"]


def test_only_fifty_thousand_images_make_an_fid50k():
    names = [name_with_count("fid", n) for n in (50_000, 49_999, 50_001, 5_000, 500)]
    assert names == ["fid50k", "fid49999", "fid50001", "fid5k", "fid500"]
    assert name_with_count("fd-efficientnet-lite0", 5_000) == "fd-efficientnet-lite0-5k"
    assert name_with_count("fid", None) == "fid"


@pytest.mark.parametrize("small", ["a", "b"])
def test_no_more_images_than_features_are_refused_unless_allowed(picture_folder, toy, small):
    """Both sides count, and the refusal comes before an image is read."""
    a, b = picture_folder("a", 5 if small == "a" else 6), picture_folder("b", 5 if small == "b" else 6, seed=1)
    with pytest.raises(UsageError, match=f"/{small}: 5 images are too few for the 5 features of toy; score at least 6"):
        toy(a, b)
    result = toy(a, b, allow_small_n=True)
    assert any("compares only with itself at the same numbers of images" in remark for remark in result.remarks)
    assert np.isfinite(result.frechet.value) and result.frechet.value > 0


def test_enough_images_leave_no_such_remark(picture_folder, toy):
    assert toy(picture_folder("a", 6), picture_folder("b", 6, seed=1)).remarks == ()


def test_saved_statistics_that_are_too_small_are_refused(picture_folder, toy, tmp_path):
    toy(picture_folder("b", 4), None, save_stats=tmp_path / "ref.npz", allow_small_n=True)
    with pytest.raises(UsageError, match=r"ref\.npz: 4 images are too few"):
        toy(picture_folder("a"), tmp_path / "ref.npz")


def test_statistics_of_another_extractor_are_refused(picture_folder, toy, tmp_path):
    a = picture_folder("a")
    np.savez(tmp_path / "other.npz", mu=np.zeros(7), sigma=np.eye(7))
    with pytest.raises(DataError, match=r"other\.npz: has 7 features, --extractor toy gives 5; give the"):
        toy(a, tmp_path / "other.npz")
    toy(a, None, save_stats=tmp_path / "ref.npz")
    with np.load(tmp_path / "ref.npz") as archive:
        arrays = dict(archive)
    passport = arrays["passport"].tobytes().replace(b"to 8x8", b"to 9x9")
    np.savez(tmp_path / "ref.npz", **(arrays | {"passport": np.frombuffer(passport, np.uint8)}))
    with pytest.raises(DataError, match=r"was made with resize = .* to 9x9.*, --extractor toy has .* to 8x8"):
        toy(a, tmp_path / "ref.npz")


def test_damaged_statistics_are_remarked_on(picture_folder, toy, tmp_path):
    np.savez(tmp_path / "broken.npz", mu=np.zeros(5), sigma=np.diag([1.0, 1, 1, 1, -0.5]))
    remarks = toy(picture_folder("a"), tmp_path / "broken.npz").remarks
    assert any("negative eigenvalues of 0.5 were clipped" in remark for remark in remarks)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"images": None, "reference": "b"}, "expected either IMAGES .* or --ckpt RUN"),
        ({"images": "a", "reference": "b", "checkpoint": "run"}, "expected either IMAGES .* or --ckpt RUN"),
        ({"images": "a", "reference": None}, "--ref is missing"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        score(ScoreSettings(**settings))


def test_a_folder_that_statistics_cannot_be_saved_to_is_refused_at_once(toy, tmp_path):
    with pytest.raises(UsageError, match=r"ref\.npz: there is no folder"):
        toy("nowhere", None, save_stats=tmp_path / "no" / "ref.npz")


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
    assert source["sampling"]["steps"] == 4 and len(source["weights_sha256"]) == 64
    json.dumps(drawn.to_json())


def test_a_checkpoints_recipe_says_how_many_images_and_which_extractor(
    picture_folder, toy_extractor, checkpoint, monkeypatch
):
    asked = []
    monkeypatch.setattr(score_module, "open_extractor", lambda name, *_: asked.append(name) or toy_extractor)
    reference = str(picture_folder("b"))
    result = score(ScoreSettings(None, reference, checkpoint=str(checkpoint), device="cpu"))
    assert (asked, result.images.statistics.n) == (["efficientnet-lite0"], 7)
    score(ScoreSettings(reference, reference, device="cpu"))
    assert asked[1] == "inception"


def test_a_missing_checkpoint_is_named(picture_folder, toy, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such run, checkpoint or file"):
        toy(None, picture_folder("b"), checkpoint=str(tmp_path / "nowhere"), n=8)


def test_progress_counts_the_images_of_both_sides(picture_folder, toy_extractor, monkeypatch):
    monkeypatch.setattr(score_module, "open_extractor", lambda *_: toy_extractor)
    a, b = picture_folder("a", 6), picture_folder("b", 7, seed=1)
    told = []
    score(ScoreSettings(str(a), str(b), device="cpu"), lambda *count: told.append(count))
    assert told == [(4, 13), (6, 13), (10, 13), (13, 13)]


def test_labels_of_the_data_come_from_the_reference(toy, checkpoint, tiny_data, tmp_path):
    """Of a data set, and of the statistics that were kept of it."""
    drawn = toy(None, tiny_data, checkpoint=str(checkpoint), n=8, labels="data")
    assert drawn.images.source["labels"] == "data"
    assert sum(drawn.reference.source["class_counts"]) == 20
    toy(tiny_data, None, save_stats=tmp_path / "ref.npz")
    through_file = toy(None, tmp_path / "ref.npz", checkpoint=str(checkpoint), n=8, labels="data")
    assert through_file.images.statistics.fingerprint == drawn.images.statistics.fingerprint


def test_labels_of_the_data_need_a_reference_with_classes(toy, checkpoint, picture_folder):
    with pytest.raises(UsageError, match="--labels data: the reference does not say how often each class is"):
        toy(None, picture_folder("b"), checkpoint=str(checkpoint), n=8, labels="data")


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


def test_too_few_images_of_a_stream_are_refused_when_it_has_ended(picture_folder, toy, monkeypatch):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(picture_folder("a", 5), arcname="a")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    with pytest.raises(UsageError, match="-: 5 images are too few for the 5 features of toy"):
        toy("-", picture_folder("b", seed=1))


def test_adms_reference_is_read_for_its_statistics_and_samples_for_their_images(picture_folder, toy, tmp_path):
    a, b = picture_folder("a", seed=1), picture_folder("b", seed=2)
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(b.iterdir())])
    toy(b, None, save_stats=tmp_path / "ref.npz")
    with np.load(tmp_path / "ref.npz") as ours:
        np.savez(tmp_path / "adm.npz", images, mu=ours["mu"], sigma=ours["sigma"], mu_s=ours["mu"])
    np.savez(tmp_path / "samples.npz", images)
    direct = toy(a, b)
    assert toy(a, tmp_path / "adm.npz").frechet.value == pytest.approx(direct.frechet.value, rel=1e-12)
    assert toy(a, tmp_path / "adm.npz").kernel is None
    from_images = toy(a, tmp_path / "samples.npz")
    assert from_images.reference.statistics.fingerprint == direct.reference.statistics.fingerprint


def test_the_nearest_are_drawn_and_copies_counted(picture_folder, toy, tmp_path):
    a, b = picture_folder("a", 30, seed=1), picture_folder("b", seed=2)
    shutil.copy(b / "003.png", a / "copy.png")
    result = toy(a, b, nearest=tmp_path / "nearest.png", report=tmp_path / "report.html")
    assert result.to_json()["nearest"]["copies"] == 1
    assert Image.open(tmp_path / "nearest.png").size[0] > 6 * 128
    assert toy(a, b).to_json()["nearest"] is None


def test_a_drawn_set_is_shown_beside_its_nearest_too(toy, checkpoint, tiny_data, tmp_path):
    toy(None, tiny_data, checkpoint=str(checkpoint), n=8, nearest=tmp_path / "nearest.png")
    assert (tmp_path / "nearest.png").exists()


def test_every_number_says_how_sure_it_is(picture_folder, toy):
    result = toy(picture_folder("a", 80, seed=1), picture_folder("b", 80, seed=2))
    names = ["fd-toy-80", "kd-toy", "precision", "recall", "density", "coverage"]
    assert list(result.estimates()) == names
    for found in result.to_json()["estimates"].values():
        assert found["low"] <= found["value"] <= found["high"] and found["standard_error"] >= 0
    assert result.spread.infinity < result.frechet.value
    assert any("95 %" in text for _, text in result.lines())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"nearest": "x.jpg"}, r"--nearest .*x\.jpg: expected a name that ends in \.png"),
        ({"report": "x.txt"}, r"--report .*x\.txt: expected a name that ends in \.html"),
        ({"report": "no/x.html"}, r"--report .*: there is no folder .*no"),
        ({"labels": "uniform"}, "--labels uniform: goes with --ckpt"),
        ({"reference": "none.npz"}, r"none\.npz: no such file; expected statistics"),
        ({"images": "-", "reference": "-"}, "-: one stream cannot be both the images and the reference"),
        ({"images": "-", "n": 3}, "--n 3: of a stream all images are scored"),
        ({"images": "-", "nearest": "x.png"}, r"--nearest .*: a stream can be read once"),
        (
            {"reference": "ref.npz", "nearest": "x.png"},
            "--nearest .*: needs images as --ref, not statistics",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_an_image_is_read(picture_folder, toy, tmp_path, settings, message):
    a, b = picture_folder("a", seed=1), picture_folder("b", seed=2)
    toy(b, None, save_stats=tmp_path / "ref.npz")
    chosen = {"images": a, "reference": b} | settings
    for key in ("nearest", "report", "reference"):
        if isinstance(chosen.get(key), str) and chosen[key] != "-":
            chosen[key] = tmp_path / chosen[key]
    with pytest.raises(UsageError, match=message):
        toy(chosen.pop("images"), chosen.pop("reference"), **chosen)


@pytest.mark.parametrize("mode, name", [("clean", "fd-inception-6"), ("adm", "fd-inception-adm-6")])
def test_either_mode_says_which_it_is(picture_folder, inception_stand_in, mode, name):
    a, b = picture_folder("a", 6, seed=1), picture_folder("b", 5, seed=2, size=(20, 14))
    Image.new("RGB", (31, 9)).save(b / "other.png")
    settings = ScoreSettings(str(a), str(b), weights=inception_stand_in, device="cpu", allow_small_n=True, mode=mode)
    result = score(settings)
    assert result.name == name and result.frechet.value > 0
    assert result.images.extractor["resize"].startswith({"clean": "clean-fid", "adm": "adm: bilinear"}[mode])


def test_the_inception_score_comes_from_the_same_pass(picture_folder, inception_stand_in):
    a, b = picture_folder("a", 60, seed=1), picture_folder("b", 4, seed=2)
    settings = ScoreSettings(str(a), str(b), weights=inception_stand_in, device="cpu", allow_small_n=True)
    found = score(settings).estimates()["inception_score"]
    assert 1 <= found.value <= 11
