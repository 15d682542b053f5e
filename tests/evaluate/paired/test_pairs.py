"""Which images belong together, and what is refused."""

import io
import tarfile
import types

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.image_sets.open_images import open_images
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.paired.pairs import match


def found(pairs):
    return [(pair.name, pair.image().mean(), pair.original().mean()) for pair in pairs]


def test_images_of_the_same_name_are_pairs_whatever_their_extensions_and_order(picture_folder):
    a, b = picture_folder("a", 6), picture_folder("b", 6)
    (b / "002.png").rename(b / "z.png")
    (a / "002.png").rename(a / "z.webp")
    pairs = match(open_images(str(a)), open_images(str(b)))
    assert pairs.matched_by == "name" and [name for name, *_ in found(pairs)][-1] == "z.webp"
    assert all(mean == original for _, mean, original in found(pairs))


def test_names_in_another_order_are_matched_by_name_too(picture_folder):
    """Sorted with endings, a.b.png comes before a.png, and a.b.jpg after a.bmp."""
    a, b = picture_folder("a", 2), picture_folder("b", 2)
    for folder, names in ((a, ("x.png", "x-1.png")), (b, ("x.bmp", "x-1.tiff"))):
        (folder / "000.png").rename(folder / names[0])
        (folder / "001.png").rename(folder / names[1])
    (b / "y").mkdir()
    pairs = match(open_images(str(a)), open_images(str(b)))
    assert len(found(pairs)) == 2 and all(mean == original for _, mean, original in found(pairs))


def test_arrays_and_images_of_the_same_name_are_pairs(picture_folder, tmp_path):
    originals = picture_folder("b", 3)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "samples.json").write_text('{"origin": {"pixels": {"dtype": "uint8", "range": [[0, 255]]}}}')
    for path in originals.iterdir():
        np.save(tmp_path / "a" / f"{path.stem}.npy", np.asarray(Image.open(path)))
    pairs = match(open_images(str(tmp_path / "a")), open_images(str(originals)))
    assert pairs.matched_by == "name" and [name for name, *_ in found(pairs)] == ["000.npy", "001.npy", "002.npy"]
    assert all(mean == original for _, mean, original in found(pairs))


def test_an_image_without_a_partner_is_refused_on_either_side(picture_folder):
    a, b = open_images(str(picture_folder("a", 5))), open_images(str(picture_folder("b", 6)))
    expected = r"/b: 1 of 6 images have no partner of the same name in .*/a, the first is '005'"
    for one, other in ((a, b), (b, a)):
        with pytest.raises(DataError, match=expected):
            match(one, other)


def test_two_images_of_one_name_are_refused(picture_folder):
    a, b = picture_folder("a", 3), picture_folder("b", 3)
    (a / "000.jpg").write_bytes((a / "000.png").read_bytes())
    with pytest.raises(DataError, match="/a: has two images named '000', which differ in their endings only"):
        match(open_images(str(a)), open_images(str(b)))


def test_sets_without_names_are_matched_by_order_and_must_be_of_the_same_size(picture_folder, tmp_path):
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((4, 12, 12, 3), np.uint8))
    pairs = match(open_images(str(tmp_path / "x.npz")), open_images(str(picture_folder("b", 4))))
    assert pairs.matched_by == "order" and [name for name, *_ in found(pairs)][:2] == ["image 0", "image 1"]
    with pytest.raises(DataError, match=r"x\.npz: has 4 images, .*/c has 5; expected pairs in the same order"):
        match(open_images(str(tmp_path / "x.npz")), open_images(str(picture_folder("c", 5))))


@pytest.mark.parametrize(
    "count, message", [(4, "-: has 4 images, .*/b has more than 4"), (6, "more than 5 images, .*has 5")]
)
def test_a_stream_of_another_length_is_refused(picture_folder, monkeypatch, count, message):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(picture_folder("a", count), arcname="a")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    pairs = match(open_images("-"), open_images(str(picture_folder("b", 5))))
    with pytest.raises(DataError, match=message):
        found(pairs)


def test_a_subset_of_the_pairs_is_chosen_by_the_seed(picture_folder):
    a, b = open_images(str(picture_folder("a", 9))), open_images(str(picture_folder("b", 9)))
    draws = [[name for name, *_ in found(match(a, b, 4, seed))] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2] and len(draws[0]) == 4 and draws[0] == sorted(draws[0])
    with pytest.raises(DataError, match="/a: --count 10: there are only 9 pairs"):
        match(a, b, 10)


def test_a_subset_of_a_stream_is_refused(picture_folder):
    with pytest.raises(UsageError, match="--count 2: all images of a stream are scored; send only 2 of them"):
        match(open_images("-"), open_images(str(picture_folder("b", 3))), 2)


def test_a_stream_without_images_is_refused(picture_folder, monkeypatch):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w"):
        pass
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    pairs = match(open_images("-"), open_images(str(picture_folder("b", 2))))
    with pytest.raises(DataError, match=r"-: has 0 images, .*/b has more than 0; expected pairs in the same order"):
        list(pairs)
