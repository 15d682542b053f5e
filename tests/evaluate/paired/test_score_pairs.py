"""Scores of pairs: means and intervals, identical pairs, refusals, ranks."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image

from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.paired import score_pairs as module
from hdit_core.evaluate.paired.result import mean_of_pairs, t_quantile
from hdit_core.evaluate.paired.score_pairs import score_pairs
from hdit_core.evaluate.paired.similarity import psnr, ssim
from hdit_core.evaluate.report.compare import compare_results
from hdit_core.evaluate.settings import ScoreSettings
from tests.evaluate.scoring_rank import start


@pytest.fixture
def paired(toy_extractor, monkeypatch):
    """Return a function that scores pairs of two sets; keywords are the settings'."""
    monkeypatch.setattr(module, "open_extractor", lambda *_: toy_extractor)

    def run(images, originals, **settings):
        return score_pairs(ScoreSettings(str(images), str(originals), paired=True, device="cpu", **settings))

    return run


def pixels(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


@pytest.fixture
def sets(picture_folder):
    return picture_folder("a", 37, size=(13, 17)), picture_folder("b", 37, seed=1, size=(13, 17))


def test_scores_are_means_over_the_pairs(sets, paired, toy_extractor):
    a, b = sets
    found = paired(a, b, extractor="toy").estimates()
    pairs = list(zip(pixels(a), pixels(b), strict=True))
    assert found["psnr"].value == pytest.approx(np.mean([psnr(*pair) for pair in pairs]), abs=1e-12)
    assert found["ssim"].value == pytest.approx(np.mean([ssim(*pair) for pair in pairs]), abs=1e-12)
    features = [toy_extractor.features([toy_extractor.prepare(image) for image in side]) for side in map(pixels, sets)]
    cosine = torch.nn.functional.cosine_similarity(*features).double()
    assert found["cosine-distance-toy"].value == pytest.approx(float(1 - cosine.mean()), abs=1e-6)
    assert found["psnr"].low < found["psnr"].value < found["psnr"].high


def test_intervals_equal_those_of_the_leave_one_out_jackknife():
    values = torch.tensor([1.0, 4, 2, 8, 5, 7, 1.5]).double()
    without = torch.stack([torch.cat([values[:i], values[i + 1 :]]).mean() for i in range(len(values))])
    error = math.sqrt(6 / 7 * float(((without - without.mean()) ** 2).sum()))
    found = mean_of_pairs(values)
    assert found.standard_error == pytest.approx(error)
    assert found.high - found.value == pytest.approx(scipy.stats.t.ppf(0.975, 6) * error, rel=1e-3)
    assert mean_of_pairs(values[:4]).low is None


@pytest.mark.parametrize("degrees", [4, 9, 100])
def test_t_quantiles_equal_the_tabulated_ones(degrees):
    assert t_quantile(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=3e-3)


def test_identical_pairs_are_counted_and_left_out_of_psnr(sets, paired):
    a, b = sets
    everything = paired(a, b)
    values = everything.psnr.clone()
    (b / "003.png").write_bytes((a / "003.png").read_bytes())
    found = paired(a, b)
    assert found.num_identical == 1 and "1 identical pairs are left out of psnr" in found.remarks[0]
    expected = torch.cat([values[:3], values[4:]]).mean()
    assert found.estimates()["psnr"].value == pytest.approx(float(expected))
    only_equal = paired(a, a)
    assert "psnr" not in only_equal.estimates() and only_equal.to_json()["metric"] == "ssim"
    json.dumps(only_equal.to_json(), allow_nan=False)


def test_a_grey_image_is_the_same_in_one_or_three_channels(picture_folder, paired):
    color, grey = picture_folder("c", 5, size=(12, 12)), picture_folder("g", 5, channels=1, size=(12, 12))
    one = paired(grey, color)
    for path in grey.iterdir():
        Image.open(path).convert("RGB").save(path)
    assert one.to_json()["estimates"] == paired(grey, color).to_json()["estimates"]
    assert one.estimates()["psnr"].value < 20


def test_pairs_of_other_sizes_are_refused(picture_folder, paired):
    with pytest.raises(DataError, match=r"000\.png: is 12x13 pixels, its original 13x12; expected pairs of the same"):
        paired(picture_folder("a", 3, size=(12, 13)), picture_folder("b", 3, size=(13, 12)))


def test_images_smaller_than_the_window_are_refused(picture_folder, paired):
    with pytest.raises(DataError, match=r"000\.png: is 10x12 pixels; SSIM needs at least 11x11"):
        paired(picture_folder("a", 3), picture_folder("b", 3, seed=1))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"report": Path("x.html")}, r"--report x\.html: does not apply to --paired"),
        ({"nearest": Path("x.png")}, r"--nearest x\.png: does not apply to --paired"),
        ({"save_stats": Path("x.npz")}, r"--save-stats x\.npz: does not apply to --paired"),
        ({"keep_features": Path("x")}, r"--keep-features x: does not apply to --paired"),
        ({"batch_size": 8}, "--batch-size 8: does not apply to --paired"),
        ({"allow_small_n": True}, "--allow-small-n: does not apply to --paired"),
        ({"mode": "adm"}, "--mode adm: --paired has no extractor without --extractor NAME"),
        ({"weights": Path("w.pt")}, r"--extractor-weights w\.pt: --paired has no extractor without --extractor"),
    ],
)
def test_options_that_do_not_apply_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        score_pairs(ScoreSettings("a", "b", paired=True, **settings))


def test_a_checkpoint_or_a_missing_reference_is_refused():
    with pytest.raises(UsageError, match="--ckpt run: does not apply to --paired"):
        score_pairs(ScoreSettings(None, "b", checkpoint="run", paired=True))
    with pytest.raises(UsageError, match="--ref is missing"):
        score_pairs(ScoreSettings("a", None, paired=True))


def test_results_of_pairs_are_compared_but_not_with_results_of_sets(sets, paired, toy, tmp_path):
    a, b = sets
    one, two, other = tmp_path / "1.json", tmp_path / "2.json", tmp_path / "3.json"
    one.write_text(json.dumps(paired(a, b).to_json()))
    two.write_text(json.dumps(paired(b, b).to_json()))
    three = toy(a, b).to_json()
    other.write_text(json.dumps(three))
    comparison = compare_results(one, one)
    assert comparison.rows()[0]["metric"] == "psnr" and comparison.rows()[0]["b - a"] == 0
    with pytest.raises(UsageError, match="are not comparable: metric: psnr and fd-toy"):
        compare_results(one, other)
    compare_results(one, two, force=True)


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_ranks_gives_the_same_result_bit_for_bit(sets, paired, tmp_path, count):
    options = {"images": str(sets[0]), "reference": str(sets[1]), "paired": True, "extractor": "toy"}
    alone = start(tmp_path / "1", 1, **options).results()[0]
    assert start(tmp_path / "n", count, **options).results() == [alone, *[None] * (count - 1)]
    assert alone["estimates"]["ssim"]["standard_error"] > 0


def test_a_rank_that_fails_ends_the_others(sets, tmp_path):
    (sets[1] / "036.png").write_bytes(b"no image")
    said = start(tmp_path / "n", 2, images=str(sets[0]), reference=str(sets[1]), paired=True).said()
    assert "036.png: cannot be scored" in said[0] and "another rank failed" in said[1]


def test_means_that_leave_out_different_numbers_of_identical_pairs_are_not_compared(sets, paired, tmp_path):
    a, b = sets
    (tmp_path / "1.json").write_text(json.dumps(paired(a, b).to_json()))
    (b / "003.png").write_bytes((a / "003.png").read_bytes())
    (tmp_path / "2.json").write_text(json.dumps(paired(b, a).to_json()))
    with pytest.raises(UsageError, match="n_identical: 0 and 1"):
        compare_results(tmp_path / "1.json", tmp_path / "2.json")
