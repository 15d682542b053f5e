"""What the tests of the page do in a browser, and what they read there."""

import base64
import io
import re

import numpy as np
from PIL import Image

CLOCK = re.compile(r"^(processing \| )?[0-9./]+s\n\n")  # gradio's own, on slow machines


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
    return CLOCK.sub("", page.locator(f"#{name}-status").inner_text())


def top_of(page, selector):
    """Return the distance of an element from the top of the page."""
    return page.locator(selector).bounding_box()["y"]
