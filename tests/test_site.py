"""The documentation site builds strictly: no broken link or anchor, no page outside the navigation."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from hdit_cli.main import main
from hdit_cli.plugins import discover_commands
from hdit_core import api

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site and return its folder."""
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    return folder


def test_the_site_has_a_page_for_each_document(site):
    pages = {path.stem for path in site.glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} | {"index", "commands"} <= pages


def test_the_site_has_the_help_of_every_command(site):
    text = (site / "commands.html").read_text()
    for name in discover_commands():
        assert f"Usage: hdit {name}" in text


def test_the_search_finds_a_recipe_key_without_its_table(site):
    separator = json.loads((site / "search" / "search_index.json").read_text())["config"]["separator"]
    assert re.split(separator, "diffusion.sigma_data") == ["diffusion", "sigma_data"]
    assert re.split(separator, "torch 2.13") == ["torch", "2.13"]


def test_the_site_has_the_help_that_is_printed(site, capsys, monkeypatch):
    text = html.unescape(re.sub(r"<[^>]+>", "", (site / "commands.html").read_text()))
    monkeypatch.setenv("COLUMNS", "80")
    for command in (["eval-fid"], ["eval-fid", "stats"], ["sample"], ["bench", "attention"]):
        assert main([*command, "--help"]) == 0
        assert capsys.readouterr().out.strip() in text


def test_the_site_loads_nothing_from_other_servers(site):
    for page in site.glob("*.html"):
        text = page.read_text()
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]+)"', text)
        assert loaded
        assert [address for address in loaded if "//" in address] == []
        assert 'class="mermaid"' not in text  # the theme loads a script from unpkg.com for such diagrams


def test_links_of_the_overview_are_titles_not_file_names(site):
    text = (site / "index.html").read_text()
    assert '<a href="python.html">Python</a> describes' in text and ">docs/" not in text


def test_functions_of_the_api_are_headed_by_the_names_that_are_imported(site):
    headings = re.findall(r'<h3 id="hdit_core[^>]*>(.*?)</h3>', (site / "api.html").read_text(), re.DOTALL)
    names = [re.sub(r"<[^>]+>", "", heading).strip().partition("(")[0] for heading in headings]
    assert "train" in names and not [name for name in names if "hdit_core" in name]


@pytest.fixture(scope="module")
def browser():
    """A headless browser, or the reason why there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no Chromium on the PATH; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


WIDER_THAN_WINDOW = """() => [...document.querySelectorAll("html, article *")].filter((part) => {
    if (part.tagName === "HTML") return part.scrollWidth > innerWidth;
    const scrolls = (box) => box && (getComputedStyle(box).overflowX === "auto" || scrolls(box.parentElement));
    return part.getBoundingClientRect().right > innerWidth + 1 && !scrolls(part.parentElement);
}).map((part) => part.outerHTML.slice(0, 80))"""
CUT_TABLES = """() => [...document.querySelectorAll(".md-typeset__scrollwrap")].filter(
    (box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.innerText.slice(0, 80))"""
BROKEN_NAMES = """() => [...document.querySelectorAll("td:first-child code")].filter(
    (name) => name.getClientRects().length > 1).map((name) => name.innerText)"""


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.slow), 390])
def test_pages_fit_the_window_and_names_in_tables_are_in_one_line(width, site, browser):
    page = browser.new_page(viewport={"width": width, "height": 800})
    found = []
    for path in sorted(site.glob("*.html")):
        page.goto(path.as_uri())
        checks = [WIDER_THAN_WINDOW, BROKEN_NAMES, *([CUT_TABLES] if width == 1280 else [])]  # on phones, tables scroll
        found += [(path.name, problem) for check in checks for problem in page.evaluate(check)]
    page.close()
    assert found == []


def test_the_figure_of_the_network_shows_every_level(site):
    root = ElementTree.fromstring((site / "hourglass.svg").read_text())
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    tokens = [text for text in texts if "tokens of" in text]
    assert tokens.count("256x256 tokens of 128") == 2  # in encoder and decoder
    assert tokens.count("16x16 tokens of 1024") == 1
    assert len(tokens) == 9


def test_the_site_documents_every_name_of_the_python_api(site):
    text = (site / "api.html").read_text()
    documented = set(re.findall(r'id="hdit_core\.[\w.]*\.(\w+)"', text))
    assert set(api.__all__) - {"Denoiser", "HditError", "Recipe"} <= documented  # those three are described elsewhere
