"""Editing in a real browser: a mask painted with the keyboard and with the pointer, interpolation, comparison."""

import numpy as np
import pytest

from hdit_core.play.edits import painted_mask
from hdit_core.play.page.markup import REGIONS
from tests.play.page.browser_page import fits, press_tab_until, shown_images, status_of


@pytest.mark.parametrize(
    "width", [pytest.param(1280, id="desktop", marks=pytest.mark.slow), pytest.param(390, id="phone")]
)
def test_an_image_is_sampled_painted_and_inpainted_with_the_keyboard_alone(width, open_page):
    page = open_page(width)
    press_tab_until(page, "#sample")
    page.keyboard.press("Enter")
    original = shown_images(page, "#sample-images")[0]
    press_tab_until(page, "[role=tab]", "Shift+Tab", "Edit")
    page.keyboard.press("Enter")
    press_tab_until(page, "#use-sample")
    page.keyboard.press("Enter")
    page.locator(".brush canvas").wait_for()
    press_tab_until(page, ".brush canvas", "Shift+Tab")
    for key in ("ArrowLeft", " ", "ArrowLeft", " ", "x", "ArrowUp", " "):
        page.keyboard.press(key)
    press_tab_until(page, "#inpaint")
    page.keyboard.press("Enter")
    images = shown_images(page, "#edit-images")
    page.locator("#stop-edit:disabled").wait_for()
    differs = (images[0] != original).any(-1)
    assert differs.any() and not differs[:, 14:].any() and not differs[-4:].any() and fits(page)


def paint_stroke(page):
    """Paint from the left edge to the middle of the image, at half of its height."""
    canvas = page.locator(".brush canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()


def painted_pixels(page):
    """Return how many pixels of the canvas show paint."""
    return page.evaluate(
        """() => {
            const canvas = document.querySelector(".brush canvas");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return data.filter((value, index) => index % 4 === 3 && value > 0).length;
        }"""
    )


@pytest.mark.parametrize("how", ["button", "image"])
def test_the_mask_is_cleared_by_its_button_and_by_another_image(how, open_page):
    page = open_page(1280)
    page.get_by_label("Images").fill("2")
    page.get_by_role("button", name="Sample", exact=True).click()
    shown_images(page, "#sample-images")
    page.get_by_role("tab", name="Edit").click()
    page.locator("#use-sample").click()
    page.locator(".brush canvas").wait_for()
    paint_stroke(page)
    assert painted_pixels(page) > 0
    if how == "button":
        page.locator("#clear").click()
    else:
        page.locator("#sample-number input").fill("1")
        page.locator("#use-sample").click()
        status_of(page, "edit-image", "image 1")
    page.wait_for_function("document.querySelector('.brush canvas').dataset.painted === undefined")
    assert painted_pixels(page) == 0
    page.locator("#inpaint").click()
    assert status_of(page, "edit", "nothing is painted")
    page.locator("#use-sample").click()
    page.locator("#edit-status .error").wait_for(state="detached")


@pytest.mark.slow
def test_the_painted_stroke_is_inpainted(open_page):
    page = open_page(390)
    page.get_by_role("button", name="Sample", exact=True).click()
    original = shown_images(page, "#sample-images")[0]
    page.get_by_role("tab", name="Edit").click()
    page.locator("#use-sample").click()
    page.locator(".brush canvas").wait_for()
    paint_stroke(page)
    page.locator("#inpaint").click()
    differs = (shown_images(page, "#edit-images")[0] != original).any(-1)
    page.locator("#edit-command code", has_text="hdit edit inpaint image.png mask.png").wait_for()
    page.wait_for_function("document.querySelector('#edit-result').getBoundingClientRect().top < innerHeight / 2")
    assert differs[8, 2:9].all() and not differs[:4].any() and not differs[:, 14:].any()


def test_regions_are_added_exactly_and_erased(open_page):
    page = open_page(390)
    page.get_by_role("button", name="Sample", exact=True).click()
    shown_images(page, "#sample-images")
    page.get_by_role("tab", name="Edit").click()
    page.locator("#use-sample").click()
    page.locator(".brush canvas").wait_for()
    for region, (left, upper, right, lower) in REGIONS.items():
        page.locator("#clear").click()
        page.wait_for_function("document.querySelector('.brush canvas').dataset.painted === undefined")
        page.locator("#fill").get_by_role("button", name=region).click()
        expected = np.zeros((16, 24), bool)
        expected[int(16 * upper) : int(16 * lower), int(24 * left) : int(24 * right)] = True
        assert np.array_equal(painted_mask(page.evaluate("window.hditMask()"), (16, 24)), expected), region
    page.locator("#erase input").check()
    page.locator("#fill").get_by_role("button", name="right half").click()
    assert painted_pixels(page) == 8 * 12
    paint_stroke(page)
    assert painted_pixels(page) < 8 * 12 and fits(page)


@pytest.mark.slow
def test_two_samples_are_interpolated_with_a_slider_and_two_checkpoints_compared(open_page):
    page = open_page(1280)
    page.get_by_role("tab", name="Edit").click()
    page.get_by_role("tab", name="Interpolate").click()
    page.get_by_label("Frames").fill("3")
    page.locator("#interpolate").click()
    page.locator("#interpolate-image", has_text="frame 2 of 3").wait_for()
    page.locator("#frame input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#interpolate-image", has_text="frame 3 of 3").wait_for()
    assert page.locator("#frame input[type=range]").input_value() == "3"
    assert len(shown_images(page, "#frames")) == 3
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("Model, right").click()
    page.get_by_role("option", name="digits, step 4").click()
    page.locator("#compare").click()
    left, right = shown_images(page, "#left-images"), shown_images(page, "#right-images")
    assert len(left) == len(right) and not np.array_equal(left[0], right[0])
    page.set_viewport_size({"width": 390, "height": 800})
    tops = [page.locator(f"#{side}-images img").first.bounding_box()["y"] for side in ("left", "right")]
    assert tops[0] == tops[1] and fits(page)
