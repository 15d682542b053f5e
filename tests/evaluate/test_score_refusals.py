"""Every refusal of a score, and how many images are enough."""

import io
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest

from hdit_core.errors import CheckpointError, DataError, UsageError
from hdit_core.evaluate.report.result import name_with_count
from hdit_core.evaluate.score import score
from hdit_core.evaluate.settings import ScoreSettings
from tests.generate.conditional import write_network


def test_only_fifty_thousand_images_make_an_fid50k():
    names = [name_with_count("fid", n) for n in (50_000, 49_999, 50_001, 5_000, 500)]
    assert names == ["fid50k", "fid49999", "fid50001", "fid5k", "fid500"]
    assert name_with_count("fd-efficientnet-lite0", 5_000) == "fd-efficientnet-lite0-5k"
    assert name_with_count("fid", None) == "fid"


@pytest.mark.parametrize("small", ["a", "b"])
def test_no_more_images_than_features_are_refused_unless_allowed(picture_folder, toy, small):
    """Both sides count, and the refusal comes before an image is read."""
    a, b = picture_folder("a", 5 if small == "a" else 6), picture_folder("b", 5 if small == "b" else 6, seed=1)
    with pytest.raises(UsageError, match=f"/{small}: 5 images, too few for the 5 features of toy; score at least 6"):
        toy(a, b)
    result = toy(a, b, allow_small_n=True)
    assert any("comparable only at equal numbers of images" in remark for remark in result.remarks)
    assert np.isfinite(result.frechet.value) and result.frechet.value > 0


def test_with_enough_images_there_is_no_such_note(picture_folder, toy):
    assert toy(picture_folder("a", 6), picture_folder("b", 6, seed=1)).remarks == ()


def test_saved_statistics_that_are_too_small_are_refused(picture_folder, toy, tmp_path):
    toy(picture_folder("b", 4), None, save_stats=tmp_path / "ref.npz", allow_small_n=True)
    with pytest.raises(UsageError, match=r"ref\.npz: 4 images, too few"):
        toy(picture_folder("a"), tmp_path / "ref.npz")


def test_statistics_of_another_extractor_are_refused(picture_folder, toy, tmp_path):
    a = picture_folder("a")
    np.savez(tmp_path / "other.npz", mu=np.zeros(7), sigma=np.eye(7))
    with pytest.raises(DataError, match=r"other\.npz: has 7 features, --extractor toy has 5; pass the"):
        toy(a, tmp_path / "other.npz")
    toy(a, None, save_stats=tmp_path / "ref.npz")
    with np.load(tmp_path / "ref.npz") as archive:
        arrays = dict(archive)
    passport = arrays["passport"].tobytes().replace(b"to 8x8", b"to 9x9")
    np.savez(tmp_path / "ref.npz", **(arrays | {"passport": np.frombuffer(passport, np.uint8)}))
    with pytest.raises(DataError, match=r"was made with resize = .* to 9x9.*, --extractor toy has .* to 8x8"):
        toy(a, tmp_path / "ref.npz")


def test_published_statistics_of_another_extractor_or_resize_are_refused(picture_folder, toy, tmp_path):
    np.savez(tmp_path / "dino.npz", dino_mu=np.zeros(5), dino_sigma=np.eye(5))
    with pytest.raises(DataError, match=r"dino\.npz: was made with name = dinov2, --extractor toy has toy; pass the"):
        toy(picture_folder("a"), tmp_path / "dino.npz")
    np.savez(tmp_path / "adm.npz", mu=np.zeros(5), sigma=np.eye(5), mu_s=np.zeros(5))
    with pytest.raises(DataError, match=r"adm\.npz: was made with name = inception, --extractor toy"):
        toy(tmp_path / "a", tmp_path / "adm.npz")


def test_a_pickle_is_refused_with_a_hint(picture_folder, toy, tmp_path):
    (tmp_path / "img512.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UsageError, match=r"img512\.pkl: a pickle, .* is not opened; save its .*#published-stat"):
        toy(picture_folder("a"), tmp_path / "img512.pkl")


def test_damaged_statistics_are_noted(picture_folder, toy, tmp_path):
    np.savez(tmp_path / "broken.npz", mu=np.zeros(5), sigma=np.diag([1.0, 1, 1, 1, -0.5]))
    remarks = toy(picture_folder("a"), tmp_path / "broken.npz").remarks
    assert any("negative eigenvalues of 0.5 were clipped" in remark for remark in remarks)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"images": None, "reference": "b"}, "expected either IMAGES .* or --ckpt RUN, got neither"),
        (
            {"images": "a", "reference": "b", "checkpoint": "run"},
            "expected either .* or --ckpt RUN, got a and --ckpt run",
        ),
        ({"images": "a", "reference": None}, "--ref is missing"),
        (
            {"images": "a", "reference": None, "save_stats": Path("ref.npz"), "report": Path("x.html")},
            r"--report x\.html: without --ref there is no score to report; leave it out",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        score(ScoreSettings(**settings))


def test_a_folder_that_statistics_cannot_be_saved_to_is_refused_at_once(toy, tmp_path):
    with pytest.raises(UsageError, match=r"ref\.npz: there is no folder"):
        toy("nowhere", None, save_stats=tmp_path / "no" / "ref.npz")


def test_a_missing_checkpoint_is_named(picture_folder, toy, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such run, checkpoint or file"):
        toy(None, picture_folder("b"), checkpoint=str(tmp_path / "nowhere"), n=8)


def test_labels_of_the_data_need_a_reference_with_classes(toy, checkpoint, picture_folder):
    with pytest.raises(UsageError, match="--labels data: the reference has no class counts"):
        toy(None, picture_folder("b"), checkpoint=str(checkpoint), n=8, labels="data")


def test_too_few_images_of_a_stream_are_refused_when_it_has_ended(picture_folder, toy, monkeypatch):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(picture_folder("a", 5), arcname="a")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    with pytest.raises(UsageError, match="-: 5 images, too few for the 5 features of toy"):
        toy("-", picture_folder("b", seed=1))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"nearest": "x.jpg"}, r"--nearest .*x\.jpg: expected a name that ends in \.png"),
        ({"report": "x.txt"}, r"--report .*x\.txt: expected a name that ends in \.html"),
        ({"report": "no/x.html"}, r"--report .*: there is no folder .*no"),
        ({"labels": "uniform"}, "--labels uniform: applies to --ckpt"),
        ({"reference": "none.npz"}, r"none\.npz: no such file; expected statistics"),
        ({"images": "-", "reference": "-"}, "-: one stream cannot be both the images and the reference"),
        ({"images": "-", "n": 3}, "--count 3: all images of a stream are scored"),
        ({"images": "-", "nearest": "x.png"}, r"--nearest .*: a stream can be read only once"),
        (
            {"reference": "ref.npz", "nearest": "x.png"},
            "--nearest .*: needs images as --ref, not statistics",
        ),
    ],
)
def test_impossible_requests_are_refused_before_an_image_is_read(picture_folder, toy, tmp_path, settings, message):
    a, b = picture_folder("a", seed=1), picture_folder("b", seed=2)
    toy(b, None, save_stats=tmp_path / "ref.npz")
    chosen = {"images": a, "reference": b} | settings
    for key in ("nearest", "report", "reference"):
        if isinstance(chosen.get(key), str) and chosen[key] != "-":
            chosen[key] = tmp_path / chosen[key]
    with pytest.raises(UsageError, match=message):
        toy(chosen.pop("images"), chosen.pop("reference"), **chosen)


@pytest.mark.parametrize("model", [{"condition_channels": 3}, {"condition_channels": 0, "mapping_cond_dim": 4}])
def test_a_checkpoint_that_needs_conditions_is_refused(picture_folder, toy, tmp_path, model):
    path = write_network(tmp_path / "net", **model)
    with pytest.raises(UsageError, match=r"net: the network takes condition images or vectors, which"):
        toy(None, picture_folder("b"), checkpoint=str(path), n=8)
