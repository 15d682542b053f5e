"""`hdit edit` reads and writes images in the depth of the network: 16 bits, floats, and any number of channels."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdit_cli.main import main
from hdit_core.data.image.arrays.npy import npy_bytes, read_npy
from hdit_core.data.image.arrays.png_array import png16_bytes, read_png_array
from hdit_core.data.image.arrays.tiff_array import tiff_bytes
from hdit_core.recipe.read import check_recipe
from tests.conftest import TINY
from tests.generate.smooth_network import write_smooth_network

HEIGHT, WIDTH = 16, 24
HOUNSFIELD = ((-1024.0, 3071.0),)
BANDS = ((0.0, 65535.0), (0.0, 4095.0), (100.0, 200.0), (0.0, 10.0))
FULL = ((0.0, 65535.0),)

# name of the input, its encoder, channels, type and range of the network, ending and reader of its samples
KINDS = {
    "grey.png": (png16_bytes, 1, "uint16", (), "png", read_png_array),
    "color.png": (png16_bytes, 3, "uint16", (), "png", read_png_array),
    "grey.tif": (tiff_bytes, 1, "uint16", (), "png", read_png_array),
    "bands.npy": (npy_bytes, 4, "uint16", BANDS, "npy", read_npy),
    "float.tif": (tiff_bytes, 1, "float32", HOUNSFIELD, "npy", read_npy),
    "float.npy": (npy_bytes, 2, "float32", HOUNSFIELD, "npy", read_npy),
}


def values(channels, dtype, ranges, size=(HEIGHT, WIDTH)):
    low, high = np.array(ranges or FULL).T
    shares = np.random.default_rng(0).uniform(0, 1, (*size, channels))
    return (low + shares * (high - low)).round(0 if dtype == "uint16" else 3).astype(dtype)


@pytest.fixture
def network(tmp_path, monkeypatch):
    """Return a function that writes a network of small outputs for images of some type, and its name."""
    monkeypatch.chdir(tmp_path)

    def write(channels, dtype, ranges=()):
        tables = TINY | {
            "model": TINY["model"] | {"channels": channels, "num_classes": 0},
            "data": TINY["data"] | {"dtype": dtype, "value_range": ranges},
        }
        write_smooth_network(tmp_path / "deep" / "weights.safetensors", check_recipe(tables, "deep"))
        return ["--ckpt", "deep", "--device", "cpu"]

    return write


@pytest.fixture(params=KINDS)
def kind(request, network):
    """Return an input, the options that name its network, and a function that reads a sample."""
    encode, channels, dtype, ranges, ending, read = KINDS[request.param]
    array = values(channels, dtype, ranges)
    Path(request.param).write_bytes(encode(array))
    return (
        request.param,
        array,
        network(channels, dtype, ranges),
        lambda folder, number: read((folder / f"{number:08d}.{ending}").read_bytes()),
    )


def assert_equal(found, array):
    """Integers are equal; floats up to the rounding of their mapping to [-1, 1]."""
    assert found.dtype == array.dtype and found.shape == array.shape
    scale = 0 if array.dtype == np.uint16 else 4096 / 65535 / 2
    assert np.abs(found.astype(float) - array).max() <= scale


def test_strength_0_returns_every_value_of_the_input(kind, tmp_path):
    name, array, ckpt, read = kind
    assert main(["edit", "vary", "--init", name, *ckpt, "--strength", "0", "--count", "1", "--out", "v"]) == 0
    assert_equal(read(tmp_path / "v", 0), array)


def test_pixels_outside_the_mask_keep_every_value(kind, tmp_path):
    name, array, ckpt, read = kind
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:10, 6:] = 255
    Image.fromarray(mask).save("mask.png")
    command = ["edit", "inpaint", name, "mask.png", *ckpt, "--steps", "2", "--rounds", "1", "--count", "1"]
    assert main([*command, "--out", "i"]) == 0
    found = read(tmp_path / "i", 0)
    assert_equal(found[mask == 0], array[mask == 0])
    assert not np.array_equal(found[mask > 0], array[mask > 0])


def test_an_image_of_another_size_is_resized_in_its_own_bit_depth(network, tmp_path):
    """A ramp whose neighbors differ by less than one level of 8 bits keeps its steps."""
    ramp = np.broadcast_to(
        np.arange(2 * WIDTH, dtype=np.uint16)[None, :, None] * 4 + 30_000, (2 * HEIGHT, 2 * WIDTH, 1)
    )
    (tmp_path / "ramp.png").write_bytes(png16_bytes(np.ascontiguousarray(ramp)))
    ckpt = network(1, "uint16")
    assert main(["edit", "vary", "--init", "ramp.png", *ckpt, "--strength", "0", "--count", "1", "--out", "v"]) == 0
    found = read_png_array((tmp_path / "v" / "00000000.png").read_bytes())[..., 0].astype(int)
    assert found.shape == (HEIGHT, WIDTH) and (np.diff(found[8, 3:-3]) == 8).all()


def test_noise_and_interpolated_frames_have_the_bit_depth_of_the_image(network, tmp_path):
    array = values(4, "uint16", BANDS)
    np.save("bands.npy", array)
    ckpt = network(4, "uint16", BANDS)
    command = ["edit", "invert", "bands.npy", *ckpt, "--tolerance", "1e-6", "--out", "n.safetensors"]
    assert main([*command, "--back", "back.npy", "--json"]) == 0
    low, high = np.array(BANDS).T
    back = np.load("back.npy")
    assert back.dtype == np.uint16 and (np.abs(back.astype(float) - array) <= 1 + 1e-3 * (high - low)).all()
    frames = ["edit", "interpolate", "n.safetensors", "n.safetensors", *ckpt, "--frames", "3", "--steps", "2"]
    assert main([*frames, "--sampler", "euler", "--out", "f", "--webp", "f.webp"]) == 0
    record = json.loads((tmp_path / "f" / "samples.json").read_text())
    assert record["origin"]["pixels"]["dtype"] == "uint16" and np.load("f/00000001.npy").shape == array.shape
    with Image.open("f.webp") as film:
        assert film.size == (WIDTH, HEIGHT)


def test_a_reconstruction_has_the_file_extension_of_the_samples(network, capsys):
    np.save("bands.npy", values(4, "uint16", BANDS))
    command = ["edit", "invert", "bands.npy", *network(4, "uint16", BANDS), "--back", "back.png"]
    assert main(command) == 2
    assert "--back back.png: expected a name that ends in .npy" in capsys.readouterr().err


def test_an_image_with_other_values_is_refused_with_those_of_the_network(network, capsys):
    Image.new("RGB", (WIDTH, HEIGHT)).save("8-bit.png")
    np.save("three.npy", np.zeros((HEIGHT, WIDTH, 3), np.float64))
    ckpt = network(4, "uint16", BANDS)
    refused = {
        "8-bit.png": "3 channels; the network takes 4 channels of uint16",
        "three.npy": "an array of 16x24x3 numbers; expected height x width x 4",
    }
    for name, found in refused.items():
        assert main(["edit", "vary", "--init", name, *ckpt, "--out", "v"]) == 3
        assert f"{name}: {found}" in capsys.readouterr().err
