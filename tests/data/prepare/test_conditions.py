"""Preparation with condition images, vectors and captions: each stays with its image in all cases."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.format.manifest import read_manifest
from hdit_core.data.format.verify import verify
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.prepare.array_task import ArrayTask
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import finish_data, prepare_data, prepare_task
from hdit_core.errors import DataError, UsageError
from tests.data.class_folders import bytes_of
from tests.data.killing import die_at
from tests.data.pairs import COUNT, DIM, pixels, vector, write_pairs


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "pairs")


def all_of(pairs, **changes):
    """Return the settings of all attachments of the images."""
    parts = {"condition": str(pairs / "masks"), "vectors": str(pairs / "vectors.csv"), "captions": True}
    return parts | changes


def contents_of(folder):
    """Return every sample by its name: image, condition image, vector, caption."""
    reader = ImageReader(folder)
    names = []
    for shard in reader.manifest.contents.shards:
        with tarfile.open(folder / shard.name) as tar:
            names += [json.load(tar.extractfile(one))["name"] for one in tar if one.name.endswith(".json")]
    return {
        name: (reader.read(number)[0], reader.condition(number), reader.vector(number), reader.caption(number))
        for number, name in enumerate(names)
    }


def rejects_of(folder):
    return {one["name"]: one["reason"] for one in map(json.loads, (folder / "rejects.jsonl").read_text().splitlines())}


def number_of(name):
    return int(name.rpartition("/")[2].partition(".")[0])


def test_every_part_stays_with_its_image(pairs, prepare, tmp_path):
    summary = prepare(pairs / "images", size=(16, 24), **all_of(pairs))
    assert (summary.images, summary.rejects) == (COUNT, 0)
    samples = contents_of(tmp_path / "set")
    assert len(samples) == COUNT
    for name, (image, condition, vector_, caption) in samples.items():
        number = number_of(name)
        np.testing.assert_array_equal(image, pixels(number))
        np.testing.assert_array_equal(condition, pixels(number)[..., :1])
        np.testing.assert_array_equal(vector_, np.float32(vector(number)))
        assert caption == (f"picture {number}, naïve" if number % 3 else None)
    contents = read_manifest(tmp_path / "set").contents
    assert (contents.format_version, contents.condition.channels, contents.condition.codec) == (3, 1, "png")
    assert (contents.vectors.dim, contents.captions) == (DIM, True)
    assert verify(tmp_path / "set", "deep").defects == ()


@pytest.mark.parametrize("crop", ["center", "random", "fit"])
@pytest.mark.parametrize("size", [(8, 8), (24, 16), (16, 24)])
def test_both_images_of_a_pair_get_the_same_crop_and_padding(pairs, prepare, tmp_path, crop, size):
    prepare(pairs / "images", size=size, crop=crop, **all_of(pairs), background=(7, 7, 7))
    for image, condition, *_ in contents_of(tmp_path / "set").values():
        np.testing.assert_array_equal(condition[..., 0], image[..., 0])


def test_a_condition_image_of_lower_resolution_shows_the_same_region(pairs, prepare, tmp_path):
    for number in range(COUNT):
        path = next((pairs / "masks").rglob(f"{number}.tiff"))
        Image.fromarray(pixels(number)[..., 0]).resize((12, 8), Image.Resampling.BOX).save(path)
    prepare(pairs / "images", size=(8, 8), crop="random", resize="area", **all_of(pairs))
    for image, condition, *_ in contents_of(tmp_path / "set").values():
        inside = slice(1, -1)  # a pixel of the small image covers two at the border of the crop
        difference = condition[..., 0].astype(int) - image[..., 0]
        assert np.abs(difference[inside, inside]).max() <= 4


def test_labels_are_resized_to_the_nearest_pixel(pairs, prepare, tmp_path):
    for path in (pairs / "masks").rglob("*.tiff"):
        Image.fromarray(np.where(pixels(0)[..., 0] > 20, 200, 3).astype(np.uint8)).save(path)
    prepare(pairs / "images", size=(7, 9), **all_of(pairs, condition_resize="nearest"))
    for _, condition, *_ in contents_of(tmp_path / "set").values():
        assert set(np.unique(condition)) == {3, 200}


def archive(folder, kind, prefix):
    buffer = io.BytesIO()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            for path in paths:
                file.write(path, f"{prefix}{path.relative_to(folder)}")
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if kind == "tar.gz" else "w") as file:
            for path in paths:
                file.add(path, f"{prefix}{path.relative_to(folder)}")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("prefix", ["", "around/all/"])
def test_archives_of_condition_images_give_the_same_set_as_their_folder(pairs, prepare, tmp_path, kind, prefix):
    prepare(pairs / "images", size=(16, 24), **all_of(pairs))
    path = pairs / f"masks.{kind}"
    path.write_bytes(archive(pairs / "masks", kind, prefix))
    prepare(pairs / "images", "other", size=(16, 24), **all_of(pairs, condition=str(path)))
    assert read_manifest(tmp_path / "other").root == read_manifest(tmp_path / "set").root


def test_an_archive_of_images_keeps_its_captions(pairs, prepare, tmp_path):
    prepare(pairs / "images", size=(16, 24), **all_of(pairs))
    (pairs / "images.zip").write_bytes(archive(pairs / "images", "zip", ""))
    prepare(pairs / "images.zip", "other", size=(16, 24), **all_of(pairs))
    assert read_manifest(tmp_path / "other").root == read_manifest(tmp_path / "set").root


def test_the_bytes_depend_neither_on_processes_nor_on_tasks(pairs, prepare, tmp_path):
    settings = all_of(pairs) | {"size": (16, 24), "shard_size": 4}
    prepare(pairs / "images", **settings)
    prepare(pairs / "images", "two", workers=2, **settings)
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "set")
    shared = PrepareSettings(str(pairs / "images"), tmp_path / "shared", **settings)
    for index in (2, 0, 1):
        prepare_task(shared, ArrayTask(index, 3))
    finish_data(shared)
    assert bytes_of(tmp_path / "shared") == bytes_of(tmp_path / "set")


@pytest.mark.slow
def test_preparation_killed_at_any_step_resumes_to_the_same_bytes(pairs, prepare, tmp_path):
    for path in (pairs / "images" / "cat" / "0.png", pairs / "masks" / "cat" / "0.tiff"):
        path.with_stem("999").write_bytes(path.read_bytes())
    with (pairs / "vectors.csv").open("a") as file:
        file.write("\ncat/999.png,1,2,3")
    settings = all_of(pairs) | {"size": (16, 24), "shard_size": 5, "drop_duplicates": True}
    prepare(pairs / "images", **settings)
    expected = bytes_of(tmp_path / "set")
    assert rejects_of(tmp_path / "set") == {"cat/999.png": "the same file as cat/0.png"}
    for name, (image, condition, found, _) in contents_of(tmp_path / "set").items():
        np.testing.assert_array_equal(condition[..., 0], image[..., 0])
        np.testing.assert_array_equal(found, np.float32(vector(number_of(name))))
    step, killed = 0, True
    while killed:
        step += 1
        attempt = PrepareSettings(str(pairs / "images"), tmp_path / f"set-{step}", **settings)
        killed = die_at(step, lambda attempt=attempt: prepare_data(attempt))
        prepare_data(attempt)
        assert bytes_of(attempt.out) == expected, step
    assert step > 15


def test_the_same_image_with_another_condition_image_is_not_a_duplicate(pairs, prepare, tmp_path):
    image = pairs / "images" / "cat" / "0.png"
    image.with_stem("900").write_bytes(image.read_bytes())
    (pairs / "masks" / "cat" / "900.tiff").write_bytes((pairs / "masks" / "cat" / "2.tiff").read_bytes())
    attachments = {"condition": str(pairs / "masks")}
    assert prepare(pairs / "images", size=(16, 24), **attachments, drop_duplicates=True).rejects == 0
    assert prepare(pairs / "images", "plain", size=(16, 24), drop_duplicates=True).rejects == 1
    with pytest.raises(UsageError, match=r"has condition images, this set has none.*cannot be compared"):
        prepare(pairs / "images", "more", size=(16, 24), not_in=(tmp_path / "set",))


def test_other_condition_images_or_vectors_are_another_set(pairs, prepare):
    prepare(pairs / "images", size=(16, 24), **all_of(pairs))
    assert prepare(pairs / "images", size=(16, 24), **all_of(pairs)).already_complete
    mask = pairs / "masks" / "cat" / "0.tiff"
    mask.write_bytes((pairs / "masks" / "cat" / "2.tiff").read_bytes() + b"\0")
    with pytest.raises(UsageError, match="already contains a data set made from other images"):
        prepare(pairs / "images", size=(16, 24), **all_of(pairs))
    with pytest.raises(UsageError, match="already contains a data set made from other images"):
        prepare(pairs / "images", size=(16, 24))


def bad_pair(pairs, name):
    """Damage one pair, and return the reason for which it is rejected."""
    mask = pairs / "masks" / "cat" / "4.tiff"
    table = pairs / "vectors.csv"
    if name == "missing":
        mask.unlink()
        return f"no condition image of its name, 'cat/4.*', in {pairs / 'masks'}"
    if name == "two":
        Image.new("L", (24, 16)).save(mask.with_suffix(".png"))
        return f"several condition images of its name in {pairs / 'masks'}: cat/4.png and cat/4.tiff"
    if name == "shape":
        Image.new("L", (24, 24)).save(mask)
        return (
            "its condition image has 24x24 pixels, the image 16x24; expected the same size, or a size of the same shape"
        )
    if name == "damaged":
        mask.write_bytes(mask.read_bytes()[:50])
        return "its condition image: "
    if name == "no vector":
        lines = [line for line in table.read_text().splitlines() if "cat/4" not in line]
        table.write_text("\n".join(lines))
        return "no vector in vectors.csv"
    table.write_text(table.read_text().replace("4.25", "nan"))
    return "its vector has nan at position 0; expected finite numbers"


@pytest.mark.parametrize("name", ["missing", "two", "shape", "damaged", "no vector", "nan"])
def test_a_bad_pair_is_a_reject_with_its_reason_and_the_others_are_kept(pairs, prepare, tmp_path, name):
    reason = bad_pair(pairs, name)
    summary = prepare(pairs / "images", size=(16, 24), **all_of(pairs))
    assert (summary.images, summary.rejects) == (COUNT - 1, 1)
    rejects = rejects_of(tmp_path / "set")
    assert list(rejects) == ["cat/4.png"] and rejects["cat/4.png"].startswith(reason)
    for name, (image, condition, *_) in contents_of(tmp_path / "set").items():
        np.testing.assert_array_equal(condition[..., 0], image[..., 0], name)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("file,v0\ncat/0.png,1,2", r"vectors.csv:2: a vector of 2 numbers, expected 1"),
        ("file,v0\ncat/0.png,one", r"vectors.csv:2: expected numbers, found 'one'"),
        ("a,b\n1,2", r"vectors.csv:1: expected a column 'file'"),
        ("file,v0\ncat/0.png,1\ncat/0,2", r"'cat/0.png' has two vectors"),
        ("file,v0\nbird/0.png,1", r"names no file of the source: it has names such as 'bird/0.png'"),
        ("file,v0\ncat/0.png,", r"vectors.csv:2: expected numbers"),
    ],
)
def test_a_table_of_vectors_that_contradicts_itself_is_refused_in_one_line(pairs, prepare, text, problem):
    (pairs / "vectors.csv").write_text(text)
    with pytest.raises(DataError, match=problem):
        prepare(pairs / "images", **all_of(pairs))


def test_vectors_come_from_an_array_and_a_file_with_the_names_of_its_rows(pairs, prepare, tmp_path):
    order = [5, 3, 0, 1, 2, 4, 8, 7, 6]
    np.save(pairs / "v.npy", np.array([vector(number) for number in order]))
    with pytest.raises(UsageError, match=r"needs the names of its rows, one a line, in .*v\.txt"):
        prepare(pairs / "images", vectors=str(pairs / "v.npy"))
    (pairs / "v.txt").write_text("\n".join(f"{('cat', 'dog')[number % 2]}/{number}" for number in order))
    prepare(pairs / "images", size=(16, 24), vectors=str(pairs / "v.npy"))
    for name, (_, condition, found, _) in contents_of(tmp_path / "set").items():
        assert condition is None
        np.testing.assert_array_equal(found, np.float32(vector(number_of(name))))
    assert prepare(pairs / "images", size=(16, 24), vectors=str(pairs / "v.npy")).already_complete
    (pairs / "v.txt").write_text("\n".join(reversed((pairs / "v.txt").read_text().split("\n"))))
    with pytest.raises(UsageError, match="already contains a data set made from other images"):
        prepare(pairs / "images", size=(16, 24), vectors=str(pairs / "v.npy"))
    (pairs / "v.txt").write_text("cat/0")
    with pytest.raises(DataError, match=r"has 9 rows, v\.txt 1 names; expected as many"):
        prepare(pairs / "images", vectors=str(pairs / "v.npy"))


def test_options_that_need_a_missing_option_are_refused(pairs, prepare):
    with pytest.raises(UsageError, match=r"--condition-...: there are no condition images"):
        prepare(pairs / "images", condition_channels=1)
    with pytest.raises(DataError, match=r"--captions: 'masks' has no captions"):
        prepare(pairs / "masks", captions=True)
    (pairs / "empty").mkdir()
    with pytest.raises(DataError, match=r"no image of SOURCE has a readable condition image in it"):
        prepare(pairs / "images", condition=str(pairs / "empty"))


def test_sizes_by_bucket_keep_each_pair_and_vector_together(pairs, prepare, tmp_path):
    for number in (1, 4):
        for path in (*pairs.rglob(f"{number}.png"), *pairs.rglob(f"{number}.tiff")):
            with Image.open(path) as image:
                image.transpose(Image.Transpose.ROTATE_90).save(path)
    sizes = ((16, 24), (24, 16))
    prepare(pairs / "images", size=sizes[0], buckets=sizes, **all_of(pairs), shard_size=4)
    for name, (image, condition, found, _) in contents_of(tmp_path / "set").items():
        np.testing.assert_array_equal(condition[..., 0], image[..., 0])
        np.testing.assert_array_equal(found, np.float32(vector(number_of(name))))
