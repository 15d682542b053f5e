"""Text of users and files cannot become HTML, and images are in the page itself."""

import base64
import io

import numpy as np
from PIL import Image

from hdit_core.play.live_sampling import Frame
from hdit_core.play.page import markup


def frame(side, is_last):
    images = [np.full((side, side, 3), value, np.uint8) for value in (10, 200)]
    return Frame(images, ["image 0, class 7", "image 1, class 8"], [0, 1], "2 of 2 images", is_last)


def test_text_is_escaped_and_is_one_line():
    line = markup.status("<script>\nalert(1)</script>", error=True)
    assert "<script" not in line and "\n" not in line and 'role="alert"' in line
    assert "<b>" not in markup.command_line(["hdit", "<b>"])


def test_the_arguments_of_a_command_are_quoted_for_the_shell():
    assert "--ckpt &#x27;runs/my faces&#x27;</code>" in markup.command_line(["hdit", "--ckpt", "runs/my faces"])


def test_finished_images_link_to_their_exact_pixels():
    text = markup.pictures(frame(8, True))
    url = text.partition('href="')[2].partition('"')[0]
    saved = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert np.array_equal(np.asarray(saved), np.full((8, 8, 3), 10))
    assert 'download="image-1-class-8.png"' in text and 'alt="image 1, class 8"' in text and "small" in text


def test_small_images_are_enlarged_by_a_whole_factor():
    assert 'class="pictures small" style="--width: 128px"' in markup.pictures(frame(64, True))
    assert 'class="pictures small" style="--width: 112px"' in markup.pictures(frame(28, True))
    assert 'class="pictures"' in markup.pictures(frame(256, True))
    assert 'class="brush small" style="--width: 384px"' in markup.brush_canvas(
        np.zeros((32, 16, 3), np.uint8).repeat(2, 1)
    )


def test_unfinished_images_are_small_and_have_no_link():
    text = markup.pictures(frame(1024, False))
    assert "<a " not in text and len(text) < 20_000
    url = text.partition('src="')[2].partition('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (markup.PREVIEW_PX,) * 2


def test_a_run_without_a_log_or_grids_says_so():
    assert "nothing is logged yet" in markup.charts([])
    assert "no sample grid yet" in markup.sheet(None, "samples")
