"""16-bit images of four channels with 2-channel conditions, from the shell: prepare, train, sample, restore."""

import io
import json
import tarfile

import numpy as np
import pytest
import tifffile

from hdit_cli.main import main
from hdit_core.checkpoint import load_denoiser
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.generate.pipeline import ConditionInputs, SamplingPipeline
from hdit_core.generate.restore.job import RestoreJob
from hdit_core.images import to_float
from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.write import recipe_toml
from tests.conftest import TINY

RANGES = [[0.0, 65535.0], [0.0, 4095.0], [100.0, 200.0], [0.0, 10.0]]
COUNT = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run on such a set, made by the commands."""
    folder = tmp_path_factory.mktemp("arrays")
    numbers = np.random.Generator(np.random.Philox(8))
    low, high = np.array(RANGES).T
    for number in range(COUNT):
        for name, channels in (("images", 4), ("conditions", 2)):
            (folder / name).mkdir(exist_ok=True)
            shares = numbers.uniform(0, 1, (16, 24, channels))
            values = np.rint(low[:channels] + shares * (high - low)[:channels]).astype(np.uint16)
            np.save(folder / name / f"{number}.npy", values)
    options = [word for pair in RANGES for word in ("--range", ",".join(map(str, pair)))]
    command = [
        "prepare-data",
        str(folder / "images"),
        "--out",
        str(folder / "set"),
        "--size",
        "16x24",
        "--workers",
        "0",
    ]
    arrays = ["--channels", "4", "--dtype", "uint16", *options, "--condition", str(folder / "conditions")]
    assert main([*command, *arrays]) == 0
    tables = TINY | {
        "model": TINY["model"] | {"channels": 4, "num_classes": 0, "condition_channels": 2},
        "data": {"path": str(folder / "set"), "workers": 0, "dtype": "uint16", "value_range": RANGES},
        "condition": {"dtype": "uint16"},
        "train": TINY["train"] | {"num_images": 16},
    }
    (folder / "tiny.toml").write_text(recipe_toml(check_recipe(tables, "tiny")))
    assert main(["train", str(folder / "tiny.toml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def expected(run, indices):
    """Return the samples that the files must hold, in [-1, 1]."""
    denoiser, reader = load_denoiser(run), ImageReader(run.parent / "set")
    ranges = reader.manifest.contents.condition.pixels.ranges

    def conditions(indices):
        return ConditionInputs(to_float(np.stack([reader.condition(index) for index in indices]), ranges), None)

    pipeline = SamplingPipeline(denoiser, denoiser.recipe.sample, 0, (16, 24), conditions=conditions)
    return next(iter(pipeline.generate(list(indices), [None] * len(indices)))).images.clamp(-1, 1)


def test_samples_have_the_networks_values_within_one_16_bit_level(run, tmp_path):
    arguments = ["--ckpt", str(run), "--count", "4", "--condition", str(run.parent / "set")]
    assert main(["sample", *arguments, "--out", str(tmp_path / "samples")]) == 0
    record = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert record["origin"]["pixels"] == {"dtype": "uint16", "range": RANGES}
    paths = sorted((tmp_path / "samples").glob("*.npy"))
    stored = np.stack([np.load(path, allow_pickle=False) for path in paths])
    assert stored.shape == (4, 16, 24, 4) and stored.dtype == np.uint16
    assert (stored >= np.array(RANGES)[:, 0]).all() and (stored <= np.array(RANGES)[:, 1]).all()
    assert main(["sample", *arguments, "--out", str(tmp_path / "x.tar")]) == 0
    with tarfile.open(tmp_path / "x.tar") as tar:
        images = [np.load(io.BytesIO(tar.extractfile(one).read())) for one in tar if one.name.endswith(".npy")]
    np.testing.assert_array_equal(np.stack(images), stored)
    difference = (to_float(stored, [tuple(pair) for pair in RANGES])[:, 0] - expected(run, range(4))[:, 0]).abs().max()
    assert difference / 2 <= 1 / 65535  # the range [-1, 1] is 2 wide


def test_restored_images_have_the_networks_values_within_one_16_bit_level(run, tmp_path, monkeypatch):
    """The condition images go in as 16-bit stacks of pages and as .npy, with the same result."""
    (tmp_path / "in").mkdir()
    for number in (0, 1):
        array = np.load(run.parent / "conditions" / f"{number}.npy")
        with tifffile.TiffWriter(tmp_path / "in" / f"{number}.tif") as file:
            for channel in np.moveaxis(array, -1, 0):
                file.write(channel, metadata=None)
    drawn = []
    monkeypatch.setattr(RestoreJob, "restore", recorded(RestoreJob.restore, drawn))
    for inputs, out, ending in ((tmp_path / "in", "a", "tif"), (run.parent / "conditions", "b", "npy")):
        assert main(["restore", str(inputs), "--ckpt", str(run), "--out", str(tmp_path / out)]) == 0
        record = json.loads((tmp_path / out / "samples.json").read_text())
        assert record["origin"]["pixels"] == {"dtype": "uint16", "range": RANGES}
        assert len(list((tmp_path / out).glob(f"*.{ending}"))) == record["num_images"]
    low, high = np.array(RANGES).T
    for number, image in enumerate(drawn[:2]):
        stored = tifffile.imread(tmp_path / "a" / f"{number}.tif")
        np.testing.assert_array_equal(stored, np.load(tmp_path / "b" / f"{number}.npy"))
        exact = low + (np.moveaxis(image.clamp(-1, 1).double().numpy(), 0, -1) + 1) / 2 * (high - low)
        assert stored.dtype == np.uint16 and (np.abs(stored - exact)[..., 0] / 65535).max() <= 1 / 65535
        assert (np.abs(stored - exact) <= 0.5 + 1e-9).all()  # rounded to the nearest value


def recorded(draw, drawn):
    def recording(job, batch):
        images = draw(job, batch)
        drawn.extend(images)
        return images

    return recording


def test_training_reads_the_values_of_the_set(run):
    reader = ImageReader(run.parent / "set")
    image = to_float(reader.read(3)[0][None], reader.manifest.contents.pixels.ranges)
    assert reader.condition(3).dtype == np.uint16
    assert image.shape == (1, 4, 16, 24) and image.abs().max() <= 1


def test_a_recipe_of_another_type_than_the_set_is_refused_with_the_fix(run, tmp_path, capsys):
    changes = ["--set", "data.dtype=uint8", "--set", "data.value_range=[]"]
    assert main(["train", str(run.parent / "tiny.toml"), "--out", str(tmp_path / "run"), *changes]) == 3
    message = capsys.readouterr().err
    assert "has images of type uint16 with the range [[0.0, 65535.0], " in message
    assert "set data.dtype = 'uint16' and data.value_range = [[0.0, 65535.0], [0.0, 4095.0]" in message
    other = ["--set", "condition.dtype=uint8"]
    assert main(["train", str(run.parent / "tiny.toml"), "--out", str(tmp_path / "run"), *other]) == 3
    message = capsys.readouterr().err
    assert "has condition images of type uint16 with the range [], the recipe says uint8 with []; set cond" in message
