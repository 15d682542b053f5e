"""The named sets `emoji` and `emoji-plain`, from a small package of the same shape."""

import io
import json

import pytest
from PIL import Image

from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.sources.emoji import PACKAGE
from hdit_core.data.sources.resolve import open_source
from hdit_core.errors import DataError, UsageError
from tests.data.sources.files.test_folder_and_archive import contents, write_folder, write_tar


def webp(color):
    buffer = io.BytesIO()
    Image.new("RGBA", (16, 16), color).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


PLAIN = ["1f44b.webp", "1f3f4-e0067_e0062.webp", "1f600.webp"]
TONED = ["1f44b-1f3fb.webp", "1f469-1f3ff-200d-1f4bb.webp"]
FILES = {
    "package/package.json": json.dumps({"name": PACKAGE}).encode(),
    "package/README.md": b"# Fluent",
    **{f"package/assets/{name}": webp((255, 0, 0, 0)) for name in sorted(PLAIN + TONED)},
}
TARBALL = "lobehub-fluent-emoji-3d-1.1.0.tgz"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Make an empty folder the current one, and another the cache."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "here"


def test_the_tarball_is_found_in_the_current_folder_and_skin_tones_can_be_left_out(here):
    write_tar(here / TARBALL, "w:gz", FILES)
    assert [name for name, _ in contents(open_source("emoji"))] == sorted(PLAIN + TONED)
    plain = open_source("emoji-plain")
    assert [name for name, _ in contents(plain)] == sorted(PLAIN)
    assert plain.name == "emoji-plain"
    assert plain.fetch(0) == FILES["package/assets/1f3f4-e0067_e0062.webp"]


def test_the_unpacked_package_gives_the_same_images(here):
    write_tar(here / TARBALL, "w:gz", FILES)
    of_tarball = contents(open_source("emoji"))
    (here / TARBALL).unlink()
    write_folder(here, FILES)
    assert contents(open_source("emoji")) == of_tarball
    (here / "package").rename(here / "elsewhere")
    inside = {name.removeprefix("package/"): content for name, content in FILES.items()}
    write_folder(here / "node_modules" / PACKAGE, inside)
    assert contents(open_source("emoji")) == of_tarball


def test_the_tarball_is_found_in_the_cache(here, tmp_path):
    (tmp_path / "cache" / "hdit").mkdir(parents=True)
    write_tar(tmp_path / "cache" / "hdit" / TARBALL, "w:gz", FILES)
    assert len(open_source("emoji").entries) == 5


def test_a_missing_package_is_one_line_with_the_command_that_fetches_it(here, tmp_path):
    with pytest.raises(DataError, match=r"neither in this folder nor in .*cache/hdit; run: npm pack @lobehub/fluent-"):
        open_source("emoji")
    write_folder(here, {"package/package.json": b'{"name": "other"}', "package/assets/a.webp": b"x"})
    with pytest.raises(DataError, match="run: npm pack"):
        open_source("emoji-plain")


def test_two_tarballs_are_refused(here):
    for version in ("1.1.0", "1.2.0"):
        write_tar(here / f"lobehub-fluent-emoji-3d-{version}.tgz", "w:gz", FILES)
    with pytest.raises(UsageError, match=r"found lobehub-.*1.1.0.tgz and lobehub-.*1.2.0.tgz; keep one of them"):
        open_source("emoji")


def test_a_package_without_emoji_is_refused(here):
    write_tar(here / TARBALL, "w:gz", {"package/package.json": b"{}"})
    with pytest.raises(DataError, match=r"contains no assets/\*.webp; run: npm pack"):
        open_source("emoji")


def test_emoji_are_composited_over_the_background_and_have_no_classes(here, prepare, tmp_path):
    write_tar(here / TARBALL, "w:gz", FILES)
    summary = prepare("emoji", size=(8, 8), background=(0, 40, 80))
    assert (summary.images, summary.classes, summary.channels) == (5, 0, 3)
    assert (ImageReader(tmp_path / "set").read(2)[0] == (0, 40, 80)).all()


def test_every_tenth_emoji_is_held_out_with_all_of_its_skin_tones(here):
    toned = ["1f409-1f3fb.webp", "1f409-1f3ff.webp", "1f410-1f3fc.webp"]
    names = [f"1f4{number:02}.webp" for number in range(20)] + toned
    write_tar(here / TARBALL, "w:gz", {f"package/assets/{name}": webp((255, 0, 0, 0)) for name in sorted(names)})
    train, test = ([name for name, _ in contents(open_source(f"emoji-{part}"))] for part in ("train", "test"))
    assert test == ["1f409-1f3fb.webp", "1f409-1f3ff.webp", "1f409.webp", "1f419.webp"]
    assert sorted([*train, *test]) == sorted(names)
