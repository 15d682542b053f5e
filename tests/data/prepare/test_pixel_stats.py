"""Mean and standard deviation of a set are those of its stored pixels, for any number of processes and tasks."""

import json

import numpy as np
import pytest

from hdit_core.data.format.manifest import MANIFEST, read_manifest, root_of, sigma_data
from hdit_core.data.loader.image_reader import ImageReader


def stored_pixels(folder):
    reader = ImageReader(folder)
    return np.stack([reader.read(index)[0] for index in range(len(reader))]) / 127.5 - 1


@pytest.mark.parametrize(("codec", "channels"), [("png", 3), ("webp", 1), ("jpeg", 3)])
@pytest.mark.parametrize("drop", [False, True])
def test_the_statistics_are_those_of_the_stored_pixels(pictures, prepare, tmp_path, codec, channels, drop):
    for name in ("again.png", "third.png"):
        (pictures / "cow" / name).write_bytes((pictures / "ant" / "000.png").read_bytes())
    summary = prepare(pictures, codec=codec, channels=channels, drop_duplicates=drop)
    pixels, manifest = stored_pixels(tmp_path / "set"), read_manifest(tmp_path / "set")
    assert summary.images == len(pixels) == (23 if drop else 25)
    assert manifest.pixel_mean == pytest.approx(pixels.mean((0, 1, 2)), abs=2e-6)
    assert manifest.pixel_std == pytest.approx(pixels.std((0, 1, 2)), abs=2e-6)
    assert summary.sigma_data == sigma_data(manifest) == pytest.approx(pixels.std(), abs=4e-6)


def test_the_statistics_are_not_part_of_the_identity_and_sets_without_them_stay_valid(pictures, prepare, tmp_path):
    from hdit_core.data.format.manifest import write_manifest

    prepare(pictures)
    manifest = read_manifest(tmp_path / "set")
    older = manifest.model_copy(update={"pixel_mean": (), "pixel_std": ()})
    write_manifest(tmp_path / "set", older)
    assert "pixel_mean" not in json.loads((tmp_path / "set" / MANIFEST).read_text())
    assert read_manifest(tmp_path / "set") == older and sigma_data(older) is None
    assert root_of(older.contents) == manifest.root


@pytest.mark.parametrize("size", [(8, 12), (9, 14), (10, 14)])
def test_images_that_would_be_upscaled_can_be_left_out_and_are_not_bad(pictures, prepare, tmp_path, size):
    kept = prepare(pictures, "all", size=size)
    upscaled = kept.remarks.get("upscaled", 0)
    if upscaled == kept.images:
        return
    summary = prepare(pictures, "some", size=size, no_upscale=True, max_bad="2")
    assert summary.images == kept.images - upscaled
    assert summary.remarks.get("left out by --min-size or --no-upscale", 0) == upscaled
    assert "upscaled" not in summary.remarks


def test_small_images_are_left_out_by_their_shorter_side_with_the_reason(prepare, tmp_path):
    from PIL import Image

    (tmp_path / "p").mkdir()
    for height, width in ((20, 40), (40, 20), (30, 31), (64, 64)):
        Image.new("RGB", (width, height), (height, width, 0)).save(tmp_path / "p" / f"{height}x{width}.png")
    summary = prepare(tmp_path / "p", min_size=30, max_bad="0")
    assert (summary.images, summary.rejects) == (2, 2)
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "set" / "rejects.jsonl").read_text().splitlines()]
    assert reasons == ["20x40 pixels, smaller than --min-size 30", "40x20 pixels, smaller than --min-size 30"]


def test_the_options_at_their_defaults_do_not_change_the_fingerprint_of_older_sets(pictures, tmp_path):
    from dataclasses import asdict

    from hdit_core.data.prepare.job import PrepareSettings, plan_job

    plain = plan_job(PrepareSettings(str(pictures), tmp_path / "set", (8, 12)))
    strict = plan_job(PrepareSettings(str(pictures), tmp_path / "set", (8, 12), no_upscale=True))
    assert plain.fingerprint() != strict.fingerprint()
    assert {"min_size", "no_upscale"} <= asdict(plain.rules).keys() and "min_size" not in plain.settings()


def test_progress_starts_before_the_first_image(pictures, prepare):
    seen = []
    prepare(pictures, on_progress=lambda *progress: seen.append(progress))
    assert seen[0] == (0, 25, 0) and seen[-1] == (25, 25, 2)
