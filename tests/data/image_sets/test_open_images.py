"""Folders, archives and data sets as sets of images to score, and files that are skipped."""

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.data.image_sets.open_images import open_images
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.features.measure import measure


def measured(location, extractor, n=None, seed=0, batch_size=None):
    return measure(open_images(str(location), n, seed), extractor, batch_size)


def assert_same_set(a, b):
    assert a.statistics.fingerprint == b.statistics.fingerprint
    torch.testing.assert_close(a.statistics.mean, b.statistics.mean, rtol=1e-6, atol=1e-6)
    spread = float(b.statistics.covariance.abs().max())
    torch.testing.assert_close(a.statistics.covariance, b.statistics.covariance, rtol=0, atol=1e-6 * spread)
    torch.testing.assert_close(a.statistics.features, b.statistics.features, rtol=1e-5, atol=1e-6)


def test_a_folder_its_zip_and_its_data_set_have_the_same_images(picture_folder, toy_extractor, tmp_path):
    folder = picture_folder("photos")
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), "zip", folder))
    prepare_data(PrepareSettings(str(folder), tmp_path / "data", (10, 12)))
    from_folder = measured(folder, toy_extractor)
    assert_same_set(measured(archive, toy_extractor), from_folder)
    from_data_set = measured(tmp_path / "data", toy_extractor)
    assert_same_set(from_data_set, from_folder)
    assert from_folder.source["size"] == "10x12" and from_folder.statistics.n == 12
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert from_data_set.source["root"] == manifest["root"]


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_measurement_does_not_depend_on_batches_or_file_names(picture_folder, toy_extractor, tmp_path, batch_size):
    folder = picture_folder("photos")
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for place, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        shutil.copy(path, renamed / f"{place}.PNG")
    assert_same_set(measured(renamed, toy_extractor, batch_size=batch_size), measured(folder, toy_extractor))


def test_a_grey_image_is_the_same_however_its_file_stores_it(picture_folder, toy_extractor, tmp_path):
    grey = picture_folder("grey", channels=1)
    (tmp_path / "rgb").mkdir()
    for path in grey.iterdir():
        Image.open(path).convert("RGB").save(tmp_path / "rgb" / path.name)
    in_grey, in_rgb = measured(grey, toy_extractor), measured(tmp_path / "rgb", toy_extractor)
    assert_same_set(in_grey, in_rgb)
    assert in_grey.source["num_grey"] == in_rgb.source["num_grey"] == 12


def test_images_of_several_sizes_are_a_set_of_mixed_size(picture_folder, toy_extractor):
    folder = picture_folder("photos", count=3)
    Image.new("RGB", (5, 9)).save(folder / "other.png")
    assert measured(folder, toy_extractor).source["size"] == "mixed"


def test_a_subset_of_the_images_is_drawn_by_seed_and_not_the_first_ones(picture_folder, toy_extractor):
    folder = picture_folder("photos", count=30)
    prints = {measured(folder, toy_extractor, 5, seed).statistics.fingerprint for seed in (0, 0, 1, 2)}
    assert len(prints) == 3
    chosen = measured(folder, toy_extractor, 5, 0)
    assert chosen.statistics.n == 5 and chosen.source["subset_seed"] == 0


def test_files_that_hdit_sample_adds_to_its_images_are_not_scored(picture_folder, toy_extractor):
    folder = picture_folder("samples", count=4)
    expected = measured(folder, toy_extractor).statistics.fingerprint
    Image.new("RGB", (60, 60)).save(folder / "grid.png")
    (folder / "samples.json").write_text("{}")
    found = measured(folder, toy_extractor)
    assert found.statistics.fingerprint == expected and found.remarks == ()


def test_files_without_an_image_suffix_are_skipped_and_counted(picture_folder, toy_extractor):
    folder = picture_folder("photos", count=4)
    (folder / "clip.mp4").write_text("a")
    (folder / "latents.npz").write_text("b")
    (folder / "labels.csv").write_text("c")
    assert "skipped 2 files without the name of an image" in measured(folder, toy_extractor).remarks[0]


def test_jpeg_samples_are_noted(picture_folder, toy_extractor):
    folder = picture_folder("photos", count=4, ending=".jpg")
    assert "JPEG compression of 4 images changes the score" in measured(folder, toy_extractor).remarks[0]


def test_a_truncated_image_is_named(picture_folder, toy_extractor):
    folder = picture_folder("photos")
    (folder / "005.png").write_bytes((folder / "005.png").read_bytes()[:-40])
    with pytest.raises(DataError, match=r"photos: 005\.png: cannot be scored \(.*\); remove or replace it"):
        measured(folder, toy_extractor)


def test_text_under_the_name_of_an_image_is_named(picture_folder, toy_extractor):
    folder = picture_folder("photos")
    (folder / "005.png").write_text("hello")
    with pytest.raises(DataError, match=r"005\.png: cannot be scored \(not an image of a known format\)"):
        measured(folder, toy_extractor)


def test_an_empty_file_is_named(picture_folder, toy_extractor):
    folder = picture_folder("photos")
    (folder / "005.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"005\.png: empty file; remove or replace it"):
        measured(folder, toy_extractor)


def test_a_damaged_member_of_an_archive_is_named(toy_extractor, tmp_path):
    png = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.uint8)).save(png, "PNG")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in ("a.png", "b.png", "c.png"):
            archive.writestr(name, png.getvalue())
    content = bytearray((tmp_path / "photos.zip").read_bytes())
    content[content.find(b"c.png") + 60] ^= 1
    (tmp_path / "photos.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"photos\.zip: c\.png: cannot be read \(damaged in the archive"):
        measured(tmp_path / "photos.zip", toy_extractor)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no images in it; expected files such as"):
        open_images(str(tmp_path))


def test_more_images_than_there_are_is_an_error(picture_folder):
    with pytest.raises(DataError, match="--count 13: it has only 12 images"):
        open_images(str(picture_folder("photos")), 13)


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no such folder, archive or built-in data set"):
        open_images(str(tmp_path / "nowhere"))


def test_progress_is_reported_after_every_batch(picture_folder, toy_extractor):
    told = []
    measure(open_images(str(picture_folder("photos"))), toy_extractor, 5, lambda *count: told.append(count))
    assert told == [(5, 12), (10, 12), (12, 12)]


def test_images_are_read_only_a_little_ahead_of_the_network(toy_extractor):
    """A set that is generated while it is scored is never completely in memory."""
    drawn, most_ahead, done = 0, 0, 0

    def readers():
        nonlocal drawn, most_ahead
        for index in range(300):
            drawn += 1
            most_ahead = max(most_ahead, drawn - done)
            yield lambda index=index: np.full((4, 6, 1), index % 256, np.uint8)

    def on_progress(so_far, _):
        nonlocal done
        done = so_far

    measure(ImageSet({"path": "drawn"}, 300, lambda places: readers()), toy_extractor, 4, on_progress)
    assert done == 300 and most_ahead <= 80


def test_a_named_set_is_a_set_of_images_whatever_its_file_names(toy_extractor):
    found = measured("mnist", toy_extractor, n=20)
    assert (found.source["kind"], found.source["num_grey"], found.source["size"]) == ("named set", 20, "28x28")
    assert found.remarks == ()


def test_a_set_that_shrinks_while_it_is_read_is_an_error(toy_extractor):
    images = ImageSet({"path": "x"}, 9, lambda places: ((lambda: np.zeros((4, 6, 1), np.uint8)) for _ in range(5)))
    with pytest.raises(DataError, match="x: only 5 of 9 images were read; has it changed"):
        measure(images, toy_extractor, 2)


def test_the_identity_of_an_archive_changes_when_it_does(tmp_path):
    """Uncompressed images have equal sizes, and hdit's own tars equal times."""

    def written(level):
        content = io.BytesIO()
        Image.fromarray(np.full((4, 5, 3), level, np.uint8)).save(content, "BMP")
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            member = tarfile.TarInfo("0.bmp")
            member.size = len(content.getvalue())
            archive.addfile(member, io.BytesIO(content.getvalue()))
        return open_images(str(tmp_path / "a.tar")).identity

    first = written(0)
    assert first == open_images(str(tmp_path / "a.tar")).identity != written(255)


def test_the_identity_of_samples_changes_with_the_range_of_their_values(tmp_path):
    np.save(tmp_path / "0.npy", np.zeros((4, 5, 3), np.float32))
    identities = set()
    for high in (1, 2):
        record = {"origin": {"pixels": {"dtype": "float32", "range": [[0, high]]}}}
        (tmp_path / "samples.json").write_text(json.dumps(record))
        identities.add(open_images(str(tmp_path)).identity)
    assert len(identities) == 2
