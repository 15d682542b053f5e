"""The built-in recipes are the paper's and the reference's, and their headers are true."""

import re
from itertools import pairwise

import pytest
import torch

from hdit_core.flops.count import count
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.read import read_recipe, shipped_recipes
from hdit_core.recipe.write import recipe_toml
from tests.flops.measure import measured_macs

# Parameters and GMACs, as counted by the reference implementation's counter.
PUBLISHED = {
    "ffhq1024": (85_079_300, "206.076"),
    "flowers256": (22_361_274, "11.636"),
    "imagenet128": (117_003_805, "31.369"),
    "imagenet256": (557_416_522, "197.587"),
}
SHIPPED = [*PUBLISHED, "emoji64", "gpic256", "mnist32", "mnist32-inpaint", "mnist32-sr"]


def test_the_built_in_recipes_are_these():
    assert sorted(name for name in shipped_recipes() if "/" not in name) == sorted(SHIPPED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_macs_equal_the_published_ones(name):
    parameters, gmac = PUBLISHED[name]
    counted = count(read_recipe(name).model)

    assert counted.parameters == parameters
    assert f"{counted.macs / 1e9:.3f}" == gmac


@pytest.mark.parametrize("name", SHIPPED)
def test_the_built_network_has_the_counted_parameters(name):
    model = read_recipe(name).model
    with torch.device("meta"):
        network = HourglassTransformer(model)

    assert sum(parameter.numel() for parameter in network.parameters()) == count(model).parameters


@pytest.mark.parametrize("name", SHIPPED)
def test_torch_counts_the_same_macs_of_the_recipes_network(name):
    model = read_recipe(name).model

    assert sum(measured_macs(model).values()) == count(model).macs


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_reads_back_equal(name, tmp_path):
    recipe = read_recipe(name)
    (tmp_path / "again.toml").write_text(recipe_toml(recipe), encoding="utf-8")

    assert read_recipe(str(tmp_path / "again.toml")) == recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_the_first_line_of_a_recipe_describes_it_in_one_sentence(name):
    recipe = read_recipe(name)
    title = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()[0]

    assert re.fullmatch(r"# [A-Z].{20,110}[.]", title)
    assert "{}x{}".format(*recipe.model.image_size) in title


@pytest.mark.parametrize("name", SHIPPED)
def test_the_header_gives_data_command_hardware_score_and_the_counted_cost(name):
    lines = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()
    header = {line[2:10].strip(): line[12:] for line in lines if re.match(r"# [a-z]+ {2,}\S", line)}
    model = read_recipe(name).model
    counted = count(model)

    assert list(header) == ["data", "train", "hardware", "score", "cost"]
    assert header["data"].endswith(f"--size {model.image_size[0]} --out {read_recipe(name).data.path}")
    assert header["train"] == f"hdit train {name} --out runs/{name}"
    assert header["cost"] == (
        f"{counted.parameters:,} parameters, {counted.macs / 1e9:.3f} GMAC for one image forward: `hdit flops {name}`"
    )


def test_imagenet256_grows_its_batch_as_in_the_paper():
    """Table 7: 2M steps of 256 images, then 50k of 512, 100k of 1024 and 50k of 2048."""
    train = read_recipe("imagenet256").train
    marks = [0, *(growth.after_images for growth in train.batch_growth), train.num_images]
    steps = {train.batch_size_at(start): (end - start) / train.batch_size_at(start) for start, end in pairwise(marks)}

    assert steps == {256: 2_000_000, 512: 50_000, 1024: 100_000, 2048: 50_000}


@pytest.mark.parametrize(("name", "steps"), [("ffhq1024", 1_000_000), ("imagenet128", 400_000)])
def test_the_other_runs_of_the_paper_are_as_long_as_printed(name, steps):
    train = read_recipe(name).train

    assert (train.num_images, train.batch_size, train.batch_growth) == (256 * steps, 256, ())


@pytest.mark.parametrize("name", ["ffhq1024", "imagenet128", "imagenet256"])
def test_the_papers_runs_share_optimizer_loss_and_sampler(name):
    recipe = read_recipe(name)
    train, diffusion, sample = recipe.train, recipe.diffusion, recipe.sample

    assert (train.lr, train.betas, train.eps, train.weight_decay) == (5e-4, (0.9, 0.95), 1e-8, 1e-2)
    assert (train.warmup_images, train.cooldown_images, train.ema_power, train.ema_max) == (0, 0, 0.75, 0.9999)
    assert (diffusion.sigma_data, diffusion.weighting) == (0.5, "soft-min-snr")
    assert diffusion.density.model_dump(exclude_none=True) == {
        "type": "cosine-interpolated", "sigma_min": 1e-3, "sigma_max": 1e3,
    }  # fmt: skip
    assert (sample.sampler, sample.steps, sample.schedule, sample.eta) == ("dpmpp_3m_sde", 50, "karras", 1.0)
    assert (sample.sigma_min, sample.sigma_max) == (1e-2, 640 if name == "ffhq1024" else 160)
    assert sample.guidance == 1


def test_only_the_face_recipe_has_augmentation_and_dropout_in_its_innermost_level():
    faces, *others = (read_recipe(name) for name in ("ffhq1024", "imagenet128", "imagenet256"))

    assert faces.data.augment_prob == 0.12
    assert [level.dropout for level in faces.model.levels] == [0, 0, 0, 0, 0.1]
    assert not any(recipe.data.augment_prob for recipe in others)
    assert not any(level.dropout for recipe in others for level in recipe.model.levels)
