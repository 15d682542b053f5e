"""A prepared data set as a torch dataset."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hdit_core.data.dataset import PreparedDataset
from hdit_core.data.loader.batch import load_batches
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.loader.order import UniformOrder
from hdit_core.errors import UsageError


def test_pixels_and_classes_equal_those_of_training_without_augmentation(data_set):
    dataset, reader = PreparedDataset(str(data_set)), ImageReader(data_set)
    numbers = range(len(dataset))
    (batch,) = load_batches(reader, [list(numbers)], seed=0, workers=0, num_classes=3)
    indices = UniformOrder(0, len(reader)).images_at(np.array(numbers))
    for index, image, class_id in zip(indices, batch.images, batch.class_ids, strict=True):
        found, label = dataset[index]
        assert torch.equal(found, image) and label == class_id == dataset.class_id(int(index))
    assert len(dataset) == 23 and len(dataset.classes) == 3 and dataset.image_shape() == (3, 8, 12)


def test_returned_bytes_are_the_stored_ones_and_may_be_modified(data_set):
    dataset, floats = PreparedDataset(data_set, dtype="uint8"), PreparedDataset(data_set)
    image, _ = dataset[4]
    assert image.dtype == torch.uint8
    torch.testing.assert_close(image / 127.5 - 1, floats[4][0], rtol=0, atol=1e-6)
    stored = image.clone()
    image.zero_()
    assert torch.equal(dataset[4][0], stored)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_any_data_loader_reads_the_set_with_any_start_method(data_set, method):
    dataset = PreparedDataset(data_set)
    loader = DataLoader(dataset, batch_size=8, num_workers=1, multiprocessing_context=method)
    images, class_ids = zip(*loader, strict=True)
    assert torch.equal(torch.cat(images), torch.stack([image for image, _ in dataset]))
    assert torch.cat(class_ids).tolist() == [class_id for _, class_id in dataset]


def test_a_pickled_data_set_is_reopened(data_set):
    copied = pickle.loads(pickle.dumps(PreparedDataset(data_set, dtype="uint8")))
    assert torch.equal(copied[7][0], PreparedDataset(data_set, dtype="uint8")[7][0])


def test_images_without_classes_have_class_minus_one_and_sizes_may_differ(bucket_set, pictures, prepare):
    prepare(pictures, labels="none")
    dataset = PreparedDataset(pictures.parent / "set")
    assert {class_id for _, class_id in dataset} == {-1} and dataset.classes == ()
    buckets = PreparedDataset(bucket_set)
    assert {tuple(image.shape) for image, _ in buckets} == {(3, 8, 12), (3, 12, 8)}
    assert all(tuple(buckets[index][0].shape) == buckets.image_shape(index) for index in range(len(buckets)))


def test_an_index_out_of_range_and_an_unknown_dtype_are_refused(data_set):
    dataset = PreparedDataset(data_set)
    for index in (23, -1):
        with pytest.raises(IndexError, match=rf"{data_set}: image {index}: expected 0 to 22"):
            dataset[index]
    with pytest.raises(UsageError, match=f"{data_set}: dtype 'int8': expected one of float32, uint8"):
        PreparedDataset(data_set, dtype="int8")
