"""Batches: a function of (seed, image number) and of nothing else."""

import shutil

import numpy as np
import pytest
import torch

from hdit_core.data.loader.batch import Batch, load_batches
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import DataError
from hdit_core.randomness import normal, stream, streams
from tests.data.class_folders import write_pictures
from tests.data.elastic import image_at

NAMES = ("numbers", "images", "class_ids", "augment_cond", "noise", "uniform")
SETTINGS = {"seed": 3, "augment_prob": 0.5, "class_dropout": 0.3, "num_classes": 3}


def load(folder, plan, workers=0, **changes):
    batches = load_batches(ImageReader(folder), plan, workers=workers, **{**SETTINGS, **changes})
    return [batch.to("cpu") for batch in batches]


def joined(batches):
    """Return all images of some batches in the order of their numbers."""
    joined = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in NAMES}
    order = joined["numbers"].argsort()
    return {name: tensor[order] for name, tensor in joined.items()}


def test_a_batch_contains_the_images_of_its_indices(data_set):
    reader = ImageReader(data_set)
    (batch,) = load(data_set, [range(40, 47)], augment_prob=0.0, class_dropout=0.0)
    assert batch.numbers.tolist() == list(range(40, 47))
    assert batch.images.shape == batch.noise.shape == (7, 3, 8, 12)
    for place, number in enumerate(range(40, 47)):
        image, label = reader.read(image_at(3, number, 23))
        expected = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
        torch.testing.assert_close(batch.images[place], expected)
        assert batch.class_ids[place] == label
        assert torch.equal(batch.noise[place], normal(3, "noise", [number], (3, 8, 12))[0])
        assert batch.uniform[place] == stream(3, "sigma", number).random()
    assert batch.uniform.dtype == torch.float64
    assert not batch.augment_cond.any()


@pytest.mark.parametrize("has_gpu", [True, False])
def test_all_that_moves_to_a_gpu_is_pinned_without_workers_too(has_gpu, data_set, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.clone()) or pinned[-1])
    settings = SETTINGS | {"augment_prob": 1.0}
    (batch,) = load_batches(ImageReader(data_set), [range(4)], workers=0, **settings)
    moved = [batch.images, batch.class_ids, batch.augment_cond, batch.noise, batch.warp.places, batch.warp.sources]
    assert len(pinned) == (len(moved) if has_gpu else 0)
    assert all(any(tensor is copy for copy in pinned) == has_gpu for tensor in moved)


def test_every_epoch_shows_every_image_once(data_set):
    reader = ImageReader(data_set)
    every = {reader.read(index)[0].tobytes() for index in range(23)}
    for epoch in range(2):
        batches = load(
            data_set, [range(23 * epoch, 23 * epoch + 12), range(23 * epoch + 12, 23 * epoch + 23)], augment_prob=0.0
        )
        images = torch.cat([batch.images for batch in batches])
        shown = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        assert {image.tobytes() for image in shown} == every


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("micro", [1, 5, 12])
def test_ranks_and_micro_batches_change_no_bit(data_set, world, micro):
    whole = joined(load(data_set, [range(12, 36)]))
    batches = []
    for rank in range(world):
        share = range(12 + rank * 24 // world, 12 + (rank + 1) * 24 // world)
        batches += load(data_set, [share[start : start + micro] for start in range(0, len(share), micro)])
    split = joined(batches)
    assert all(torch.equal(whole[name], split[name]) for name in NAMES)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_no_bit(data_set, workers):
    plan = [range(start, start + 6) for start in range(0, 30, 6)]
    for alone, together in zip(load(data_set, plan), load(data_set, plan, workers=workers), strict=True):
        assert all(torch.equal(getattr(alone, name), getattr(together, name)) for name in NAMES)


def test_resuming_at_any_image_continues_the_same_sequence(data_set):
    unbroken = load(data_set, [range(start, start + 6) for start in range(0, 60, 6)])
    resumed = load(data_set, [range(start, start + 6) for start in range(30, 60, 6)])
    for one, other in zip(unbroken[5:], resumed, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in NAMES)


def test_another_seed_changes_everything_random(data_set):
    (one,), (other,) = load(data_set, [range(20)]), load(data_set, [range(20)], seed=4)
    assert not any(torch.equal(getattr(one, name), getattr(other, name)) for name in NAMES[1:])


def test_a_dropped_class_becomes_the_number_of_classes(data_set):
    (dropped,) = load(data_set, [range(2000)], augment_prob=0.0)
    (kept,) = load(data_set, [range(2000)], augment_prob=0.0, class_dropout=0.0)
    gone = dropped.class_ids == 3
    assert 500 < int(gone.sum()) < 700
    assert torch.equal(dropped.class_ids[~gone], kept.class_ids[~gone])
    assert kept.class_ids.max() == 2


def test_batches_for_a_model_without_classes_have_none(data_set):
    (batch,) = load(data_set, [range(4)], num_classes=0)
    assert batch.class_ids is None
    assert batch.to("cpu").class_ids is None


def test_a_batch_moves_to_the_device_except_for_the_uniform_numbers_of_noise_levels(data_set):
    (batch,) = load(data_set, [range(4)])
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    kept = {name for name in NAMES if getattr(moved, name).device.type != "meta"}
    assert kept == {"numbers", "uniform"}  # in 64 bits, which MPS does not have for floats
    assert torch.equal(moved.uniform, batch.uniform) and torch.equal(moved.numbers, batch.numbers)


def test_a_model_with_classes_refuses_images_without(tmp_path):
    prepare_data(PrepareSettings(str(write_pictures(tmp_path / "p")), tmp_path / "set", (8, 12), labels="none"))
    with pytest.raises(
        DataError, match=r"set: its images have no classes, the model expects 3; set model.num_classes to 0"
    ):
        load(tmp_path / "set", [range(4)])


def test_a_model_with_too_few_classes_is_refused(data_set):
    with pytest.raises(DataError, match=r"its images have 3 classes, the model has 2; set model.num_classes to 3"):
        load(data_set, [range(4)], num_classes=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_found_in_a_worker_is_one_line(data_set, tmp_path, workers):
    copy = shutil.copytree(data_set, tmp_path / "copy")
    path = copy / "shard-000001.tar"
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"JDAT"))
    with pytest.raises(DataError, match=r"^[^\n]*shard-000001.tar: image [^\n]*damaged[^\n]*$"):
        load(copy, [range(23)], workers=workers)


def test_infinite_plans_are_read_only_as_far_as_needed(data_set):
    plan = (range(start, start + 4) for start in iter(lambda: 0, 1))
    for workers in (0, 1):
        batches = load_batches(ImageReader(data_set), plan, workers=workers, **SETTINGS)
        assert next(batches).numbers.tolist() == [0, 1, 2, 3]
        batches.close()


def test_reading_does_not_advance_torchs_random_numbers(data_set):
    """Dropout draws from them: with another number of workers the network would be another."""
    before = torch.get_rng_state()
    for workers in (0, 1):
        load(data_set, [range(4)], workers=workers)
        assert torch.equal(torch.get_rng_state(), before)


def test_fast_random_streams_equal_those_of_numpy():
    indices = [0, 5, 2**40, 7]
    for generator, index in zip(streams(9, "noise", indices), indices, strict=True):
        expected = stream(9, "noise", index)
        assert generator.random(3).tolist() == expected.random(3).tolist()
        assert generator.integers(0, 100, 3, np.uint32).tolist() == expected.integers(0, 100, 3, np.uint32).tolist()
