"""Takes the picture of docs/play.md: the page of `hdit play` with sampled images, in a headless Chromium.

python benchmarks/play_screenshot.py RUN OUT.png [--width 1280] [--tab Sample] [--dark]
"""

import argparse
import shutil
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

from hdit_core.play.models import Models
from hdit_core.play.page.server import serving


def main() -> None:
    """Sample, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--tab", default="Sample", choices=["Sample", "Edit", "Compare", "Run"])
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    models = Models([options.run], None, torch.device("cpu"))
    with serving(models) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        scheme = "dark" if options.dark else "light"
        size = {"width": options.width, "height": options.height}
        page = browser.new_page(viewport=size, color_scheme=scheme)
        page.goto(address)
        page.get_by_role("button", name="Sample", exact=True).click()
        page.locator("#sample-images a").first.wait_for(timeout=120_000)
        if options.tab != "Sample":
            page.get_by_role("tab", name=options.tab).click()
            page.wait_for_timeout(3000)
        page.screenshot(path=options.out)
        browser.close()


if __name__ == "__main__":
    main()
