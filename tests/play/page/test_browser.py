"""The page in a real browser: a headless Chromium, as wide as a desktop's window and as a phone."""

import base64
import io
import json
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from hdit_cli.main import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = {"desktop": 1280, "phone": 390}
TIMEOUT_MS = 20_000


@pytest.fixture(scope="module")
def browser():
    """A browser, or the reason why there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on the PATH; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Return a function that opens the page at a width; nothing may go wrong in it, or ask another server."""
    pages, problems = [], []

    def open_at(width):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: problems.append(request.url) if is_foreign(request.url) else None)
        page.goto(address)
        page.wait_for_function("window.hditMask !== undefined")  # the last thing that is loaded
        pages.append(page)
        return page

    def is_foreign(url):
        return not url.startswith((address, "data:", "blob:"))

    yield open_at
    for page in pages:
        page.close()
    assert problems == []


def press_tab_until(page, selector, key="Tab", text=""):
    """Press Tab, or another key, until an element with a text has the focus."""
    for _ in range(30):
        page.keyboard.press(key)
        focused = page.locator(f":focus{selector}" if selector.startswith(("#", "[")) else f"{selector}:focus")
        if focused.count() and text in focused.inner_text():
            return
    raise AssertionError(f"{selector} cannot be reached with Tab")


def fits(page):
    """Return whether nothing is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def shown_images(page, selector):
    """Return the pixels of the finished images."""
    links = page.locator(f"{selector} a")
    links.first.wait_for()
    urls = [link.get_attribute("href") for link in links.all()]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


def status_of(page, name, text):
    """Wait for a status line and return it."""
    page.locator(f"#{name}-status", has_text=text).wait_for()
    return page.locator(f"#{name}-status").inner_text()


def top_of(page, selector):
    """Return the distance of an element from the top of the page."""
    return page.locator(selector).bounding_box()["y"]


def test_the_settings_stand_between_tabs_and_button_on_a_phone_and_beside_them_elsewhere(open_page):
    page = open_page(390)
    assert page.locator("#stop").is_disabled() and fits(page)
    tops = [top_of(page, name) for name in ("[role=tab]:visible >> nth=0", "#class", "#sample", "#sample-status")]
    assert tops == sorted(tops) and len(set(tops)) == 4 and tops[-1] < 700  # on the first screen
    page.get_by_role("tab", name="Compare").click()
    assert top_of(page, "#class") < top_of(page, "#compare")
    page.set_viewport_size({"width": 1280, "height": 800})
    box, content = page.locator("#settings").bounding_box(), page.locator("#compare").bounding_box()
    assert box["x"] > content["x"] + content["width"] and abs(box["y"] - content["y"]) < 100


def test_classes_are_chosen_by_the_names_of_the_data_set(open_page):
    page = open_page(390)
    page.locator("#class input").click()
    page.locator("#class input").fill("class2")
    page.get_by_role("option", name="class2 (2)").click()
    page.get_by_label("Images").fill("1")
    page.get_by_role("button", name="Sample", exact=True).click()
    page.locator("#sample-images figcaption", has_text="image 0, class2").wait_for()
    assert "--class 2" in page.locator("#sample-command code").inner_text() and fits(page)


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_shown_pixels_are_those_of_the_command_below_them(width, open_page, tmp_path):
    page = open_page(width)
    page.get_by_label("Seed").fill("5")
    page.get_by_label("Images").fill("2")
    page.get_by_role("button", name="Sample", exact=True).click()
    images = shown_images(page, "#sample-images")
    assert len(images) == 2 and fits(page)
    command = shlex.split(page.locator("#sample-command code").inner_text())
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    page.locator("#moment input[type=range]").focus()
    page.keyboard.press("Home")
    assert "step 1 of" in status_of(page, "sample", "noise level")
    assert command[:2] == ["hdit", "sample"] and command[command.index("--seed") + 1] == "5"
    assert main([*command[1:], "--out", str(tmp_path / "s")]) == 0
    for index, image in enumerate(images):
        assert np.array_equal(image, np.asarray(Image.open(tmp_path / "s" / f"{index:08d}.png")))


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
    assert differs[8, 2:9].all() and not differs[:4].any() and not differs[:, 14:].any()


def test_stop_ends_a_long_computation_and_the_next_one_runs(open_page):
    page = open_page(1280)
    page.get_by_label("Steps").fill("1000")
    page.get_by_label("Images").fill("64")
    page.get_by_role("button", name="Sample", exact=True).click()
    page.locator("#sample-images img").first.wait_for()  # intermediate images
    assert "noise level" in status_of(page, "sample", "0 of 64 images")
    page.locator("#stop").click()
    assert status_of(page, "sample", "stopped") == "stopped"
    page.locator("#stop:disabled").wait_for()
    page.get_by_label("Steps").fill("2")
    page.get_by_label("Images").fill("1")
    page.get_by_role("button", name="Sample", exact=True).click()
    assert len(shown_images(page, "#sample-images")) == 1
    page.locator("#stop:disabled").wait_for()


def test_a_second_window_says_that_it_waits_and_stops_waiting(open_page):
    first, second = open_page(1280), open_page(1280)
    first.get_by_label("Steps").fill("1000")
    first.get_by_label("Images").fill("64")
    first.get_by_role("button", name="Sample", exact=True).click()
    status_of(first, "sample", "0 of 64 images")
    second.get_by_role("button", name="Sample", exact=True).click()
    status_of(second, "sample", "waiting: one computation runs at a time")
    second.locator("#stop").click()
    status_of(second, "sample", "stopped")
    second.locator("#stop:disabled").wait_for()
    assert first.locator("#stop").is_enabled()
    first.locator("#stop").click()
    status_of(first, "sample", "stopped")
    assert second.locator("#sample-images img").count() == 0


def test_errors_are_one_line(open_page):
    page = open_page(390)
    page.get_by_label("Seed").fill("-1")
    page.get_by_role("button", name="Sample", exact=True).click()
    assert status_of(page, "sample", "seed").startswith("seed -1: expected a whole number from 0 to")
    page.get_by_label("Seed").fill("")
    page.get_by_role("button", name="Sample", exact=True).click()
    assert status_of(page, "sample", "empty").startswith("seed (empty): expected")
    page.get_by_label("Seed").fill("0")
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("Guidance scale").fill("1e300")
    page.get_by_role("button", name="Sample", exact=True).click()
    assert "\n" not in status_of(page, "sample", "NaN or infinite") and fits(page)
    assert page.locator(".toast-wrap .error").count() == 0


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


@pytest.mark.slow
def test_the_run_is_shown_and_refreshed_while_it_trains(open_page, served_run):
    page = open_page(390)
    page.get_by_role("tab", name="Run").click()
    page.locator("#run-curves img").first.wait_for()
    assert status_of(page, "run", "images").startswith("done, 64 of 64 images") and fits(page)
    assert not page.get_by_label("Seed").is_visible()  # the settings have no effect on a run
    page.get_by_text("samples after 64 images").wait_for()
    with (served_run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 9, "num_images": 72, "loss": 0.125}) + "\n")
    assert status_of(page, "run", "72 of 64 images, loss 0.125")
