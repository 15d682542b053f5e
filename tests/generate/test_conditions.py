"""Samples with condition images and vectors: image i is a function of the job, its conditions and i alone."""

import re

import pytest
import torch

from hdit_core.diffusion.guidance import guided
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.samplers.brownian_noise import BrownianNoise
from hdit_core.diffusion.samplers.registry import sample_by
from hdit_core.diffusion.samplers.schedule import sampling_sigmas
from hdit_core.errors import UsageError
from hdit_core.generate.generate import generate
from hdit_core.generate.pipeline import ConditionInputs
from hdit_core.generate.settings import sample_settings
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.randomness import normal, stream


def network_of(recipe):
    """A network with random weights everywhere, so that every input shows in its output."""
    network = HourglassTransformer(recipe.model)
    for name, tensor in network.state_dict().items():
        values = stream(0, name, 0).standard_normal(tensor.shape, "float32") * 0.2
        tensor.copy_(torch.from_numpy(values).abs() if "scale" in name else torch.from_numpy(values))
    return Denoiser(network.eval(), recipe)


@pytest.fixture
def denoiser(changed):
    keys = {"model.condition_channels": 2, "model.mapping_cond_dim": 3, "data.augment_prob": 0.0}
    return network_of(changed(keys | {"train.condition_dropout": 0.1}))


def conditions(indices):
    shape = (len(indices), 2, 16, 24)
    return ConditionInputs(normal(1, "test", indices, shape[1:]), normal(2, "test", indices, (3,)))


def images(denoiser, indices, source=conditions, **options):
    return torch.cat([batch.images for batch in generate(denoiser, indices, conditions=source, **options)])


def test_an_image_with_conditions_is_bit_identical_in_any_batch(denoiser):
    settings = sample_settings(denoiser.recipe, batch_size=3, condition_guidance=2.0, vector_guidance=0.5, guidance=2.0)
    whole = images(denoiser, range(5), seed=3, settings=settings)
    assert torch.equal(images(denoiser, [4, 1], seed=3, settings=settings), whole[[4, 1]])


def test_images_equal_those_of_the_guided_denoiser_with_the_same_conditions(denoiser):
    settings = sample_settings(denoiser.recipe, condition_guidance=2.0, vector_guidance=0.5)
    given, noise = conditions([0, 1]), normal(3, "start", [0, 1], (3, 16, 24))
    denoise = guided(
        denoiser,
        torch.tensor([0, 1]),
        mapping_cond=given.vector,
        condition=given.condition,
        condition_guidance=2.0,
        vector_guidance=0.5,
    )
    sigmas = sampling_sigmas(settings)
    brownian = BrownianNoise(3, [0, 1], (3, 16, 24), sigmas)
    with torch.inference_mode():
        expected = sample_by(settings, denoise, noise * settings.sigma_max, sigmas, brownian)
    assert torch.equal(images(denoiser, [0, 1], seed=3, settings=settings), expected)


def test_other_conditions_give_other_images(denoiser):
    base = images(denoiser, [0])
    for field in ("condition", "vector"):

        def source(indices, field=field):
            given = conditions(indices)
            return ConditionInputs(**(vars(given) | {field: getattr(given, field) + 0.5}))

        assert (images(denoiser, [0], source) - base).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "the network takes condition images of 2 channels, and none are given; see --condition"),
        (ConditionInputs(torch.zeros(1, 2, 16, 24)), "the network takes vectors of 3 numbers, and none are given; see"),
        (
            ConditionInputs(torch.zeros(1, 1, 16, 24), torch.zeros(1, 3)),
            "condition images of shape [1, 1, 16, 24]; this network takes [1, 2, 16, 24]",
        ),
        (
            ConditionInputs(torch.zeros(1, 2, 8, 24), torch.zeros(1, 3)),
            "condition images of shape [1, 2, 8, 24]; this network takes [1, 2, 16, 24]",
        ),
        (
            ConditionInputs(torch.zeros(1, 2, 16, 24), torch.zeros(1, 4)),
            "vectors of shape [1, 4]; this network takes [1, 3]",
        ),
        (
            ConditionInputs(torch.zeros(1, 2, 16, 24), torch.tensor([[0, float("nan"), 0]])),
            "vectors: number 0 of the batch has NaN or infinite values; expected finite ones",
        ),
    ],
)
def test_conditions_that_the_network_does_not_take_are_refused_in_one_line(denoiser, given, message):
    with pytest.raises(UsageError, match=rf"^{re.escape(message)}"):
        images(denoiser, [0], given and (lambda indices: given))


def test_conditions_for_an_unconditional_network_are_refused_in_one_line(tiny_recipe):
    with pytest.raises(UsageError, match="condition images are given, but the network was trained without any; leave"):
        images(network_of(tiny_recipe), [0])
