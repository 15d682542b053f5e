import pytest
import torch

from hdit_core.diffusion.samplers.sampler_state import mean_of_each


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_the_mean_of_an_image_is_bit_identical_in_any_batch_and_on_any_number_of_threads(two_threads):
    images = torch.randn(4, 3, 200, 256, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([mean_of_each(image[None]) for image in images])
    torch.set_num_threads(1)
    assert torch.equal(mean_of_each(images), alone)
    torch.testing.assert_close(alone, images.mean((1, 2, 3)))
