"""Runs with condition images and vectors: their inputs, resuming, and their sample grids."""

import io
import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.checkpoint.layout import grid_file
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.data.degrade.degrade import degrade
from hdit_core.data.loader.build import open_reader
from hdit_core.data.loader.conditioning import Conditioning
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.errors import DataError, StoppedEarly
from hdit_core.evaluate import score as score_module
from hdit_core.evaluate.extractors.extractor import Extractor
from hdit_core.images import from_uint8, to_uint8
from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.write import recipe_toml
from hdit_core.train import evaluation as scoring
from hdit_core.train.data_checks import warn_about_vectors
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.run import train
from hdit_core.train.start.fork import ForkSource
from tests.data.conditioned_set import DIM, RANGES, write_conditioned_set
from tests.train.killing_runs import final_hash, kill_in_a_save, train_under_fire
from tests.train.nursery import Nursery
from tests.train.ranks import on_ranks
from tests.train.shared_runs import learn

DEGRADE = [{"kind": "downscale", "factor": 4.0}, {"kind": "noise", "std": 0.1}, {"kind": "mask"}]
CONDITIONAL = {
    "model.condition_channels": 4,
    "model.condition_scale": [1.0, 1.0, 1.0, 0.5],
    "condition.degrade": DEGRADE,
    "data.augment_prob": 0.0,
    "data.mirror": True,
    "train.condition_dropout": 0.2,
}


@pytest.fixture
def conditional(trained):
    """Return a function that gives the tiny recipe with condition images, and with other values."""
    return lambda values: trained(CONDITIONAL | values)


@pytest.fixture
def one_hot(monkeypatch):
    """Give every data set vectors: the class of each image, as a one-hot vector of 3."""
    monkeypatch.setattr(ImageReader, "vector_dim", 3)
    monkeypatch.setattr(Conditioning, "problems", lambda self, contents: iter(()))
    monkeypatch.setattr(ImageReader, "vector", lambda self, index: np.eye(3, dtype=np.float32)[self.label(index)])


def stop_at_step(run, step):
    """Ask a run to stop after a step, which no line of the log has to report."""
    return Callbacks(on_step=lambda progress: (run / "STOP").touch() if progress.step == step else None)


def stop_at(run, step):
    def watch(progress):
        if progress.step == step:
            (run / "STOP").touch()

    return Callbacks(on_progress=watch)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_and_resumed_conditional_run_is_bit_identical_to_an_uninterrupted_one(tmp_path, conditional, workers):
    recipe = conditional({"train.micro_batch_size": 3, "data.workers": workers, "train.num_images": 64})
    train(recipe, tmp_path / "unbroken")
    with pytest.raises(StoppedEarly):
        train(recipe, tmp_path / "run", callbacks=stop_at(tmp_path / "run", 4))
    train(recipe, tmp_path / "run")
    assert final_hash(tmp_path / "run") == final_hash(tmp_path / "unbroken")


def test_the_condition_image_is_learned_from(tmp_path, conditional):
    weights = []
    for scale in (1.0, 2.0):
        recipe = conditional({"model.condition_scale": scale, "train.num_images": 16})
        train(recipe, tmp_path / str(scale))
        weights.append(newest_checkpoint(tmp_path / str(scale))[0].tensors("model")["patch_out.proj.weight"])
    assert not torch.equal(*weights)


def test_a_run_with_vectors_trains_resumes_and_writes_grids(tmp_path, trained, one_hot):
    values = {
        "model.mapping_cond_dim": 3,
        "model.num_classes": 0,
        "train.condition_dropout": 0.2,
        "train.num_images": 48,
        "train.sample_every_images": 48,
        "sample.vector_guidance": 2.0,
    }
    recipe = trained(values)
    train(recipe, tmp_path / "unbroken")
    with pytest.raises(StoppedEarly):
        train(recipe, tmp_path / "run", callbacks=stop_at(tmp_path / "run", 2))
    train(recipe, tmp_path / "run")
    assert final_hash(tmp_path / "run") == final_hash(tmp_path / "unbroken")
    grids = [grid_file(run, 48).read_bytes() for run in (tmp_path / "run", tmp_path / "unbroken")]
    assert grids[0] == grids[1]
    vector_in = newest_checkpoint(tmp_path / "run")[0].tensors("model")["conditioning.vector_in.weight"]
    assert vector_in.shape == (32, 3)


@pytest.mark.parametrize(
    ("scale", "shift", "warned"), [(3, -1, False), (1, 0, True), (0.1, 0, True), (30, -10, True), (3, 4, True)]
)
def test_a_run_warns_of_vectors_far_from_a_mean_of_0_and_a_standard_deviation_of_1_to_2(
    tmp_path, trained, one_hot, monkeypatch, notes, scale, shift, warned
):
    plain = ImageReader.vector
    monkeypatch.setattr(ImageReader, "vector", lambda self, index: scale * plain(self, index) + np.float32(shift))
    recipe = trained({"model.mapping_cond_dim": 3, "model.num_classes": 0})
    reader = open_reader(recipe.data)
    rows = np.array([reader.vector(index) for index in range(len(reader))], np.float64)
    warn_about_vectors(recipe, reader)
    assert len(notes) == warned
    if warned:
        mean, std = (float(np.sqrt(np.square(each).mean())) for each in (rows.mean(0), rows.std(0)))
        assert f"have means of about {mean:.2g} and standard deviations of about {std:.2g};" in notes[0]
        assert "subtract each column's mean, divide by its standard deviation" in notes[0]


def test_the_warning_about_vectors_is_part_of_a_run(tmp_path, trained, one_hot, notes):
    train(trained({"model.mapping_cond_dim": 3, "model.num_classes": 0, "train.num_images": 8}), tmp_path / "run")
    assert any("the vectors of " in note for note in notes)


def test_a_fork_of_a_conditional_run_continues_it(tmp_path, conditional):
    train(conditional({"train.num_images": 64}), tmp_path / "parent")
    child = conditional({"train.num_images": 96, "train.lr": 1e-4, "train.condition_dropout": 0.5})
    assert train(child, tmp_path / "child", fork=ForkSource(tmp_path / "parent", None, ())).num_images == 96


def test_a_data_set_without_the_conditions_of_the_recipe_is_refused_before_the_run(tmp_path, trained):
    with pytest.raises(DataError, match=r"has condition images of 0 channels \(0: none\), the recipe takes 1; prepare"):
        train(trained({"model.condition_channels": 1, "data.augment_prob": 0.0}), tmp_path / "run")
    with pytest.raises(DataError, match=r"has vectors of 0 numbers \(0: none\), model.mapping_cond_dim is 5; prepare"):
        train(trained({"model.mapping_cond_dim": 5}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- grids and scores ------------------------------------------------------------------------------------------------


def tile(page, row, column):
    return page[2 + row * 18 : 18 + row * 18, 2 + column * 26 : 26 + column * 26]


def test_a_grid_shows_condition_sample_and_image_in_columns(tmp_path, conditional, tiny_data):
    recipe = conditional({"train.num_images": 16, "train.sample_every_images": 16})
    train(recipe, tmp_path / "run")
    page = np.asarray(Image.open(io.BytesIO(grid_file(tmp_path / "run", 16).read_bytes())))
    assert page.shape == (8 * 18 + 2, 6 * 26 + 2, 3)  # 16 images, two in a row
    reader = ImageReader(tiny_data)
    for index in (0, 1, 15):
        row, column, place = index // 2, 3 * (index % 2), index * 20 // 16
        image = reader.read(place)[0]
        condition = degrade(from_uint8(image[None])[0], recipe.condition.degrade, recipe.train.seed, index)
        assert (tile(page, row, column) == to_uint8(condition[None, :3])[0]).all()
        assert (tile(page, row, column + 2) == image).all()
        assert tile(page, row, column + 1).std() > 0


def test_scores_during_training_are_of_samples_under_the_conditions_of_the_data_set(tmp_path, conditional, monkeypatch):
    weights, seen = torch.randn(5, 3 * 8 * 8, generator=torch.Generator().manual_seed(1)) / 100, []
    device = torch.device("cpu")
    toy = Extractor("toy", "fd-toy", "kd-toy", 5, 8, 4, "0" * 64, lambda levels: levels.flatten(1) @ weights.T, device)
    for module in (score_module, scoring):
        monkeypatch.setattr(module, "open_extractor", lambda *_: toy)
    call = scoring.DatasetConditions.__call__
    monkeypatch.setattr(
        scoring.DatasetConditions, "__call__", lambda self, indices: seen.extend(indices) or call(self, indices)
    )
    values = {"train.eval_every_images": 16, "train.eval_num_images": 12, "train.num_images": 16, "sample.steps": 2}
    train(conditional(values), tmp_path / "run")
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    assert line["num_images"] == 16
    assert any(
        key.startswith("fd-toy") and value > 0 for key, value in line.items() if key not in ("step", "num_images")
    )
    assert sorted(seen) == list(range(12))


# --- ranks and kills -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_two_and_three_ranks_learn_from_the_same_images_and_conditions(tmp_path, conditional):
    recipe = conditional({"train.batch_size": 12, "train.num_images": 24, "train.checkpoint_every_images": 24})
    inputs = []
    for ranks in (1, 2, 3):
        seen = [mine for mine, _ in on_ranks(ranks, learn, recipe, tmp_path / str(ranks))]
        inputs.append({place: digests for mine in seen for place, digests in mine.items()})
    assert sorted(inputs[0]) == list(range(12))
    assert inputs[0] == inputs[1] == inputs[2]


@pytest.mark.slow
def test_a_conditional_run_killed_at_random_is_bit_identical_to_an_uninterrupted_one(tmp_path, conditional):
    nursery = Nursery(tmp_path / "stderr")
    values = {"train.checkpoint_every_images": 16, "train.micro_batch_size": 4, "train.num_images": 64}
    (tmp_path / "tiny.toml").write_text(recipe_toml(conditional(values)))
    try:
        nursery.begin(tmp_path / "tiny.toml", tmp_path / "alone")
        assert nursery.wait() == 0
        kill_in_a_save(nursery, tmp_path / "tiny.toml", tmp_path / "run")
        _, code = train_under_fire(nursery, tmp_path / "tiny.toml", tmp_path / "run", random.Random(1), 1.0)
        assert code == 0
        assert final_hash(tmp_path / "run") == final_hash(tmp_path / "alone")
    finally:
        nursery.close()


# --- conditions of the data set --------------------------------------------------------------------------------------


def test_a_run_with_stored_conditions_of_16_bit_images_trains_samples_and_resumes(tmp_path):
    write_conditioned_set(tmp_path / "data")
    tables = {
        "model": {
            "image_size": [6, 10],
            "channels": 4,
            "condition_channels": 2,
            "mapping_cond_dim": DIM,
            "patch_size": 2,
            "mapping_width": 16,
            "levels": [{"depth": 1, "width": 16, "head_dim": 8, "attention": "global"}],
        },
        "data": {
            "path": str(tmp_path / "data"),
            "workers": 0,
            "mirror": True,
            "dtype": "uint16",
            "value_range": [list(pair) for pair in RANGES],
        },
        "condition": {"dtype": "float32", "value_range": [[-4.0, 4.0]]},
        "train": {
            "num_images": 32,
            "batch_size": 4,
            "condition_dropout": 0.2,
            "channel_weights": [1.0, 2.0, 1.0, 0.5],
            "checkpoint_every_images": 16,
            "sample_every_images": 32,
        },
        "sample": {"steps": 3, "condition_guidance": 1.5},
    }
    recipe = check_recipe(tables, "stored")
    train(recipe, tmp_path / "unbroken")
    with pytest.raises(StoppedEarly):
        train(check_recipe(tables, "stored"), tmp_path / "run", callbacks=stop_at_step(tmp_path / "run", 3))
    train(recipe, tmp_path / "run")
    assert final_hash(tmp_path / "run") == final_hash(tmp_path / "unbroken")
    page = np.asarray(Image.open(io.BytesIO(grid_file(tmp_path / "run", 32).read_bytes())))
    assert page.shape == (3 * 8 + 2, 6 * 12 + 2, 3)  # five images, two in a row
