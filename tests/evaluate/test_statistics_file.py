"""Saved statistics are read back exactly; damaged or malicious files are refused."""

import io
import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from hdit_core.distributed import World
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.features.gather import FeatureGather
from hdit_core.evaluate.features.measure import Measurement
from hdit_core.evaluate.metrics.statistics import Accumulator
from hdit_core.evaluate.score import saved_reference
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.evaluate.statistics_file import load_statistics, save_statistics
from hdit_core.files import digest


@pytest.fixture
def measurement():
    accumulator = Accumulator(4)
    accumulator.add(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), [bytes([i] * 32) for i in range(9)])
    return Measurement(
        accumulator.statistics(), {"name": "toy"}, {"kind": "folder", "path": "x", "size": "8x9"}, ("Hm.",)
    )


@pytest.fixture
def saved(measurement, tmp_path):
    save_statistics(tmp_path / "ref.npz", measurement)
    return tmp_path / "ref.npz"


def rewrite(path, **changes):
    """Replace arrays of a file; None takes one away."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def test_statistics_are_read_back_exactly(measurement, saved):
    found = load_statistics(saved)
    for name in ("mean", "covariance", "features", "keys"):
        assert torch.equal(getattr(found.statistics, name), getattr(measurement.statistics, name))
    assert found.statistics.n == 9
    assert found.statistics.fingerprint == measurement.statistics.fingerprint
    assert (found.extractor, found.remarks) == (measurement.extractor, ("Hm.",))
    source = {"kind": "saved statistics", "path": str(saved), "images": "x", "size": "8x9"}
    assert found.source == {**source, "sha256": digest(saved).sha256}


def test_the_file_is_readable_by_clean_fid(measurement, saved):
    with np.load(saved) as archive:
        assert np.array_equal(archive["mu"], measurement.statistics.mean.numpy())
        assert np.array_equal(archive["sigma"], measurement.statistics.covariance.numpy())


def test_clean_fids_own_files_are_readable(tmp_path):
    path = tmp_path / "theirs.npz"
    np.savez(path, mu=np.arange(3.0), sigma=np.diag([1.0, 2, 3]).astype(np.float32))
    found = load_statistics(path)
    assert found.statistics.n is None and found.statistics.covariance.dtype == torch.float64
    assert found.statistics.features.shape == (0, 3) and found.extractor == {}
    assert "does not say which extractor and resize made it" in found.remarks[0]


def test_published_statistics_of_dinov2_name_their_network(tmp_path):
    path, mean = tmp_path / "test_stats.npz", np.arange(3.0)
    np.savez(path, dino_mu=mean, dino_sigma=np.eye(3), dino_embeddings=np.zeros((5, 3), np.float16))
    found = load_statistics(path)
    assert torch.equal(found.statistics.mean, torch.from_numpy(mean))
    assert found.extractor == {"name": "dinov2"} and "bicubic to 224 pixels is assumed" in found.remarks[0]


@pytest.mark.parametrize("also", ["mu_s", "arr_0"])
def test_statistics_of_adms_evaluator_are_resized_inside_the_network(tmp_path, also):
    path = tmp_path / "VIRTUAL_imagenet64.npz"
    np.savez(path, mu=np.arange(3.0), sigma=np.eye(3), **{also: np.zeros(2, np.uint8)})
    found = load_statistics(path)
    assert found.extractor["name"] == "inception" and found.extractor["resize"].startswith("adm: ")
    assert "do not name their weights" in found.remarks[0]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mu": None}, "has no mu and sigma"),
        ({"mu": np.zeros(5)}, r"mu has shape \(5,\) and sigma \(4, 4\); expected \[F\] and \[F, F\]"),
        ({"mu": np.zeros(4, np.int64)}, "mu is int64 and sigma float64; expected floating point"),
        ({"mu": np.full(4, np.nan)}, "has values that are not finite"),
        ({"sigma": np.triu(np.ones((4, 4)))}, "sigma is not symmetric, so it is not a covariance"),
        ({"keys": None}, "damaged statistics"),
        ({"keys": np.zeros(8, np.int64)}, "9 images do not match a sample of features"),
        ({"features": np.full((9, 4), np.inf, np.float32)}, "has values that are not finite"),
        ({"passport": np.frombuffer(b"{", np.uint8)}, "damaged statistics"),
        ({"passport": np.frombuffer(b"[" * 100_000, np.uint8)}, "damaged statistics"),
        ({"passport": np.frombuffer(b'{"format": "x"}', np.uint8)}, "has format 'x', expected 'hdit-statistics 1'"),
    ],
)
def test_damaged_statistics_are_named(saved, changes, message):
    rewrite(saved, **changes)
    with pytest.raises(DataError, match=rf"ref\.npz: .*{message}"):
        load_statistics(saved)


def test_every_truncated_file_is_refused(saved):
    content = saved.read_bytes()
    for length in range(0, len(content), 37):
        saved.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"ref\.npz: cannot be read as saved statistics"):
            load_statistics(saved)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz: cannot be read as saved statistics \(.*No such file"):
        load_statistics(tmp_path / "none.npz")


class _Payload:
    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.parametrize("whole_file", [False, True])
def test_no_code_in_a_file_is_executed(saved, tmp_path, monkeypatch, whole_file):
    """A pickle as a member of the archive, and in the place of the archive."""
    monkeypatch.chdir(tmp_path)
    if whole_file:
        saved.write_bytes(pickle.dumps(_Payload()))
    else:
        array = io.BytesIO()
        np.save(array, np.array([_Payload()], dtype=object), allow_pickle=True)
        (tmp_path / "executed").unlink(missing_ok=True)
        with zipfile.ZipFile(saved, "w") as archive:
            archive.writestr("mu.npy", array.getvalue())
            archive.writestr("sigma.npy", array.getvalue())
    with pytest.raises(DataError, match="cannot be read as saved statistics"):
        load_statistics(saved)
    assert not (tmp_path / "executed").exists()


def test_a_file_that_decompresses_to_more_than_memory_is_refused(saved, monkeypatch):
    monkeypatch.setattr("hdit_core.evaluate.statistics_file.LARGEST_BYTES", 100)
    with pytest.raises(DataError, match="bytes unpacked; expected at most 100"):
        load_statistics(saved)


def test_the_provenance_is_plain_json(saved):
    with np.load(saved) as archive:
        passport = json.loads(archive["passport"].tobytes())
    assert passport["n"] == 9 and passport["extractor"] == {"name": "toy"}


@pytest.mark.parametrize(
    "name, message",
    [("ref.pt", r"expected a name that ends in \.npz"), ("no/ref.npz", "there is no folder")],
)
def test_invalid_paths_for_saved_statistics_are_refused(measurement, tmp_path, name, message):
    with pytest.raises(UsageError, match=message):
        save_statistics(tmp_path / name, measurement)


def test_a_reference_is_measured_again_only_when_its_images_or_the_extractor_change(
    picture_folder, toy_extractor, tmp_path, caplog
):
    caplog.set_level("INFO", "hdit")
    folder, path = picture_folder("a", 9), tmp_path / "ref.npz"
    settings, gather = ScoreSettings(None, str(folder)), FeatureGather(World(), 5)

    def measured_again(extractor=toy_extractor):
        caplog.clear()
        found = saved_reference(path, settings, extractor, gather)
        assert found.statistics.n == len(list(folder.iterdir())) and found.extractor == extractor.provenance
        return caplog.messages == [f"computing the statistics of {folder}, once"]

    assert measured_again() and not measured_again()
    (folder / "008.png").unlink()
    assert measured_again() and not measured_again()
    assert measured_again(replace(toy_extractor, weights_sha256="1" * 64))
    path.write_bytes(b"damaged")
    assert measured_again()


def test_a_stream_cannot_be_a_cached_reference(toy_extractor, tmp_path):
    with pytest.raises(UsageError, match="--ref -: a stream can be read only once; pass a file or folder"):
        saved_reference(tmp_path / "x.npz", ScoreSettings(None, "-"), toy_extractor, FeatureGather(World(), 5))


@pytest.mark.parametrize("counts", [5, "ab", [1, -1], [0, 0], ["1"], [[1]], [1.5], {"a": 1}])
def test_a_class_distribution_that_samples_cannot_copy_is_refused(saved, measurement, counts):
    damaged = replace(measurement, source=measurement.source | {"class_counts": counts})
    save_statistics(saved, damaged)
    with pytest.raises(DataError, match=r"ref\.npz: damaged statistics \(.*\); make them again"):
        load_statistics(saved)


def test_an_array_that_is_larger_by_its_header_than_memory_is_refused(saved):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    with zipfile.ZipFile(saved, "w") as archive:
        archive.writestr("mu.npy", header.getvalue())
    with pytest.raises(DataError, match=r"ref\.npz: cannot be read as saved statistics \(Unable to allocate"):
        load_statistics(saved)
