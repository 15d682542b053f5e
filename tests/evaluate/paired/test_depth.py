"""Pairs of 16-bit and float images are scored in full depth, with the range of their values."""

import json

import numpy as np
import pytest
import tifffile
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hdit_cli.main import main
from hdit_core.data.image.arrays.npy import npy_bytes
from hdit_core.data.image.arrays.png_array import png16_bytes
from hdit_core.data.image.arrays.tiff_array import tiff_bytes
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.paired.score_pairs import score_pairs
from hdit_core.evaluate.settings import ScoreSettings
from tests.evaluate.scoring_rank import start

HOUNSFIELD = (-1024.0, 3071.0)
SIZE = (18, 24)
COUNT = 5


def score(images, originals, **settings):
    return score_pairs(ScoreSettings(str(images), str(originals), paired=True, device="cpu", **settings))


def pairs_of(channels, dtype, low, high):
    """Return images and originals that differ by less than one level of 8 bits, in a narrow part of the range."""
    numbers = np.random.default_rng(0)
    originals = low + (high - low) * (0.5 + 0.02 * numbers.uniform(0, 1, (COUNT, *SIZE, channels)))
    images = originals + (high - low) / 1000 * numbers.normal(0, 1, originals.shape)
    if dtype == np.uint16:
        images, originals = np.rint(images), np.rint(originals)
    return images.astype(dtype), originals.astype(dtype)


def save(folder, arrays, encode, ending):
    folder.mkdir()
    for number, array in enumerate(arrays):
        (folder / f"{number}{ending}").write_bytes(encode(array))
    return folder


def theirs(images, originals, width):
    """Return scikit-image's PSNR and SSIM, as means over the pairs."""
    window = {"channel_axis": -1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = [tuple(one.astype(np.float64) for one in pair) for pair in zip(images, originals, strict=True)]
    psnr = np.mean([peak_signal_noise_ratio(b, a, data_range=width) for a, b in pairs])
    return psnr, np.mean([structural_similarity(a, b, data_range=width, **window) for a, b in pairs])


KINDS = {
    "16-bit PNG": (png16_bytes, ".png", 1, np.uint16, 0, 65535, ()),
    "16-bit color PNG": (png16_bytes, ".png", 3, np.uint16, 0, 65535, ()),
    "12 bits in a TIFF": (tiff_bytes, ".tif", 1, np.uint16, 0, 4095, ((0.0, 4095.0),)),
    "float TIFF": (tiff_bytes, ".tif", 1, np.float32, *HOUNSFIELD, (HOUNSFIELD,)),
    "bands": (npy_bytes, ".npy", 5, np.float32, *HOUNSFIELD, (HOUNSFIELD,)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_those_of_scikit_image_with_the_same_data_range(tmp_path, kind):
    encode, ending, channels, dtype, low, high, stated = KINDS[kind]
    images, originals = pairs_of(channels, dtype, low, high)
    a, b = save(tmp_path / "a", images, encode, ending), save(tmp_path / "b", originals, encode, ending)
    found = score(a, b, value_range=stated)
    psnr, ssim = theirs(images, originals, high - low)
    assert 50 < psnr < 70 and 0.5 < ssim < 0.9999
    assert found.estimates()["psnr"].value == pytest.approx(psnr, abs=1e-9)
    assert found.estimates()["ssim"].value == pytest.approx(ssim, abs=1e-9)
    kept = "uint16" if dtype == np.uint16 else "float64"
    passport = found.to_json()["passport"]
    assert passport["images"]["values"] == passport["reference"]["values"] == {kept: [[low, high]]}
    assert dict(found.lines())["values"] == f"{kept}, {low:g} to {high:g}" and passport["settings"]["peak"] == 1


def test_floats_without_a_known_range_are_refused(tmp_path):
    images, originals = pairs_of(1, np.float32, *HOUNSFIELD)
    a, b = save(tmp_path / "a", images, tiff_bytes, ".tif"), save(tmp_path / "b", originals, tiff_bytes, ".tif")
    with pytest.raises(DataError, match=r"0\.tif: has floats, whose range is not known; give it with --range LOW,HIGH"):
        score(a, b)
    with pytest.raises(DataError, match=r"0\.tif: has 1 channels, and 2 ranges are given or recorded"):
        score(a, b, value_range=((0.0, 1.0), (0.0, 2.0)))


def samples_record(folder, dtype, low, high):
    (folder / "samples.json").write_text(json.dumps({"origin": {"pixels": {"dtype": dtype, "range": [[low, high]]}}}))


def test_the_range_that_samples_record_is_that_of_their_originals(tmp_path):
    images, originals = pairs_of(1, np.float32, *HOUNSFIELD)
    a, b = save(tmp_path / "a", images, npy_bytes, ".npy"), save(tmp_path / "b", originals, tiff_bytes, ".tif")
    samples_record(a, "float32", *HOUNSFIELD)
    psnr, ssim = theirs(images, originals, HOUNSFIELD[1] - HOUNSFIELD[0])
    assert score(a, b).estimates()["psnr"].value == pytest.approx(psnr, abs=1e-9)
    assert score(a, b).estimates()["ssim"].value == pytest.approx(ssim, abs=1e-9)
    assert score(b, a).matched_by == "name"
    samples_record(b, "float32", 0, 1)
    with pytest.raises(DataError, match=r"a: the recorded range of its values is -1024,3071, that of .*b 0,1; give"):
        score(a, b)
    assert score(a, b, value_range=(HOUNSFIELD,)).estimates()["psnr"].value == pytest.approx(psnr, abs=1e-9)


def test_a_prepared_set_of_16_bits_is_scored_with_the_range_of_its_manifest(tmp_path):
    images, originals = pairs_of(3, np.uint16, 0, 4095)
    a, b = save(tmp_path / "a", images, png16_bytes, ".png"), save(tmp_path / "b", originals, png16_bytes, ".png")
    options = ["--size", f"{SIZE[0]}x{SIZE[1]}", "--dtype", "uint16", "--range", "0,4095", "--workers", "0"]
    assert main(["prepare-data", str(b), "--out", str(tmp_path / "set"), *options]) == 0
    found = score(a, tmp_path / "set")
    assert found.estimates()["psnr"].value == pytest.approx(theirs(images, originals, 4095)[0], abs=1e-9)
    assert found.to_json()["passport"]["images"]["values"] == {"uint16": [[0, 4095]]}


def test_8_bits_against_16_are_scaled_by_their_own_ranges_which_is_remarked(tmp_path):
    images, originals = pairs_of(1, np.uint16, 0, 65535)
    reduced = (np.rint(images / 257) * 257).astype(np.uint16)
    b = save(tmp_path / "b", originals, png16_bytes, ".png")
    a = save(tmp_path / "a", np.rint(images / 257).astype(np.uint8), tiff_bytes, ".tif")
    found = score(a, b)
    assert found.estimates()["psnr"].value == pytest.approx(theirs(reduced, originals, 65535)[0], abs=1e-9)
    assert "images are uint8, the reference uint16: each is scaled by the range of its own type" in found.remarks


def test_images_of_other_channels_and_stacks_of_pages(tmp_path):
    images, originals = pairs_of(4, np.uint16, 0, 65535)
    a = save(tmp_path / "a", images, npy_bytes, ".npy")
    (tmp_path / "b").mkdir()
    for number, array in enumerate(originals):
        with tifffile.TiffWriter(tmp_path / "b" / f"{number}.tif") as file:
            for channel in np.moveaxis(array, -1, 0):
                file.write(channel, photometric="minisblack", contiguous=False)
    psnr = score(a, tmp_path / "b").estimates()["psnr"].value
    assert psnr == pytest.approx(theirs(images, originals, 65535)[0], abs=1e-9)
    c = save(tmp_path / "c", originals[..., :3], npy_bytes, ".npy")
    with pytest.raises(DataError, match=r"0\.npy: has 4 channels, its original 3; expected pairs of the same channels"):
        score(a, c)


def test_ranks_give_the_same_result(tmp_path):
    images, originals = pairs_of(1, np.uint16, 0, 65535)
    a, b = save(tmp_path / "a", images, png16_bytes, ".png"), save(tmp_path / "b", originals, png16_bytes, ".png")
    options = {"images": str(a), "reference": str(b), "paired": True, "extractor": "toy"}
    alone = start(tmp_path / "1", 1, **options).results()[0]
    assert start(tmp_path / "n", 2, **options).results() == [alone, None]
    assert alone["passport"]["images"]["values"] == {"uint16": [[0, 65535]]}


def test_the_option_is_checked(tmp_path, capsys):
    with pytest.raises(UsageError, match="--range: applies to --paired"):
        score_pairs(ScoreSettings("a", "b", value_range=((0.0, 1.0),)))
    assert main(["eval-fid", "a", "--ref", "b", "--paired", "--range", "1,0"]) == 2
    assert "--range 1,0: expected LOW,HIGH with LOW below HIGH" in capsys.readouterr().err
    images, originals = pairs_of(1, np.uint16, 0, 4095)
    a, b = save(tmp_path / "a", images, png16_bytes, ".png"), save(tmp_path / "b", originals, png16_bytes, ".png")
    assert main(["eval-fid", str(a), "--ref", str(b), "--paired", "--range", "0,4095", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["estimates"]["psnr"]["value"] == pytest.approx(theirs(images, originals, 4095)[0], abs=1e-9)


def test_values_that_are_too_large_to_be_compared_are_refused(tmp_path):
    for name, level in (("a", 1e200), ("b", 0.0)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "0.npy", np.full((12, 13, 1), level))
    with pytest.raises(DataError, match=r"0\.npy: has values too far outside the range to be compared; give the range"):
        score_pairs(ScoreSettings(str(tmp_path / "a"), str(tmp_path / "b"), paired=True, value_range=((0.0, 1.0),)))
