"""One server of the page, and one browser, for all tests."""

import shutil
import threading

import pytest
import torch

from hdit_core.play.models import Models
from hdit_core.play.page.server import serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TIMEOUT_MS = 60_000  # a shared CPU may be busy


@pytest.fixture(scope="package")
def served_run(run, tmp_path_factory):
    """A copy of the run, which tests may change."""
    return shutil.copytree(run, tmp_path_factory.mktemp("served") / "digits")


@pytest.fixture(scope="package")
def address(served_run):
    """The address of a page for that run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hdit_core.play.page.run_tab.SECONDS_BETWEEN_LOOKS", 1.0)
        with serving(Models([str(served_run)], None, torch.device("cpu"))) as address:
            yield address
    assert [thread.name for thread in threading.enumerate() if thread.name == "hdit play"] == []


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
