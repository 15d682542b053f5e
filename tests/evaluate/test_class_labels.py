"""Classes of samples: a function of each image's index alone."""

import numpy as np
import pytest

from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import UsageError
from hdit_core.evaluate.generated import class_ids, generated_images


@pytest.mark.parametrize("labels", ["balanced", "uniform", "data"])
def test_any_subset_has_the_classes_of_the_whole_set(labels):
    counts = [5, 0, 1]
    whole = class_ids(range(60), 3, 7, labels, counts)
    assert class_ids([3, 41, 59], 3, 7, labels, counts) == [whole[3], whole[41], whole[59]]


def test_balanced_labels_cycle_through_the_classes():
    assert class_ids(range(5), 3, 0, "balanced") == [0, 1, 2, 0, 1]


def test_uniform_labels_are_equally_frequent():
    counts = np.bincount(class_ids(range(6000), 3, 1, "uniform"), minlength=3)
    assert (abs(counts - 2000) < 5 * (6000 * 2 / 9) ** 0.5).all()
    assert class_ids(range(20), 3, 1, "uniform") != class_ids(range(20), 3, 2, "uniform")


def test_labels_of_the_data_have_its_class_frequencies():
    counts = np.bincount(class_ids(range(6000), 4, 1, "data", [10, 0, 30, 60]), minlength=4)
    assert counts[1] == 0
    assert abs(counts / 6000 - np.array([0.1, 0, 0.3, 0.6])).max() < 0.03


@pytest.mark.parametrize(
    "counts, message",
    [
        (None, "--labels data: the reference has no class counts"),
        ([4, 5], "--labels data: the reference has 2 classes, the model 3; pass the model"),
    ],
)
def test_labels_of_the_data_need_the_data_of_the_network(tiny_denoiser, counts, message):
    with pytest.raises(UsageError, match=message):
        generated_images(tiny_denoiser, "run", 4, 0, "data", counts)


def test_generated_images_can_be_selected_by_index(tiny_denoiser):
    images = generated_images(tiny_denoiser, "run", 6, 0, "uniform")
    whole = [read() for read in images.readers()]
    assert len(whole) == 6
    assert np.array_equal(images.read_many([4])[0], whole[4])
    assert generated_images(tiny_denoiser, "run", 6, 1, "uniform").identity != images.identity


def test_the_identity_of_images_changes_with_everything_but_their_number_and_the_models_path(tiny_denoiser):
    """The same weights make other images of another size, or as another kind of prediction."""
    recipe = tiny_denoiser.recipe

    def identity(path="run", n=6, **tables):
        changed = tiny_denoiser.recipe.model_copy(update=tables)
        return generated_images(Denoiser(tiny_denoiser.network, changed, None), path, n, 0, "uniform").identity

    assert identity() == identity("other", 7)
    larger = recipe.model.model_copy(update={"image_size": (32, 48)})
    wider = recipe.diffusion.model_copy(update={"sigma_data": 0.3})
    assert len({identity(), identity(model=larger), identity(diffusion=wider)}) == 3
