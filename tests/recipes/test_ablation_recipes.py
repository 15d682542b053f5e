"""The paper's ablations as recipes: each differs from its neighbor in one setting, has the stated cost, and trains."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.log import read_log
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.flops.baselines import scale_to_size
from hdit_core.flops.count import count
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.read import read_recipe, shipped_recipes
from hdit_core.train.run import train
from tests.flops.measure import measured_macs

# Row, the row that it is derived from, and the changes (HDiT paper, tables 1, 2, 5 and 7).
CHANGES = {
    "r4": ("r3", {"diffusion.weighting": "soft-min-snr"}),
    "b1": ("a", {"model.levels[0].attention": "shifted-window", "model.levels[0].window_size": 8}),
    "b2": ("a", {"model.levels[0].attention": "neighborhood", "model.levels[0].kernel_size": 7}),
    "c": ("b2", {"model.feed_forward": "geglu", "model.levels[0].d_ff": 1152, "model.levels[1].d_ff": 2304}),
    "d": ("c", {"model.positions": "rotary"}),
    "e": ("d", {"diffusion.weighting": "soft-min-snr"}),
    "e2": ("d", {"diffusion.weighting": "min-snr", "diffusion.min_snr_gamma": 5.0}),
    "e3": ("d", {"diffusion.weighting": "min-snr", "diffusion.min_snr_gamma": 4.0}),
    "f1": ("e", {"model.skip": "concat"}),
    "f2": ("e", {"model.skip": "add"}),
    "g": ("e", {"model.norm": "layer"}),
    "gelu": ("e", {"model.feed_forward": "gelu", "model.levels[0].d_ff": 1536, "model.levels[1].d_ff": 3072}),
    "additive": ("e", {"model.positions": "additive"}),
}
ROWS = sorted({*CHANGES, "a", "r3"})
SIZES = (128, 256, 512, 1024)

# Table 1, in GMAC; the last column is not printed there and was computed in closed form.
FLAT, GATED = (106, 657, 6_341, 84_736), (31, 65, 198, 732)
TABLE_1 = {
    "r3": FLAT, "r4": FLAT, "a": (32, 114, 1_060, 14_739), "b1": (29, 60, 185, 683), "b2": (29, 60, 184, 679),
    "c": GATED, "d": GATED, "e": GATED,
}  # fmt: skip


def flat(tables, prefix=""):
    """Every key of nested tables with its value."""
    pairs = enumerate(tables) if isinstance(tables, list) else tables.items()
    found = {}
    for key, value in pairs:
        name = f"{prefix}[{key}]" if isinstance(tables, list) else f"{prefix}.{key}".lstrip(".")
        nested = isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict))
        found |= flat(value, name) if nested else {name: value}
    return found


def keys_of(name):
    return flat(read_recipe(f"ablations/{name}").model_dump(mode="json"))


def test_every_ablation_row_with_supported_blocks_is_built_in():
    assert sorted(name for name in shipped_recipes() if "/" in name) == [f"ablations/{row}" for row in ROWS]


@pytest.mark.parametrize("row", CHANGES)
def test_a_row_differs_from_its_base_row_only_in_what_the_paper_changed(row):
    before, changes = CHANGES[row]
    assert keys_of(row) == keys_of(before) | changes


def test_the_first_rows_differ_only_in_their_levels():
    flat_row, hourglass = keys_of("r3"), keys_of("a")
    differing = {key for key in flat_row | hourglass if flat_row.get(key) != hourglass.get(key)}
    assert all(key.startswith("model.levels") for key in differing)
    (level,) = read_recipe("ablations/r3").model.levels
    assert (level.depth, level.width, level.hidden, level.attention) == (12, 768, 4 * 768, "global")
    assert {hourglass[f"{key}"] for key in ("model.feed_forward", "model.positions", "diffusion.weighting")} == {
        "gelu", "additive", "snr",
    }  # fmt: skip


def test_row_e_is_the_recipe_imagenet128():
    spelled_out = {"model.levels[0].d_ff": 1152, "model.levels[1].d_ff": 2304}
    assert keys_of("e") == flat(read_recipe("imagenet128").model_dump(mode="json")) | spelled_out


@pytest.mark.parametrize("row", TABLE_1)
def test_a_row_has_the_cost_of_table_1_at_every_size(row):
    model = read_recipe(f"ablations/{row}").model
    at_sizes = [scale_to_size(model, (px, px)) if row[0] != "r" else model for px in SIZES]  # DiT does not grow
    counts = [count(each, (px, px)).macs for each, px in zip(at_sizes, SIZES, strict=True)]
    assert tuple(round(macs / 1e9) for macs in counts) == TABLE_1[row]


@pytest.mark.parametrize("row", ROWS)
def test_torch_counts_the_same_parameters_and_macs(row):
    model = read_recipe(f"ablations/{row}").model
    with torch.device("meta"):
        network = HourglassTransformer(model)
    assert sum(parameter.numel() for parameter in network.parameters()) == count(model).parameters
    assert sum(measured_macs(model).values()) == count(model).macs


@pytest.mark.parametrize("row", ROWS)
def test_the_header_names_the_row_and_its_cost(row):
    title, *lines = shipped_recipes()[f"ablations/{row}"].read_text(encoding="utf-8").splitlines()
    header = {line[2:10].strip(): line[12:] for line in lines if re.match(r"# [a-z]+ {2,}\S", line)}
    counted = count(read_recipe(f"ablations/{row}").model)

    paper = "not in the HDiT paper" if len(row) > 2 else f"row {row.upper()} of the HDiT paper"
    assert re.fullmatch(rf"# ImageNet, 128x128, {paper}: .{{10,75}}[.]", title)
    assert list(header) == ["data", "train", "hardware", "score", "cost"]
    assert header["data"] == "hdit prepare-data imagenet/train --size 128 --out data/imagenet128"
    assert header["train"] == f"hdit train ablations/{row} --out runs/ablations/{row}"
    assert header["cost"] == (
        f"{counted.parameters:,} parameters, {counted.macs / 1e9:.3f} GMAC for one image forward: "
        f"`hdit flops ablations/{row}`"
    )


FID = {  # tables 1, 2 and 5
    "r3": 42.49, "r4": 30.71, "a": 50.76, "b1": 55.93, "b2": 51.07, "c": 44.36, "d": 41.41, "e": 27.74,
    "e2": 36.65, "e3": 35.62, "f1": 33.75, "f2": 28.37, "g": 27.69,
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_the_header_gives_the_papers_score_or_none(row):
    text = shipped_recipes()[f"ablations/{row}"].read_text(encoding="utf-8")
    expected = f"FID {FID[row]:.2f} with 50,000 samples" if row in FID else "none: not a row of the paper"
    assert f"# score     {expected}" in text


@pytest.fixture(scope="module")
def wide_data(tmp_path_factory):
    """A prepared data set of 32x64 images in three classes."""
    folder, numbers = tmp_path_factory.mktemp("wide"), np.random.default_rng(0)
    for index in range(12):
        picture = folder / "pictures" / f"class{index % 3}" / f"{index}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (32, 64, 3), np.uint8)).save(picture)
    prepare_data(PrepareSettings(str(folder / "pictures"), folder / "data", (32, 64), shard_size=8))
    return folder / "data"


SMALL = (
    "model.image_size=[32, 64]", "model.num_classes=3", "model.mapping_width=32", "train.num_images=24",
    "train.batch_size=8", "train.log_every_images=8", "train.sample_every_images=0",
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_a_row_trains_at_a_small_size(tmp_path, wide_data, row):
    levels = read_recipe(f"ablations/{row}").model.levels
    small = [
        f"model.levels.{index}.{key}={value}"
        for index, level in enumerate(levels)
        for key, value in {
            "depth": 2, "width": 32 + 16 * index, "head_dim": 16, "kernel_size": 3,
            "d_ff": level.hidden * (32 + 16 * index) // level.width,
        }.items()
    ]  # fmt: skip
    recipe = read_recipe(f"ablations/{row}", [*SMALL, *small, f"data.path={wide_data}", "data.workers=0"])

    assert train(recipe, tmp_path / "run").num_images == 24
    assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2, 3]
    checkpoint, _ = newest_checkpoint(tmp_path / "run")
    start = HourglassTransformer(recipe.model).state_dict()
    assert checkpoint.tensors("model").keys() == start.keys()
    assert checkpoint.tensors("model")["patch_out.proj.weight"].any()  # it began at zero
