"""Features cached on disk: a killed evaluation resumes, with the result of an uninterrupted one."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.data.image_sets.open_images import open_images
from hdit_core.errors import UsageError
from hdit_core.evaluate import feature_batch as chunks
from hdit_core.evaluate import score as score_module
from hdit_core.evaluate.features.cache import FeatureCache
from hdit_core.evaluate.features.measure import measure
from hdit_core.evaluate.score import score
from hdit_core.evaluate.settings import ScoreSettings


@pytest.fixture(autouse=True)
def few_images_per_file(monkeypatch):
    monkeypatch.setattr(chunks, "IMAGES_PER_CHUNK", 8)


def counted(images, made):
    """The same set, which notes the images that are read."""

    def read(places):
        for place, reader in zip(places, images.open(places), strict=False):
            made.append(place)
            yield reader

    return ImageSet(images.source, images.count, read, images.identity, images.remarks)


def run(folder, extractor, kept, stop_after=None):
    made = []
    images = counted(open_images(str(folder)), made)

    def on_progress(done, _):
        if stop_after is not None and done >= stop_after:
            raise KeyboardInterrupt

    cache = FeatureCache(kept, images, extractor)
    return measure(images, extractor, 4, on_progress, cache=cache), made


def assert_same(a, b):
    assert a.source == b.source and a.statistics.fingerprint == b.statistics.fingerprint
    assert torch.equal(a.statistics.mean, b.statistics.mean)
    assert torch.equal(a.statistics.covariance, b.statistics.covariance)
    assert torch.equal(a.statistics.features, b.statistics.features)


def test_cached_features_are_reused_and_the_result_is_bit_identical(picture_folder, toy_extractor, tmp_path, caplog):
    caplog.set_level("INFO", "hdit")
    folder = picture_folder("photos", 30)
    whole = measure(open_images(str(folder)), toy_extractor, 4)
    with pytest.raises(KeyboardInterrupt):
        run(folder, toy_extractor, tmp_path / "kept", stop_after=20)
    resumed, made = run(folder, toy_extractor, tmp_path / "kept")
    assert_same(resumed, whole)
    assert made == list(range(16, 30)) and "has the features of 2 chunks" in caplog.text
    again, made = run(folder, toy_extractor, tmp_path / "kept")
    assert_same(again, whole)
    assert made == []


def test_cached_features_are_reported_at_once_and_do_not_count_as_speed(picture_folder, toy_extractor, tmp_path):
    """Progress takes its first word for where work began; a damaged piece is taken back when it is met."""
    images = open_images(str(picture_folder("photos", 30)))

    def told():
        seen = []
        cache = FeatureCache(tmp_path / "kept", images, toy_extractor)
        measure(images, toy_extractor, 4, lambda done, total: seen.append(done), cache=cache)
        return seen

    assert told() == [4, 8, 12, 16, 20, 24, 28, 30]
    assert told() == [30]
    files = sorted((tmp_path / "kept").glob("*/features-*"))
    files[2].unlink()
    assert told() == [22, 26, 30]
    files[1].write_bytes(files[1].read_bytes()[:-1])
    assert told() == [30, 22, 26, 30]


def test_only_the_features_of_a_damaged_file_are_recomputed(picture_folder, toy_extractor, tmp_path, caplog):
    folder = picture_folder("photos", 30)
    whole, _ = run(folder, toy_extractor, tmp_path / "kept")
    path = next((tmp_path / "kept").glob("*/features-00000008.safetensors"))
    content = bytearray(path.read_bytes())
    for place in (5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        caplog.clear()
        resumed, made = run(folder, toy_extractor, tmp_path / "kept")
        assert_same(resumed, whole)
        assert made == list(range(8, 16)) and "computing its features again" in caplog.text


def test_other_images_or_another_extractor_have_their_own_cache_folder(picture_folder, toy_extractor, tmp_path):
    folder = picture_folder("photos", 12)
    run(folder, toy_extractor, tmp_path / "kept")
    (folder / "000.png").write_bytes((folder / "001.png").read_bytes())
    _, made = run(folder, toy_extractor, tmp_path / "kept")
    assert len(made) == 12
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_caching_features_of_a_stream_is_refused(toy_extractor, tmp_path):
    stream = ImageSet({"path": "-"}, None, lambda _: iter(()))
    with pytest.raises(UsageError, match=r"--keep-features .*: a stream cannot be recognized again; pass a file"):
        FeatureCache(tmp_path, stream, toy_extractor)


def test_a_file_in_the_folders_place_is_refused(picture_folder, toy_extractor, tmp_path):
    (tmp_path / "kept").write_text("x")
    with pytest.raises(UsageError, match=r"--keep-features .*kept: is a file; expected a folder"):
        FeatureCache(tmp_path / "kept", open_images(str(picture_folder("a"))), toy_extractor)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from hdit_core.evaluate import feature_batch as chunks, score, settings
from hdit_core.evaluate.extractors.extractor import Extractor

chunks.IMAGES_PER_CHUNK = 8
weights = torch.randn(5, 192, generator=torch.Generator().manual_seed(1)) / 100
toy = Extractor("toy", "fd-toy", "kd-toy", 5, 8, 4, "0" * 64, lambda x: x.flatten(1) @ weights.T, torch.device("cpu"))
score.open_extractor = lambda *_: toy
wanted = settings.ScoreSettings(*sys.argv[1:3], device="cpu", keep_features=Path(sys.argv[3]))
score.score(wanted, lambda done, total: done < 20 or os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_evaluation_resumes(picture_folder, toy_extractor, tmp_path, monkeypatch, caplog):
    """After a SIGKILL in the middle, the score equals that of an uninterrupted evaluation."""
    sets = [str(picture_folder("light", 30, seed=1)), str(picture_folder("dark", 6, seed=2))]
    command = [sys.executable, "-c", KILLED, *sets, str(tmp_path / "kept")]
    killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    monkeypatch.setattr(score_module, "open_extractor", lambda *_: toy_extractor)
    caplog.set_level("INFO", "hdit")
    settings = ScoreSettings(*sets, device="cpu")
    resumed = score(replace(settings, keep_features=tmp_path / "kept"))
    assert "has the features of 2 chunks" in caplog.text
    whole = score(settings)
    assert resumed.to_json() == whole.to_json()
