"""`hdit edit` and `hdit export` from the shell: files, output and refusals."""

import json

import numpy as np
import pytest
from PIL import Image

from hdit_cli.commands import edit_ode as edit_measuring
from hdit_cli.main import main
from hdit_core.checkpoint import load_denoiser
from hdit_core.recipe.read import check_recipe
from tests.conftest import TINY
from tests.forked_command import run_hdit
from tests.generate.smooth_network import write_smooth_network

DRAWING = ["--steps", "2", "--device", "cpu", "--json"]


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    path = tmp_path_factory.mktemp("ckpt") / "tiny.safetensors"
    return str(write_smooth_network(path, check_recipe(TINY, "tiny")))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a photo of another size, its mask, and one of the network's size."""
    monkeypatch.chdir(tmp_path)
    numbers = np.random.default_rng(0)
    Image.fromarray(numbers.integers(0, 256, (32, 48, 3), np.uint8)).save("photo.png")
    Image.fromarray(numbers.integers(0, 256, (16, 24, 3), np.uint8)).save("small.png")
    mask = np.zeros((16, 24), np.uint8)
    mask[4:8, 6:20] = 255
    Image.fromarray(mask).save("mask.png")
    return tmp_path


def pixels(path):
    return np.asarray(Image.open(path))


def test_vary_of_strength_0_returns_the_image_and_resumes_its_folder(ckpt, here, capsys):
    command = ["edit", "vary", "small.png", "--ckpt", ckpt, "--strength", "0", "--out", "v", *DRAWING]
    assert main([*command, "--count", "2"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["images"] == "0-1" and record["origin"]["edit"]["kind"] == "vary"
    assert (pixels("v/00000001.png") == pixels("small.png")).all()
    assert main([*command, "--n", "3"]) == 0
    capsys.readouterr()
    command[command.index("0")] = "0.5"
    assert main([*command, "--n", "3"]) == 2
    assert "edit.strength 0.0 -> 0.5" in capsys.readouterr().err


def test_vary_upscales_to_another_size_and_reports_it(ckpt, here, capsys):
    size = ["--size", "32x24", "--n", "1", "--out", "v"]
    assert main(["edit", "vary", "--init", "small.png", "--ckpt", ckpt, *size, *DRAWING]) == 0
    assert "small.png: enlarged from 16x24 to 32x24" in capsys.readouterr().err
    assert pixels("v/00000000.png").shape == (32, 24, 3)


def test_inpaint_keeps_the_black_region_of_the_mask(ckpt, here):
    rounds = ["--rounds", "2", "--n", "2", "--out", "i"]
    assert main(["edit", "inpaint", "small.png", "mask.png", "--ckpt", ckpt, *rounds, *DRAWING]) == 0
    drawn, known = pixels("i/00000001.png"), pixels("mask.png") == 0
    assert (drawn[known] == pixels("small.png")[known]).all() and (drawn[~known] != pixels("small.png")[~known]).any()


def test_interpolate_starts_and_ends_with_the_samples_and_writes_an_animation(ckpt, here):
    film = ["--frames", "3", "--out", "way", "--webp", "way.webp"]
    assert main(["edit", "interpolate", "3", "7", "--ckpt", ckpt, *film, *DRAWING]) == 0
    assert main(["sample", "--ckpt", ckpt, "--seeds", "3,7", "--out", "s", *DRAWING]) == 0
    for frame, number in ((0, 3), (2, 7)):
        assert (pixels(f"way/{frame:08d}.png") == pixels(f"s/{number:08d}.png")).all()
    assert Image.open("way.webp").n_frames == 4


def test_invert_writes_noise_that_interpolate_takes(ckpt, here, capsys):
    command = ["edit", "invert", "photo.png", "--ckpt", ckpt, "--out", "noise.safetensors", "--device", "cpu", "--json"]
    assert main([*command, "--back", "back.png"]) == 0
    captured = capsys.readouterr()
    assert "large round-trip error" not in captured.err
    record = json.loads(captured.out)
    assert 0 < record["error_levels"] < 3 and record["psnr_db"] > 35 and record["network_calls"] > 10
    assert "cropped and resized from 32x48 to 16x24" in captured.err and pixels("back.png").shape == (16, 24, 3)
    way = ["edit", "interpolate", "noise.safetensors", "7", "--ckpt", ckpt, "--frames", "2", "--out", "w", *DRAWING]
    assert main(way) == 2
    assert "use --sampler dpmpp_2m" in capsys.readouterr().err and not (here / "w").exists()
    assert main([*way, "--sampler", "heun"]) == 0
    assert main(command) == 2
    assert "noise.safetensors: already exists and is never replaced" in capsys.readouterr().err


def test_a_poor_reconstruction_is_reported_with_advice(ckpt, here, capsys, monkeypatch):
    monkeypatch.setattr(edit_measuring, "LARGE_ERROR_LEVELS", 1e-9)
    assert main(["edit", "invert", "small.png", "--ckpt", ckpt, "--tolerance", "1e-2", "--device", "cpu"]) == 0
    assert "large round-trip error; a --tolerance below 0.01 may reduce it" in capsys.readouterr().err


def test_likelihood_prints_bits_with_a_standard_error_and_each_image_as_it_is_finished(ckpt, here, capsys):
    command = ["edit", "likelihood", ".", "--ckpt", ckpt, "--tolerance", "1e-2", "--device", "cpu", "--json"]
    assert main([*command, "--each"]) == 0
    *each, whole = map(json.loads, capsys.readouterr().out.splitlines())
    bits = [one["bits_per_dim"] for one in each]
    assert whole["images"] == 3 and whole["bits_per_dim"] == pytest.approx(np.mean(bits))
    assert whole["standard_error"] == pytest.approx(np.std(bits, ddof=1) / np.sqrt(3))
    assert whole["dequantisation"].startswith("uniform") and whole["classes"] == "none"
    command[2] = "small.png"
    assert main(command[:-1]) == 0
    captured = capsys.readouterr()
    assert "a single image has no standard error" in captured.err and "bits_per_dim" in captured.out


def test_an_edit_streams_to_stdout(ckpt, here):
    command = ["edit", "vary", "--init", "small.png", "--ckpt", ckpt, "--n", "2", *DRAWING]
    piped = run_hdit(*command, "--out", "-")
    assert main([*command, "--out", "x.tar"]) == 0
    assert piped.stdout == (here / "x.tar").read_bytes() and b'"num_images": 2' in piped.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["vary"], 2, "missing argument 'IMAGE' (see 'hdit edit vary --help')"),
        (["vary", "a.png", "--init", "b.png"], 2, "a.png and --init b.png: expected one image"),
        (["vary", "nothing.png"], 3, "nothing.png: cannot be read: No such file or directory"),
        (
            ["vary", "--init", "text.png"],
            3,
            "text.png: not an image of a known format; expected an intact image, such as a PNG",
        ),
        (["vary", "--init", "small.png", "--class", "9"], 2, "class 9: the network has the classes 0 to 2"),
        (["vary", "--init", "small.png", "--size", "18"], 2, "height 18 is not a multiple of 4"),
        (["vary", "--init", "small.png", "--size", "4"], 2, "2x2 grid; use a size closer to the training size, 16x24"),
        (["inpaint", "photo.png", "mask.png"], 3, "mask.png: the mask has 16x24 pixels, photo.png has 32x48"),
        (["inpaint", "small.png", "black.png"], 3, "black.png: nothing in the mask is white"),
        (["interpolate", "1", "2", "--webp", "x.gif"], 2, "--webp x.gif: expected a name that ends in .webp"),
        (["interpolate", "1", "2", "--webp", "no/x.webp"], 2, "--webp no/x.webp: there is no folder no"),
        (
            ["interpolate", "1", "2", "--webp", "x.webp", "--out", "x.tar"],
            2,
            "the animation is made from the frames in a folder",
        ),
        (["interpolate", "1", "small.png"], 4, "small.png: not a safetensors file"),
        (["invert", "small.png", "--out", "x.png"], 2, "--out x.png: expected a name that ends in .safetensors"),
        (["invert", "small.png", "--back", "back.jpg"], 2, "--back back.jpg: expected a name that ends in .png"),
        (["invert", "small.png", "--back", "no/back.png"], 2, "--back no/back.png: there is no folder no"),
        (["likelihood", "nowhere"], 2, "nowhere: no such folder, archive or built-in data set"),
        (["likelihood", "small.png", "--class", "9"], 2, "class 9"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_files(ckpt, here, capsys, arguments, code, message):
    (here / "text.png").write_text("no image")
    Image.new("L", (24, 16)).save("black.png")
    before = sorted(here.iterdir())
    assert main(["edit", *arguments, "--ckpt", ckpt, "--device", "cpu"]) == code
    captured = capsys.readouterr()
    complaints = [line for line in captured.err.splitlines() if "error" in line]
    assert len(complaints) == 1 and message in complaints[0] and not captured.out
    assert sorted(here.iterdir()) == before


def test_export_gives_a_folder_that_sample_reads(ckpt, here, capsys):
    assert main(["export", ckpt, "--to", "model", "--dtype", "bfloat16", "--n", "2", "--device", "cpu", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["dtype"] == "bfloat16" and "README.md" in record["files"]
    assert load_denoiser(here / "model").recipe.model == check_recipe(TINY, "tiny").model
    assert main(["sample", "--ckpt", "model", "--n", "1", "--out", "s", *DRAWING]) == 0
    assert main(["export", ckpt, "--to", "model"]) == 2
    assert "model: already exists and is never replaced; choose another name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--diffusers", "--count", "4"], "--diffusers: writes no image grid; leave out --count and --seed"),
        (["--diffusers", "--seed", "0"], "--diffusers: writes no image grid; leave out --count and --seed"),
        (["--diffusers", "--dataset", "me/a"], "--diffusers: writes no model card; leave out --dataset"),
        (["--dataset", "data/a/b"], "--dataset data/a/b: expected a data set of the Hugging Face hub"),
        (["--diffusers", "--program"], "--diffusers: has a format of its own"),
        (["--diffusers", "--format", "k-diffusion"], "--diffusers: has a format of its own"),
        (["--count", "0", "--seed", "3"], "--seed: there are no samples with --count 0"),
        (["--public"], "--public: only a repository on the hub is public or private"),
    ],
)
def test_an_option_of_export_that_would_have_no_effect_is_refused(ckpt, here, capsys, options, message):
    assert main(["export", ckpt, "--to", "model", *options]) == 2
    assert message in capsys.readouterr().err and not (here / "model").exists()


def test_export_writes_k_diffusions_format_on_request(ckpt, here, capsys):
    assert main(["export", ckpt, "--to", "theirs", "--format", "k-diffusion", "--n", "0", "--device", "cpu"]) == 0
    assert "k-diffusion" in capsys.readouterr().out
    assert main(["convert", "theirs/weights.safetensors", "back.safetensors"]) == 0
