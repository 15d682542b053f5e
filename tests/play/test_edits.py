"""Edits of the page equal those of the commands that it shows for them."""

import base64
import contextlib
import io
import threading

import numpy as np
import pytest
from PIL import Image

from hdit_cli.main import main
from hdit_core.errors import DataError, UsageError
from hdit_core.images import to_uint8
from hdit_core.play import edits
from hdit_core.play.live_sampling import watch
from hdit_core.play.request import read_form


@pytest.fixture
def picture(tmp_path):
    """Return the path of a picture that is larger than the network's images."""
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def asked(models, values):
    """Return the denoiser and what is asked of it."""
    denoiser = models.open("digits", "ema")
    return denoiser, read_form(values, denoiser.recipe)


def last_images(make_job):
    *_, last = watch(make_job, threading.Event())
    return last.images


def assert_equal_to(images, folder):
    for index, image in enumerate(images):
        assert np.array_equal(image, np.asarray(Image.open(folder / f"{index:08d}.png")))


def painted(mask):
    """Return a mask as the browser sends it: light where it is painted, transparent elsewhere."""
    rgba = np.zeros((*mask.shape, 4), np.uint8)
    rgba[mask] = (255, 79, 216, 255)
    content = io.BytesIO()
    Image.fromarray(rgba).save(content, "PNG")
    return edits.DATA_URL + base64.b64encode(content.getvalue()).decode()


def folder_of_command(edit, asked, run, folder):
    """Run the command that the page shows for an edit, and return the folder of its images."""
    for name, content in edit.command.files.items():
        (folder / name).write_bytes(content)
    words = edit.command.line(str(run), None, asked[1], asked[0].recipe.sample)
    with contextlib.chdir(folder):
        assert main(words[1:]) == 0
    return folder / "samples" / edit.command.folder


def test_variations_equal_those_of_hdit_edit_vary(picture, asked, run, tmp_path):
    image = edits.uploaded_image(picture, asked[0]).image
    edit = edits.vary(*asked, image, 0.7)
    images = last_images(edit.make_job)
    assert_equal_to(images, folder_of_command(edit, asked, run, tmp_path))
    words = ["edit", "vary", "--init", str(picture), "--ckpt", str(run), "--strength", "0.7", "--count", "3"]
    assert main([*words, "--seed", "3", "--steps", "3", "--out", str(tmp_path / "v")]) == 0
    assert_equal_to(images, tmp_path / "v")


def test_inpainted_images_equal_those_of_hdit_edit_inpaint(picture, asked, run, tmp_path):
    mask = np.zeros((16, 24), bool)
    mask[4:9, 5:20] = True
    image = edits.uploaded_image(picture, asked[0]).image
    found = edits.painted_mask(painted(mask), (16, 24))
    assert np.array_equal(found, mask)
    edit = edits.inpaint(*asked, image, found, 2)
    images, image_u8 = last_images(edit.make_job), to_uint8(image[None])[0]
    assert_equal_to(images, folder_of_command(edit, asked, run, tmp_path))
    assert np.array_equal(images[0][~mask], image_u8[~mask]) and not np.array_equal(images[0][mask], image_u8[mask])


def test_an_interpolation_equals_that_of_hdit_edit_interpolate(asked, run, tmp_path):
    edit = edits.interpolate(*asked, 1, 5, 4)
    assert_equal_to(last_images(edit.make_job), folder_of_command(edit, asked, run, tmp_path))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "nothing is painted"),
        ("", "nothing is painted"),
        ("data:image/svg+xml;base64,AAAA", "nothing is painted"),
        (edits.DATA_URL + "????", "the painted mask is no PNG"),
        (edits.DATA_URL + "AAAA", "the painted mask is no PNG"),
        (painted(np.zeros((16, 24), bool)), "nothing is painted"),
    ],
)
def test_an_invalid_mask_is_one_line(mask, message):
    with pytest.raises(UsageError, match=message):
        edits.painted_mask(mask, (16, 24))


def test_an_upload_that_is_no_image_is_named_without_its_folder(asked, tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("no image")
    with pytest.raises(DataError, match=r"^notes\.png: ") as problem:
        edits.uploaded_image(path, asked[0])
    assert str(tmp_path) not in str(problem.value)


def test_settings_of_edits_are_checked(asked, picture):
    image = edits.uploaded_image(picture, asked[0]).image
    with pytest.raises(UsageError, match=r"strength 1\.5: expected a number from 0 to 1"):
        edits.vary(*asked, image, 1.5)
    with pytest.raises(UsageError, match="rounds 0: expected a whole number from 1 to 20"):
        edits.inpaint(*asked, image, np.ones((16, 24), bool), 0)
    with pytest.raises(UsageError, match="frames 1: expected a whole number from 2 to 64"):
        edits.interpolate(*asked, 0, 1, 1)
    with pytest.raises(UsageError, match="from image nan: expected"):
        edits.interpolate(*asked, float("nan"), 1, 2)


def test_a_mask_that_is_no_text_of_base64_is_refused():
    with pytest.raises(UsageError, match="the painted mask is no PNG image"):
        edits.painted_mask(edits.DATA_URL + "\u00e9", (16, 24))


def test_more_frames_than_a_page_can_hold_are_refused(asked, monkeypatch):
    monkeypatch.setattr("hdit_core.play.request.MOST_PIXELS", 4 * 16 * 24)
    with pytest.raises(UsageError, match="frames 5: expected at most 4 of 16x24 at once"):
        edits.interpolate(*asked, 0, 1, 5)
    assert len(last_images(edits.interpolate(*asked, 0, 1, 4).make_job)) == 4
