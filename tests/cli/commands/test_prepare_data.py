"""`hdit prepare-data` from the shell."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdit_cli.main import main
from tests.cli.test_documented_commands import commands_in, understand


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for number in range(6):
        path = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    (tmp_path / "photos" / "cat" / "x.jpg").write_text("no image")
    return tmp_path / "photos"


def prepare(capsys, photos, *more, source=None):
    """Run the command; return its exit code, stdout and stderr."""
    code = main(["prepare-data", str(source or photos), "--out", str(photos.parent / "set"), "--workers", "1", *more])
    return code, *capsys.readouterr()


def test_condition_images_vectors_and_captions_are_prepared_with_their_images(photos, tmp_path, capsys):
    for path in photos.rglob("*.png"):
        mask = tmp_path / "masks" / path.relative_to(photos)
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("L").save(mask)
        path.with_suffix(".txt").write_text("a photo")
    rows = [f"{path.name},1,2" for path in photos.rglob("*.png")]
    (tmp_path / "vectors.csv").write_text("\n".join(["file,a,b", *rows]))
    options = ["--condition", str(tmp_path / "masks"), "--condition-resize", "nearest", "--captions"]
    code, out, _ = prepare(
        capsys, photos, "--size", "8x12", *options, "--vectors", str(tmp_path / "vectors.csv"), "--json"
    )
    assert code == 0
    result = json.loads(out)
    expected = {"images": 6, "condition_channels": 1, "vector_dim": 2, "captions": True}
    assert {key: result[key] for key in expected} == expected
    code, out, _ = prepare(capsys, photos, "--size", "8x12", *options, "--vectors", str(tmp_path / "vectors.csv"))
    assert code == 0
    assert "condition images of 1 channel, vectors of 2 numbers, captions" in out


def test_an_invalid_condition_range_is_refused_in_one_line(photos, capsys):
    code, _, err = prepare(capsys, photos, "--size", "8", "--condition-range", "1,0")
    assert code == 2
    assert err == ("hdit: error: --condition-range 1,0: expected LOW,HIGH with LOW below HIGH, for example 0,1\n")


def test_json_output_has_the_result(photos, capsys):
    code, out, err = prepare(capsys, photos, "--size", "8x12", "--json")
    assert code == 0
    result = json.loads(out)
    expected = {"images": 6, "rejects": 1, "height": 8, "width": 12, "channels": 3, "classes": 2, "shards": 1}
    assert {key: result[key] for key in expected} == expected
    assert not result["already_complete"]
    assert "left out 1 file; reasons: " in err and "rejects.jsonl" in err


def test_the_summary_is_readable(photos, capsys):
    code, out, err = prepare(capsys, photos, "--size", "16", "--channels", "1")
    assert code == 0
    assert "6 of 16x16 pixels, 1 channel\n" in out
    assert "checksum" in out and "root hash" not in out
    assert "preparing: 7 of 7 images" in err


def test_rerunning_a_finished_job_does_nothing_and_reports_it(photos, capsys):
    prepare(capsys, photos, "--size", "8")
    code, out, err = prepare(capsys, photos, "--size", "8", "--json")
    assert code == 0
    assert "already complete, nothing written" in err
    assert json.loads(out)["already_complete"]


def test_options_for_pixels_and_classes_reach_the_data_set(photos, capsys):
    (photos.parent / "classes.txt").write_text("dog\nemu\ncat\n")
    chosen = [
        "--resize",
        "area",
        "--format",
        "jpeg",
        "--quality",
        "80",
        "--classes",
        str(photos.parent / "classes.txt"),
    ]
    assert prepare(capsys, photos, "--size", "8", *chosen)[0] == 0
    manifest = json.loads((photos.parent / "set" / "manifest.json").read_text())
    assert manifest["settings"]["resize"] == "area"
    assert manifest["settings"]["quality"] == 80
    assert manifest["contents"]["classes"] == ["dog", "emu", "cat"]
    assert manifest["contents"]["class_counts"] == [3, 0, 3]


def test_paths_come_from_stdin_in_any_order_and_a_rerun_has_nothing_to_do(photos, capsys, monkeypatch):
    paths = [str(path) for path in photos.rglob("*.png")]
    roots = []
    for order in (paths, paths[::-1], [*paths, paths[0]]):
        text = "\0".join(order).encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        roots.append(prepare(capsys, photos, "--size", "8", "--json", source="-"))
    assert [code for code, *_ in roots] == [0, 0, 2]
    assert json.loads(roots[1][1])["already_complete"]
    assert "made from other images" in roots[2][2]


def test_jpeg_comes_with_a_warning(photos, capsys):
    assert "FID against it" in prepare(capsys, photos, "--size", "8", "--format", "jpeg")[2]


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--size", "8y8"], 2, "--size 8y8: expected pixels as N or HEIGHTxWIDTH"),
        (["--size", "8", "--channels", "65"], 2, "Input should be less than or equal to 64"),
        (["--size", "8", "--dtype", "float32"], 2, "float32 values without a range; give it with --range LOW,HIGH"),
        (["--size", "8", "--range", "0,1", "--range", "0,2"], 2, "2 ranges for 3 channels, expected one, or one per"),
        (["--size", "8", "--channels", "4", "--format", "webp"], 2, "--format webp: stores 8-bit grayscale and RGB"),
        (["--size", "8", "--channels", "4"], 3, "3 channels, expected 4 (--channels)"),
        (["--size", "8", "--background", "white"], 2, "--background white: expected a color as '#RRGGBB'"),
        (["--size", "8", "--crop", "middle"], 2, "invalid value for '--crop': 'middle' is not one of"),
        (["--size", "8", "--max-bad", "few"], 2, "--max-bad few: expected a number of inputs or a percentage"),
        (["--size", "8", "--labels", "gone.csv"], 2, "--labels gone.csv: expected auto, none, or a file"),
        (["--size", "8", "--classes", "gone.txt"], 2, "--classes gone.txt: expected imagenet, a prepared data set, or"),
        (["--size", "8", "--quality", "90"], 2, "--quality 90: applies to JPEG only; --format png is lossless"),
        (["--size", "8", "--quality", "101", "--format", "jpeg"], 2, "Input should be less than or equal to 100"),
        (["--size", "8", "--resize", "nearest"], 2, "invalid value for '--resize': 'nearest' is not one of"),
        (["--size", "8", "--max-bad", "0"], 3, "1 of 7 inputs are unusable, more than --max-bad 0"),
        ([], 2, "issing option '--size'"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(photos, capsys, more, code, message):
    found, out, err = prepare(capsys, photos, *more)
    assert found == code
    assert message in err
    assert "Traceback" not in err
    assert not out


def test_an_empty_folder_ends_with_exit_code_3(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, _, err = prepare(capsys, tmp_path / "empty", "--size", "8")
    assert code == 3
    assert "contains no images" in err


def test_a_missing_source_is_a_usage_error(tmp_path, capsys):
    assert prepare(capsys, tmp_path / "gone", "--size", "8")[0] == 2


def test_the_commands_in_the_documentation_are_valid():
    found = commands_in((Path(__file__).parents[3] / "docs" / "data.md").read_text())
    lines = [line for line in found if "SOURCE" not in line and "..." not in line]
    assert len(lines) >= 3
    for line in lines:
        understand(line)


def grey_photos(photos, keep_color):
    for place, path in enumerate(sorted(photos.rglob("*.png"))):
        if place >= keep_color:
            Image.open(path).convert("L").convert(("L", "RGB")[place % 2]).save(path)


@pytest.mark.parametrize(("colors", "hint"), [(2, "4; --channels 1 stores one channel\n"), (4, "2\n")])
def test_grayscale_images_are_counted_and_the_option_is_named_if_most_are(photos, capsys, colors, hint):
    grey_photos(photos, colors)
    code, out, _ = prepare(capsys, photos, "--size", "8")
    assert code == 0 and re.search(rf"^grayscale, stored as RGB +{hint}", out, re.MULTILINE)


def test_colors_that_are_lost_are_counted(photos, capsys):
    grey_photos(photos, 1)
    code, out, _ = prepare(capsys, photos, "--size", "8", "--channels", "1")
    assert code == 0 and re.search(
        r"^color converted to grayscale +1; --channels 3 keeps the colors$", out, re.MULTILINE
    )
    assert "grayscale, stored" not in out


def test_classes_without_an_image_are_named(photos, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("\n".join(["ant", "bee", "cat", "cow", "dog", "elk", "fox"]) + "\n")
    code, _, err = prepare(capsys, photos, "--size", "8", "--classes", str(tmp_path / "classes.txt"))
    assert code == 0
    assert "hdit: 5 of 7 classes have no image: 'ant', 'bee', 'cow', 'elk', ...\n" in err
