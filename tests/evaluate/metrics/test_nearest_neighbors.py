"""The nearest images of the reference: brute force, copies, and independence of batches."""

import numpy as np
import pytest
import torch

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.errors import UsageError
from hdit_core.evaluate.feature_batch import FeatureBatch
from hdit_core.evaluate.metrics.nearest_neighbors import MOST_QUERIES, NEIGHBORS, DigestIndex, NearestSearch
from hdit_core.evaluate.metrics.statistics import Accumulator, key_of
from hdit_core.evaluate.report.sheets import PAIRS, THUMBNAIL_PX, neighbor_sheet, sample_sheet
from hdit_core.images import thumbnail

SAMPLES = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
REFERENCE = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
REFERENCE[31] = SAMPLES[7]


def digests(name, count):
    return [np.random.default_rng([len(name), index]).bytes(32) for index in range(count)]


def found(batch_size, copy=True, reference=REFERENCE):
    places, accumulator = DigestIndex(), Accumulator(4)
    ours, theirs = digests("a", 20), digests("bb", len(reference))
    if copy:
        theirs[31] = ours[7]
    batch = FeatureBatch(SAMPLES, ours, [(5, 6, 3)] * 20)
    places.observe(batch, 0)
    accumulator.add(SAMPLES, ours)
    search = NearestSearch(accumulator.statistics(), places)
    for start in range(0, len(reference), batch_size):
        here = slice(start, start + batch_size)
        rows = reference[here]
        search.observe(FeatureBatch(rows, theirs[here], [(5, 6, 3)] * len(rows)), start)
    return search.neighbors()


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_the_nearest_neighbors_equal_those_of_an_exhaustive_search(batch_size):
    neighbors = found(batch_size)
    distances = torch.cdist(SAMPLES.double(), REFERENCE.double(), compute_mode="donot_use_mm_for_euclid_dist")
    for place, theirs, at in zip(neighbors.indices, neighbors.reference_indices, neighbors.distances, strict=True):
        assert theirs.tolist() == distances[place].argsort()[:NEIGHBORS].tolist()
        torch.testing.assert_close(at, distances[place].sort().values[:NEIGHBORS], atol=1e-6, rtol=1e-6)


def test_the_digest_index_of_a_large_set_is_bounded():
    places, ours, most = DigestIndex(), digests("a", 5 * MOST_QUERIES), 0
    ours[4000:4500] = ours[:500]  # seen again, of which the first counts
    for start in range(0, len(ours), 128):
        here = ours[start : start + 128]
        places.observe(FeatureBatch(torch.zeros(len(here), 4), here, [(5, 6, 3)] * len(here)), start)
        most = max(most, len(places._of_key))
    first = {key_of(digest): place for place, digest in reversed(list(enumerate(ours)))}
    searched = torch.tensor(sorted(first)[:MOST_QUERIES])
    assert places.of(searched) == [first[key] for key in searched.tolist()]
    assert most <= 2 * MOST_QUERIES


def test_a_copy_comes_first_and_is_counted():
    neighbors = found(8)
    assert (neighbors.indices[0], neighbors.reference_indices[0, 0], neighbors.distances[0, 0]) == (7, 31, 0)
    assert neighbors.to_json()["copies"] == 1 and neighbors.to_json()["smallest_distance"] == 0
    assert found(8, copy=False).copies == 0, "equal features alone are no equal pixels"


def test_a_small_reference_has_fewer_neighbors():
    neighbors = found(8, copy=False, reference=REFERENCE[:3])
    assert (neighbors.reference_indices[:, 3:] == -1).all() and neighbors.distances[:, 3:].isinf().all()


def image_set(count, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, 5, 6, 3)).astype(np.uint8)
    return ImageSet({"path": "x"}, count, lambda places: (lambda p=p: images[p] for p in places), "id")


def test_the_sheet_has_a_row_for_each_of_the_nearest_pairs():
    sheet = neighbor_sheet(image_set(20, 0), image_set(50, 1), found(8))
    assert sheet.shape[1] > (1 + NEIGHBORS) * THUMBNAIL_PX and sheet.shape[0] > PAIRS * THUMBNAIL_PX
    few = neighbor_sheet(image_set(20, 0), image_set(3, 1), found(8, False, REFERENCE[:3]))
    assert few.shape == sheet.shape


def test_the_sheet_of_samples_shows_the_first_ones():
    sheet = sample_sheet(image_set(4, 0))
    assert sheet.shape == (2 * THUMBNAIL_PX + 6, 2 * THUMBNAIL_PX + 6, 3)


@pytest.mark.parametrize("shape", [(3, 900, 3), (700, 5, 1), (40, 60, 3)])
def test_a_thumbnail_keeps_the_shape_and_is_square(shape):
    assert thumbnail(np.zeros(shape, np.uint8)).shape == (THUMBNAIL_PX, THUMBNAIL_PX, 3)


def test_a_stream_has_no_sample_sheet():
    with pytest.raises(UsageError, match="-: a stream can be read once; give a file or folder"):
        sample_sheet(ImageSet({"path": "-"}, None, lambda _: iter(())))


def test_every_copy_of_one_reference_image_counts():
    """A model that only repeats a training image has as many duplicates as samples."""
    index, accumulator, same = DigestIndex(), Accumulator(4), digests("a", 1) * 3
    index.observe(FeatureBatch(SAMPLES[:1].expand(3, -1), same, [(5, 6, 3)] * 3), 0)
    accumulator.add(SAMPLES[:1].expand(3, -1), same)
    search = NearestSearch(accumulator.statistics(), index)
    search.observe(FeatureBatch(SAMPLES[:1], same[:1], [(5, 6, 3)]), 0)
    assert search.neighbors().to_json() | {"copies": 3, "queries": 3} == search.neighbors().to_json()
