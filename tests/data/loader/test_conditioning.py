"""Condition images and vectors of batches: functions of (seed, image number) alone."""

import numpy as np
import pytest
import torch

from hdit_core.data.degrade.degrade import degrade
from hdit_core.data.loader.batch import load_batches
from hdit_core.data.loader.conditioning import Conditioning
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.errors import DataError
from hdit_core.images import from_uint8, to_float
from hdit_core.recipe.data import DegradeRecipe
from tests.data.conditioned_set import DIM, SAMPLES, write_conditioned_set
from tests.data.elastic import image_at

DEGRADE = (
    DegradeRecipe(kind="downscale", factor=2.0),
    DegradeRecipe(kind="noise", std=0.1),
    DegradeRecipe(kind="mask"),
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A set of five 4-channel images with 2-channel condition images and vectors."""
    folder = tmp_path_factory.mktemp("stored") / "set"
    write_conditioned_set(folder)
    return folder


def load(reader, plan, **keys):
    keys = {"seed": 3, "workers": 0} | keys
    (*batches,) = load_batches(reader, plan, **keys)
    return [batch.to("cpu") for batch in batches]


def test_a_condition_image_is_the_degraded_image_of_its_index(data_set):
    reader = ImageReader(data_set)
    (batch,) = load(reader, [range(40, 47)], conditioning=Conditioning(4, degrade=DEGRADE))
    assert batch.mapping_cond is None
    assert batch.condition.shape == (7, 4, 8, 12)
    for place, number in enumerate(range(40, 47)):
        image = from_uint8(reader.read(image_at(3, number, 23))[0][None])[0]
        assert torch.equal(batch.images[place], image)
        assert torch.equal(batch.condition[place], degrade(image, DEGRADE, 3, number))


def test_conditions_change_neither_the_images_nor_their_random_numbers(data_set):
    plain, conditioned = (
        load(ImageReader(data_set), [range(5, 12)], conditioning=conditioning)[0]
        for conditioning in (None, Conditioning(4, degrade=DEGRADE, dropout=0.5))
    )
    for name in ("images", "noise", "uniform", "augment_cond"):
        assert torch.equal(getattr(plain, name), getattr(conditioned, name))
    assert plain.condition is None


@pytest.mark.parametrize("workers", [0, 2])
def test_stored_conditions_and_vectors_belong_to_their_image(stored, workers):
    reader, conditioning = ImageReader(stored), Conditioning(2, DIM)
    batches = load(reader, [range(4), range(4, 7)], conditioning=conditioning, workers=workers)
    condition, vectors = (torch.cat([getattr(b, name) for b in batches]) for name in ("condition", "mapping_cond"))
    for number in range(7):
        index = image_at(3, number, SAMPLES)
        expected = to_float(reader.condition(index)[None], [(-4.0, 4.0)])[0]
        assert torch.equal(condition[number], expected)
        assert torch.equal(vectors[number], torch.from_numpy(reader.vector(index)))


def test_mirroring_flips_half_of_the_images_with_their_conditions(stored):
    reader, numbers = ImageReader(stored), range(200)
    plain, mirrored = (
        load(reader, [numbers], conditioning=Conditioning(2), mirror=mirror)[0] for mirror in (False, True)
    )
    flips = [not torch.equal(a, b) for a, b in zip(plain.images, mirrored.images, strict=True)]
    assert 70 < sum(flips) < 130
    for place, flip in enumerate(flips):
        for name in ("images", "condition"):
            before, after = getattr(plain, name)[place], getattr(mirrored, name)[place]
            assert torch.equal(after, before.flip(-1) if flip else before)
    computed = load(reader, [numbers], conditioning=Conditioning(4, degrade=DEGRADE[:1]), mirror=True)[0]
    assert torch.equal(computed.condition[7], degrade(computed.images[7], DEGRADE[:1], 3, 7))
    assert not mirrored.augment_cond.any()


def test_conditions_and_vectors_are_dropped_independently(stored):
    reader, numbers = ImageReader(stored), range(400)
    (batch,) = load(reader, [numbers], conditioning=Conditioning(2, DIM, dropout=0.3))
    dropped = (batch.condition.flatten(1) == 0).all(1), (batch.mapping_cond == 0).all(1)
    both = dropped[0] & dropped[1]
    assert [mask.float().mean().item() for mask in dropped] == pytest.approx([0.3, 0.3], abs=0.07)
    assert both.float().mean().item() == pytest.approx(0.09, abs=0.05)
    (plain,) = load(reader, [numbers], conditioning=Conditioning(2, DIM))
    assert torch.equal(batch.condition[~dropped[0]], plain.condition[~dropped[0]])
    assert torch.equal(batch.mapping_cond[~dropped[1]], plain.mapping_cond[~dropped[1]])


def test_no_bit_depends_on_ranks_workers_or_micro_batches(data_set):
    conditioning = Conditioning(4, 0, DEGRADE, dropout=0.2)
    keys = {"conditioning": conditioning, "mirror": True}
    (whole,) = load(ImageReader(data_set), [range(12)], **keys)
    for ranks, workers in ((1, 2), (2, 0), (3, 0)):
        share = 12 // ranks
        parts = []
        for rank in range(ranks):
            first = rank * share
            plan = [range(first, first + 2), range(first + 2, first + share)]
            parts += load(ImageReader(data_set), plan, workers=workers, **keys)
        assert torch.equal(torch.cat([part.condition for part in parts]), whole.condition)


@pytest.mark.parametrize(
    ("conditioning", "message"),
    [
        (Conditioning(3), r"has condition images of 0 channels \(0: none\), the recipe takes 3; prepare"),
        (Conditioning(0, 5), r"has vectors of 0 numbers \(0: none\), model.mapping_cond_dim is 5; prepare the data"),
    ],
)
def test_a_set_without_the_conditions_of_the_model_is_refused(data_set, conditioning, message):
    with pytest.raises(DataError, match=message):
        load(ImageReader(data_set), [range(4)], conditioning=conditioning)


def test_a_vector_with_nan_is_refused_with_the_index_of_its_image(stored, monkeypatch):
    monkeypatch.setattr(ImageReader, "vector", lambda self, index: np.array([index, np.nan, 0], np.float32))
    with pytest.raises(DataError, match=r"the vector of image \d+ has NaN or infinite numbers; prepare the data again"):
        load(ImageReader(stored), [range(4)], conditioning=Conditioning(0, DIM))
