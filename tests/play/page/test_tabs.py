"""The actions of the page's buttons, without a browser."""

import html
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_cli.main import main
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.images import png_bytes
from hdit_core.play.live_sampling import Frame
from hdit_core.play.page.compare_tab import CompareTab
from hdit_core.play.page.edit_tab import EditTab, show_frame
from hdit_core.play.page.markup import png_url
from hdit_core.play.page.run_tab import RunTab
from hdit_core.play.page.sample_tab import SampleTab, show_moment
from hdit_core.play.page.settings_panel import class_choices
from hdit_core.play.page.tab_context import Page


@pytest.fixture
def page(models):
    return Page(models)


def unbuilt(kind, **attributes):
    """Return a tab without its components."""
    tab = kind.__new__(kind)
    tab.__dict__.update(attributes)
    return tab


def text_of(line):
    """Return the text of a line of HTML, and whether it is an error."""
    return html.unescape(re.sub(r"<[^>]+>", "", line)), 'role="alert"' in line


def words_of(command):
    """Return the words of a command that is shown."""
    return shlex.split(html.unescape(re.search("<code>(.*)</code>", command)[1]))


def test_samples_are_shown_with_the_command_that_gives_the_same_pixels(page, values, tmp_path, run):
    asked = values | {
        "class": "2",
        "guidance": 1.23456789,
        "low": "0.123456789",
        "schedule": "exponential",
        "sampler": "euler",
    }
    *_, (line, images, command, frame, _) = unbuilt(SampleTab, page=page).sample(asked, "me")
    assert text_of(line) == ("3 of 3 images", False)
    assert images.count("<a href=") == 3 and 'download="image-2-class2.png"' in images
    words = words_of(command)
    assert words[:4] == ["hdit", "sample", "--ckpt", str(run)]
    assert "1.23456789" in words and "0.123456789:80" in words, "all digits"
    assert main([*words[1:], "--out", str(tmp_path / "s")]) == 0
    for index, image in enumerate(frame.images):
        assert np.array_equal(image, np.asarray(Image.open(tmp_path / "s" / f"{index:08d}.png")))


def test_classes_without_names_are_offered_by_their_numbers():
    labels = [label for label, _ in class_choices(3, ("cat", "1"))]
    assert labels == ["each class in turn", "cat (0)", "class 1", "class 2", "no class (unconditional)"]
    assert [value for _, value in class_choices(2, ())] == ["in turn", "0", "1", "2"]


def test_the_trajectory_of_the_samples_can_be_shown_again(page, values):
    *_, (line, images, _, frame, slider) = unbuilt(SampleTab, page=page).sample(values | {"steps": 5}, "me")
    assert (slider.minimum, slider.maximum, slider.value) == (1, 6, 6)  # five steps, and the images
    assert show_moment(frame, 6) == (line, images) == show_moment(frame, 99)
    text, first = show_moment(frame, 1)
    assert text_of(text)[0] == "step 1 of 5, noise level 80"
    assert "<a " not in first and first.count("<img") == 3 and first != show_moment(frame, 5)[1]
    assert show_moment(None, 1) == ({"__type__": "update"},) * 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": float("nan")}, "seed nan: expected a whole number"),
        ({"weights": "0.2"}, "has no EMA of length 0.200"),
        ({"guidance": 1e300}, "NaN or infinite"),
    ],
)
def test_an_error_or_nan_is_one_line_and_the_images_stay(wrong, message, page, values):
    *_, last = unbuilt(SampleTab, page=page).sample(values | wrong, "me")
    text, is_error = text_of(last[0])
    assert message in text and is_error and "Traceback" not in text and "\n" not in text
    assert last[1] == {"__type__": "update"}  # nothing changes


def test_an_error_of_hdit_itself_is_one_line_and_its_details_are_logged(page, values, monkeypatch, caplog):
    monkeypatch.setattr(page.models, "open", lambda *_: 1 / 0)
    *_, last = unbuilt(SampleTab, page=page).sample(values, "me")
    assert text_of(last[0]) == ("internal error (ZeroDivisionError); its details are in the terminal", True)
    assert "ZeroDivisionError" in caplog.text


def test_a_user_stops_a_computation(page, values):
    updates = unbuilt(SampleTab, page=page).sample(values | {"steps": 1000}, "me")
    next(updates)
    next(updates)  # it runs
    page.sessions.stop("me")
    *_, last = updates
    assert text_of(last[0]) == ("stopped", False)


def test_two_kinds_of_weights_are_compared_with_the_same_seed(page, values, tmp_path):
    sides = {"left model": "digits", "left weights": "ema", "right model": "digits, step 4", "right weights": "model"}
    *_, (line, left, right, *commands) = unbuilt(CompareTab, page=page).compare(values | sides, "me")
    assert text_of(line)[0] == "left: digits, EMA; right: digits, step 4, raw (model); the same seed and settings"
    assert left != right and left.count("<a href=") == 3 == right.count("<a href=")
    for shown, command, side in zip((left, right), commands, ("left", "right"), strict=True):
        words = words_of(command)
        assert words[words.index("--out") + 1] == f"samples/{side}"
        assert words[words.index("--weights") + 1] == sides[f"{side} weights"]
        assert main([*words[1:], "--out", str(tmp_path / side)]) == 0
        for index in range(3):
            assert png_url(png_bytes(np.asarray(Image.open(tmp_path / side / f"{index:08d}.png")))) in shown
    *_, (line, *_) = unbuilt(CompareTab, page=page).compare(values | sides | {"right model": "/etc"}, "me")
    assert text_of(line) == (
        "model /etc: there is no such model now; reload the page to see those that there are",
        True,
    )


def test_a_sample_is_varied_and_inpainted(page, values):
    tab = unbuilt(EditTab, page=page)
    *_, frame = unbuilt(SampleTab, page=page).sample(values, "me")
    line, canvas, image = tab.take_sample(frame[3], 2)
    assert text_of(line)[0] == "image 2, class2" and '<canvas width="24" height="16"' in canvas
    *_, (line, images, command) = tab.vary(values | {"image": image, "strength": 0.0}, "me")
    assert text_of(line)[0] == "3 of 3 images"
    assert words_of(command)[:4] == ["hdit", "edit", "vary", "image.png"] and 'download="image.png"' in command
    painted = png_url(png_bytes(np.full((16, 24, 1), 255, np.uint8)))
    *_, (line, images, command) = tab.inpaint(values | {"image": image, "rounds": 1, "mask": painted}, "me")
    assert images.count("<a href=") == 3
    assert words_of(command)[:5] == ["hdit", "edit", "inpaint", "image.png", "mask.png"]
    assert 'Save its <a href="' in command and 'download="mask.png"' in command
    *_, (line, _, command) = tab.inpaint(values | {"image": image, "rounds": 1, "mask": ""}, "me")
    assert text_of(line)[0].startswith("nothing is painted") and text_of(line)[1] and command == ""


def test_an_edit_of_an_image_in_other_depths_has_no_command(page, values, monkeypatch):
    monkeypatch.setattr("hdit_core.play.edits.pixel_format", lambda recipe: PixelFormat(3, "uint16"))
    asked = values | {"image": torch.zeros(3, 16, 24), "strength": 0.5}
    *_, (line, _, command) = unbuilt(EditTab, page=page).vary(asked, "me")
    assert text_of(line)[0] == "3 of 3 images" and command == ""  # its PNG would have 8 bits


def test_an_image_that_is_missing_is_one_line(page, values, tmp_path):
    tab = unbuilt(EditTab, page=page)
    *_, (line, *_) = tab.vary(values | {"image": None, "strength": 0.5}, "me")
    assert text_of(line) == ("no image is chosen: upload one, or use a sample", True)
    assert text_of(tab.take_sample(None, 0)[0])[0].startswith("nothing is sampled yet")
    frame = Frame([np.zeros((16, 24, 3), np.uint8)], ["0"], [0], "1 of 1 images", True)
    assert text_of(tab.take_sample(frame, 5)[0])[0] == "image 5: expected a whole number from 0 to 0"
    (tmp_path / "bad.png").write_text("no image")
    assert text_of(tab.take_upload(str(tmp_path / "bad.png"))[0])[0].startswith("bad.png: ")


def test_an_upload_is_fitted_to_the_network(page, tmp_path):
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(tmp_path / "large.png")
    line, _, image = unbuilt(EditTab, page=page).take_upload(str(tmp_path / "large.png"))
    assert text_of(line)[0] == "large.png: cropped and resized from 50x50 to 16x24" and image.shape == (3, 16, 24)


def test_frames_of_an_interpolation_are_shown_one_by_one(page, values):
    asked = values | {"start": 0, "end": 4, "frames": 3}
    *_, (_, shown, strip, command, slider, frames) = unbuilt(EditTab, page=page).interpolate(asked, "me")
    assert len(frames) == 3 and "frame 2 of 3" in shown and strip.count("<a href=") == 3 and "frame 3<" in strip
    assert words_of(command)[:5] == ["hdit", "edit", "interpolate", "0", "4"] and "Save its" not in command
    assert (slider.minimum, slider.maximum, slider.value) == (1, 3, 2)  # the slider counts as the caption does
    assert show_frame(frames, 1) != show_frame(frames, 3) and show_frame(None, 1) == ""
    assert show_frame(frames, 99) == show_frame(frames, 3) and show_frame(frames, 2) == shown


def test_a_run_is_read_again_only_when_it_has_changed(run, tmp_path, monkeypatch):
    monkeypatch.setattr("hdit_core.play.run_view.curves_plot", lambda panels: b"a curve")
    copied = shutil.copytree(run, tmp_path / "run")
    tab = unbuilt(RunTab, run=copied)
    line, curves, _, grid, seen = tab.look(None, 1)
    assert text_of(line)[0].startswith("done, 64 of 64 images") and curves.count("<img") >= 4
    assert "samples after 64 images" in grid
    assert tab.look(seen, 2) == [{"__type__": "update"}] * 5
    (copied / "log.jsonl").open("a").write("\n")
    (copied / "grids" / "000000096.png").write_bytes((copied / "grids" / "000000064.png").read_bytes())
    assert "samples after 96 images" in tab.look(seen, 2)[3]  # the newest one was shown, and is again
    assert "samples after 32 images" in tab.look(seen, 1)[3]  # an older one was chosen, and stays


def test_a_run_that_is_gone_is_one_line_and_told_once(run, tmp_path, caplog):
    copied = shutil.copytree(run, tmp_path / "run")
    tab = unbuilt(RunTab, run=copied)
    *_, seen = tab.look(None, 1)
    shutil.rmtree(copied)
    line, *others, now = tab.look(seen, 1)
    assert text_of(line)[0].endswith("run: no such directory") and text_of(line)[1]
    assert others == [{"__type__": "update"}] * 3 and tab.look(now, 1) == [{"__type__": "update"}] * 5
