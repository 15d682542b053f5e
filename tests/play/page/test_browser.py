"""The page in a real browser: a headless Chromium, as wide as a desktop's window and as a phone."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from hdit_cli.main import main
from hdit_core.play.background import Sessions
from tests.play.page.browser_page import fits, shown_images, status_of, top_of

WIDTHS = {"desktop": 1280, "phone": 390}


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


def test_stop_ends_a_long_computation_and_the_next_one_runs(open_page):
    page = open_page(1280)
    page.get_by_label("Steps").fill("1000")
    page.get_by_label("Images").fill("64")
    for _ in range(4):
        page.get_by_role("button", name="Sample", exact=True).click()
        page.locator("#sample-images img").first.wait_for()  # intermediate images
        assert "noise level" in status_of(page, "sample", "0 of 64 images")
        page.locator("#stop").click()
        status_of(page, "sample", "stopped")
        page.locator("#stop:disabled").wait_for()
        page.wait_for_timeout(300)  # for intermediate results that come late
        assert status_of(page, "sample", "stopped") == "stopped"
    page.get_by_label("Steps").fill("2")
    page.get_by_label("Images").fill("1")
    page.get_by_role("button", name="Sample", exact=True).click()
    assert len(shown_images(page, "#sample-images")) == 1
    page.locator("#stop:disabled").wait_for()


@pytest.mark.slow
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


def test_a_button_pressed_while_the_page_still_loads_computes(open_page, monkeypatch):
    ask, asked = Sessions.ask, []
    monkeypatch.setattr(Sessions, "ask", lambda self, *who: (asked.append(who), ask(self, *who)))
    page, held = open_page(390), []
    page.route("**/queue/join*", lambda route: route.continue_() if "clicked" in held else held.append(route))
    page.reload()
    page.wait_for_function("window.hditMask !== undefined")
    held.append("clicked")
    page.get_by_role("button", name="Sample", exact=True).click()
    assert shown_images(page, "#sample-images") and [visitor is None for visitor, _ in asked] == [False]


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
