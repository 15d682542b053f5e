"""Ranks and workers may change at every resume: what enters the network stays the same, bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from tests.data.elastic import same_inputs

SEGMENTS = [(1, 1), (3, 0), (2, 3), (6, 0), (4, 1)]


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory):
    """Return a data set with images of 16x24 and of 24x16."""
    folder = tmp_path_factory.mktemp("sizes")
    random = np.random.default_rng(0)
    for number in range(23):
        path = folder / "pictures" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (40, 30, 3) if number % 4 == 0 else (30, 40, 3)
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(path)
    sizes = ((16, 24), (24, 16))
    prepare_data(PrepareSettings(str(folder / "pictures"), folder / "set", sizes[0], buckets=sizes, shard_size=7))
    return folder / "set"


@pytest.mark.parametrize("order", ["uniform", "blocks"])
def test_what_enters_the_network_does_not_depend_on_ranks_or_workers(trained, order):
    recipe = trained({"data.order": order, "data.block_shards": 2, "data.augment_prob": 0.5, "train.batch_size": 12})
    same_inputs(recipe, SEGMENTS)


@pytest.mark.parametrize("order", ["uniform", "blocks"])
def test_what_enters_the_network_with_buckets_and_batch_growth_does_not_depend_on_ranks_or_workers(
    trained, two_sizes, order
):
    growth = [{"after_images": 36, "batch_size": 24}]
    values = {"train.batch_size": 12, "train.batch_growth": growth, "train.micro_batch_size": 5, "data.order": order}
    recipe = trained(values | {"data.path": str(two_sizes), "data.augment_prob": 0.5, "data.block_shards": 2})
    inputs = same_inputs(recipe, SEGMENTS)
    shapes = [{tuple(one["images"].shape) for one in step.values()} for step in inputs]
    assert all(len(of_step) == 1 for of_step in shapes) and len(set.union(*shapes)) == 2
    assert not any(torch.equal(inputs[0][0]["images"], one["images"]) for one in inputs[1].values())
