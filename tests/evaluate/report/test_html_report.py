"""The HTML report: complete, self-contained, and safe for any names."""

import base64
import io
import re
import tarfile
import types
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from hdit_core.evaluate import score as score_module
from hdit_core.evaluate.report.html_report import page
from hdit_core.evaluate.report.sheets import THUMBNAIL_PX
from hdit_core.evaluate.score import score
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.recipe.diff import flatten

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title><style>*{display:none}</style>",
    "a\x1b[31mb\u202egnp.exe",
    "&lt;b&gt;",
    "]]><!-- ",
]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def scored(picture_folder, toy_extractor, monkeypatch, tmp_path):
    """Return a function that scores a folder of some name and returns result and page."""
    monkeypatch.setattr(score_module, "open_extractor", lambda *_: toy_extractor)
    monkeypatch.chdir(tmp_path)
    reference = str(picture_folder("reference", seed=1))

    def run(name="images"):
        folder = picture_folder(name.replace("/", "_"), 30)
        result = score(ScoreSettings(str(folder), reference, device="cpu", report=tmp_path / "r.html"))
        return result, (tmp_path / "r.html").read_text()

    return run


def test_the_report_shows_every_number_with_its_interval_and_the_provenance(scored):
    result, text = scored()
    shown = " ".join(Page(text).texts)
    for name, estimate in result.estimates().items():
        assert name in shown and f"{estimate.value:.6g}" in shown
        assert estimate.low is None or f"{estimate.low:.6g} to {estimate.high:.6g}" in shown
    for key, value in flatten(result.provenance()).items():
        assert key in shown and str(value) in shown
    assert text.count("data:image/png;base64,") == 2, "samples, and their nearest"


def test_the_report_is_self_contained_and_runs_no_scripts(scored):
    _, text = scored()
    parsed = Page(text)
    assert "script" not in parsed.tags and not any(name.startswith("on") for name, _ in parsed.attributes)
    policy = dict(parsed.attributes)["content"] if False else re.search(r'Policy" content="([^"]+)"', text)[1]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert all(value.startswith("data:image/png") for name, value in parsed.attributes if name == "src")
    assert [value for name, value in parsed.attributes if name == "href"] == ["images", "reference"], "on this machine"


def test_the_report_names_its_date_and_command_and_links_its_sources(scored, picture_folder, tmp_path):
    settings = ScoreSettings("a #b", "reference", device="cpu", report=tmp_path / "r.html", command="hdit eval-fid <x>")
    picture_folder("a #b", 30)
    scored()
    score(settings)
    text = (tmp_path / "r.html").read_text()
    assert "hdit eval-fid &lt;x&gt;" in text and '<a href="a%20%23b">a #b</a>' in text
    assert f"{datetime.now(UTC):%Y-%m-%d}" in text


def test_the_report_of_a_stream_shows_its_first_images_and_why_it_has_no_neighbors(
    scored, picture_folder, monkeypatch, tmp_path
):
    scored()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(picture_folder("streamed", 40), arcname="a")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    score(ScoreSettings("-", "reference", device="cpu", report=tmp_path / "r.html"))
    text = (tmp_path / "r.html").read_text()
    assert text.count("data:image/png;base64,") == 1 and "a stream can be read only once" in text
    sheet = Image.open(io.BytesIO(base64.b64decode(re.search('base64,([^"]+)', text)[1])))
    assert sheet.size == (6 * THUMBNAIL_PX + 5 * 6, 6 * THUMBNAIL_PX + 5 * 6) or sheet.size[0] >= 6 * THUMBNAIL_PX


def test_the_report_against_a_stream_says_that_it_is_one(scored, picture_folder, monkeypatch, tmp_path):
    scored()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(picture_folder("streamed", 40), arcname="a")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    score(ScoreSettings("images", "-", device="cpu", report=tmp_path / "r.html"))
    text = (tmp_path / "r.html").read_text()
    assert "a stream can be read only once" in text and "saved statistics contain no images" not in text


def test_the_report_states_that_statistics_have_no_images_to_show(scored, tmp_path):
    scored()
    score(ScoreSettings("images", None, device="cpu", save_stats=tmp_path / "ref.npz"))
    score(ScoreSettings("images", "ref.npz", device="cpu", report=tmp_path / "r.html"))
    assert "saved statistics contain no images" in (tmp_path / "r.html").read_text()


def test_names_stay_readable_in_a_narrow_window(scored):
    """A cell that can break anywhere can also shrink to one letter, unless it has a minimum width."""
    _, text = scored()
    style = text.partition("<style>")[2].partition("</style>")[0]
    wide, _, narrow = style.partition("@media (max-width: 40rem)")
    for rules in (wide, narrow):
        assert re.search(r"tr > :first-child { min-width: \d", rules)
    assert re.search(r"td\.number,[^{]*{ overflow-wrap: normal }", narrow), "an interval wraps between its numbers"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_escaped(scored, name):
    _, plain = scored("plain")
    _, text = scored(name)
    assert Page(text).tags == Page(plain).tags
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
    shown = " ".join(Page(text).texts)
    assert name.replace("/", "_").replace("\x1b", r"\x1b").replace("\u202e", r"\u202e") in shown


def test_a_report_without_images_is_complete(scored):
    result, _ = scored()
    text = page(result, None, None)
    assert "<img" not in text and text.endswith("</html>\n")
    with_one = page(result, np.zeros((4, 5, 3), np.uint8), None)
    assert with_one.count("<img") == 1


def test_the_report_of_a_folder_whose_name_is_not_utf8_is_written(scored, picture_folder, tmp_path):
    scored()
    picture_folder("a\udcff", 30)
    score(ScoreSettings("a\udcff", "reference", device="cpu", report=tmp_path / "r.html"))
    assert '<a href="a%FF">a\\udcff</a>' in (tmp_path / "r.html").read_text()
