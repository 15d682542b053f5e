"""Two results are compared only if they were measured in the same way."""

import copy
import json

import pytest

from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate import score as score_module
from hdit_core.evaluate.report.compare import compare_results
from hdit_core.evaluate.score import score
from hdit_core.evaluate.settings import ScoreSettings
from tests.evaluate.conftest import make_pictures


@pytest.fixture(scope="module")
def made(toy_extractor, tmp_path_factory):
    """Return two results, of other images against the same reference."""
    folder = tmp_path_factory.mktemp("compared")
    reference = str(make_pictures(folder / "ref", 14, seed=9))
    images = [str(make_pictures(folder / name, 60, seed=seed)) for seed, name in enumerate("ab")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_module, "open_extractor", lambda *_: toy_extractor)
        return [score(ScoreSettings(each, reference, device="cpu")).to_json() for each in images]


@pytest.fixture
def results(made, tmp_path):
    """Return a function that writes the two results, the second changed."""

    def write(change=lambda result: None):
        second = copy.deepcopy(made[1])
        change(second)
        for name, result in (("a", made[0]), ("b", second)):
            (tmp_path / f"{name}.json").write_text(json.dumps(result))
        return tmp_path / "a.json", tmp_path / "b.json"

    return write


def test_other_images_against_the_same_reference_are_compared(results):
    a, b = results()
    found = compare_results(a, b)
    values = [json.loads(path.read_text())["value"] for path in (a, b)]
    row = found.rows()[0]
    assert row["metric"] == "fd-toy" and row["b - a"] == pytest.approx(values[1] - values[0])
    assert row["standard error"] > 0
    assert found.unlike == [] and "images.path" in [key for key, *_ in found.other]
    assert json.loads(json.dumps(found.to_json()))["comparable"] is True


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: r["passport"]["extractor"].update(resize="other"), r"extractor\.resize: .* and other"),
        (lambda r: r["passport"]["extractor"].update(weights_sha256="1"), "extractor.weights_sha256: 0+"),
        (lambda r: r["passport"]["reference"].update(fingerprint="1"), "reference.fingerprint: "),
        (lambda r: r.update(n=59), "n: 60 and 59"),
        (lambda r: r["passport"]["images"].update(rounding="float"), "images.rounding: uint8 and float"),
    ],
)
def test_results_with_different_provenance_are_refused_unless_forced(results, change, message):
    a, b = results(change)
    with pytest.raises(UsageError, match=rf"not comparable: .*{message}.*--force compares them anyway"):
        compare_results(a, b)
    found = compare_results(a, b, force=True)
    assert len(found.unlike) >= 1 and not found.to_json()["comparable"]


def test_results_of_different_metrics_are_not_compared(results):
    def rename(result):
        result["metric"], name = "fid", result["name"]
        result["name"] = "fid60"
        result["estimates"]["fid60"] = result["estimates"].pop(name)

    with pytest.raises(UsageError, match="metric: fd-toy and fid"):
        compare_results(*results(rename))


def test_results_with_different_labels_are_refused_if_both_record_them(results, tmp_path):
    a, b = results(lambda r: r["passport"]["images"].update(labels="uniform"))
    assert compare_results(a, b).unlike == [], "a folder does not say how its classes were chosen"
    first = json.loads(a.read_text())
    first["passport"]["images"]["labels"] = "balanced"
    a.write_text(json.dumps(first))
    with pytest.raises(UsageError, match=r"images\.labels: balanced and uniform"):
        compare_results(a, b)


def test_equal_settings_are_equal_however_they_were_reached(results):
    """A folder of an unconditional model and the model itself, against images and against their statistics."""

    def from_checkpoint(result):
        result["passport"]["images"].update(kind="checkpoint", labels="none", sampling={"steps": 50}, seed=0)
        reference = result["passport"]["reference"]
        reference.update(kind="saved statistics", images="data", sha256="5" * 64, class_counts=[3, 4], size="unknown")

    assert compare_results(*results(from_checkpoint)).unlike == []


def test_statistics_of_the_same_reference_are_the_same_reference(results):
    def through_file(result):
        result["passport"]["reference"].update(kind="saved statistics", path="ref.npz", sha256="5" * 64)

    assert compare_results(*results(through_file)).unlike == []


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": "x"}', "[" * 100_000, '{"format": "hdit-score 1", "value": NaN}', "9" * 10_000],
)
def test_a_file_that_is_not_a_result_is_named(results, content):
    a, b = results()
    b.write_text(content)
    with pytest.raises(DataError, match=r"b\.json: not a result of hdit eval-fid --json .*; score again"):
        compare_results(a, b)


@pytest.mark.parametrize("key", ["passport", "estimates", "metric", "name", "n"])
@pytest.mark.parametrize("value", [None, 3, "x", ["x"], {"x": {"value": "y"}}])
def test_a_result_of_another_shape_ends_in_one_line(results, key, value):
    a, b = results(lambda result: result.update({key: value}))
    if key == "n" or (key in ("metric", "name") and value == "x"):
        return
    with pytest.raises((DataError, UsageError)):
        compare_results(a, b)


def test_a_missing_file_is_named(results, tmp_path):
    with pytest.raises(UsageError, match=r"none\.json: no such file; expected a result"):
        compare_results(tmp_path / "none.json", results()[0])


def test_settings_that_a_folder_and_a_checkpoint_record_in_other_places_are_compared(results):
    settings = {"sampler": "heun", "steps": 8}
    a, b = results(lambda r: r["passport"]["images"].update(sampling=settings, seed=0, weights_sha256="1"))
    first = json.loads(a.read_text())
    first["passport"]["images"]["samples"] = {"settings": settings | {"steps": 9}, "seed": 0, "weights_sha256": "1"}
    a.write_text(json.dumps(first))
    found = {key: values for key, *values in compare_results(a, b).other}
    assert found["images.sampling.steps"] == [9, 8]
    unlike = [key for key in found if key.startswith("images.") and key not in ("images.path", "images.fingerprint")]
    assert unlike == ["images.sampling.steps"]


def test_guided_samples_are_compared_with_others(results):
    """Autoguidance is a way of sampling, as the scale of classifier-free guidance is."""

    def guided(result):
        result["passport"]["images"]["guide"] = {"weights_sha256": "7" * 64, "weight": 2.0}

    found = compare_results(*results(guided))
    assert found.unlike == [] and ("images.guide.weight", None, 2.0) in found.other
