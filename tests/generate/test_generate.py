"""Image i of a seed is a function of the seed, i and the settings."""

import textwrap

import numpy as np
import pytest
import torch

from hdit_core.diffusion.guidance import Guide, guided
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.samplers.brownian_noise import BrownianNoise
from hdit_core.diffusion.samplers.registry import SAMPLERS
from hdit_core.diffusion.samplers.schedule import sampling_sigmas
from hdit_core.errors import RecipeError, UsageError
from hdit_core.generate.generate import generate
from hdit_core.generate.pipeline import Samples
from hdit_core.generate.settings import sample_settings
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.randomness import normal, stream
from tests.diffusion.sample_with import sample


@pytest.fixture
def denoiser(tiny_recipe):
    """A network with random weights everywhere, so that every input shows in its output."""
    network = HourglassTransformer(tiny_recipe.model)
    for name, tensor in network.state_dict().items():
        values = stream(0, name, 0).standard_normal(tensor.shape, "float32") * 0.2
        tensor.copy_(torch.from_numpy(values).abs() if "scale" in name else torch.from_numpy(values))
    return Denoiser(network.eval(), tiny_recipe)


def images(denoiser, indices, **options):
    return torch.cat([batch.images for batch in generate(denoiser, indices, **options)])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_is_bit_identical_in_any_batch(denoiser, sampler):
    alone = sample_settings(denoiser.recipe, sampler=sampler, batch_size=1, guidance=2.0, sigma_min=0.5, sigma_max=2.0)
    expected = images(denoiser, range(7), seed=5, settings=alone)
    for batch_size in (3, 7):
        settings = alone.model_copy(update={"batch_size": batch_size})
        assert torch.equal(images(denoiser, range(7), seed=5, settings=settings), expected)
    assert torch.equal(images(denoiser, [6, 2], seed=5, settings=alone), expected[[6, 2]])


def test_seeds_indices_and_classes_each_change_the_image(denoiser):
    base = images(denoiser, [0], seed=1, class_ids=[1])
    others = [
        images(denoiser, [0], seed=2, class_ids=[1]),
        images(denoiser, [1], seed=1, class_ids=[1]),
        images(denoiser, [0], seed=1, class_ids=[2]),
    ]
    assert base.shape == (1, 3, 16, 24) and base.isfinite().all()
    assert all((other - base).abs().max() > 1e-3 for other in others)


def test_images_equal_those_assembled_by_hand_from_the_settings(denoiser):
    given = {"sampler": "dpmpp_2m_sde", "eta": 0.7, "solver": "heun", "guidance": 2.5, "sigma_max": 40.0, "steps": 5}
    settings = sample_settings(denoiser.recipe, **given)
    sigmas, classes = sampling_sigmas(settings), torch.tensor([1, 3])
    x = normal(9, "start", [4, 7], (3, 16, 24)) * 40
    noise = BrownianNoise(9, [4, 7], (3, 16, 24), sigmas)
    with torch.inference_mode():
        denoise = guided(denoiser, classes, 2.5)
        expected = sample("dpmpp_2m_sde", denoise, x, sigmas, noise, eta=0.7, solver="heun")
    assert torch.equal(images(denoiser, [4, 7], seed=9, class_ids=[1, 3], settings=settings), expected)


def test_classes_are_cycled_unless_they_are_given(denoiser):
    batches = list(generate(denoiser, range(2, 8)))
    assert [batch.class_ids for batch in batches] == [[2, 0, 1, 2], [0, 1]]
    assert [batch.indices for batch in batches] == [[2, 3, 4, 5], [6, 7]]


def test_a_guide_has_an_effect_and_an_incompatible_one_is_refused(denoiser, changed):
    plain = images(denoiser, [0, 1])
    guide = Denoiser(HourglassTransformer(denoiser.recipe.model), denoiser.recipe).eval()
    initialize(guide.network, 0)
    led = images(denoiser, [0, 1], guide=Guide(guide, 1.5))
    assert (led - plain).abs().max() > 1e-3
    assert torch.equal(images(denoiser, [0, 1], guide=Guide(guide, 1.0)), plain)

    other = changed({"model.num_classes": 7})
    with pytest.raises(UsageError, match=r"the guide's model\.num_classes is 7, the model's is 3"):
        generate(denoiser, [0], guide=Guide(Denoiser(HourglassTransformer(other.model), other), 2.0))
    coarse = changed({"model.patch_size": 4})
    with pytest.raises(UsageError, match=r"--size 20x24: height 20 is not a multiple of 8"):
        generate(denoiser, [0], image_size=(20, 24), guide=Guide(Denoiser(torch.nn.Identity(), coarse), 2.0))


def test_the_example_of_the_package_runs_with_its_exported_names(denoiser, monkeypatch, capsys):
    import hdit_core.checkpoint
    from hdit_core.generate import generate as offered

    assert offered is generate
    monkeypatch.setattr(hdit_core.checkpoint, "load_denoiser", lambda path: denoiser)
    example = generate.__doc__.split("by batch.\n\n")[1].split("\n\n    Args")[0]
    exec(textwrap.dedent(example), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "[0, 1, 2, 3] [0, 1, 2, 0] (4, 3, 16, 24)" and len(printed) == 3


def test_overrides_reach_every_key_of_the_table_and_of_no_other(tiny_recipe):
    overrides = ["sample.schedule=vp", "sample.churn.amount=3", "sample.guidance_interval=[0.3, 5]", "sample.steps=9"]
    settings = sample_settings(tiny_recipe, overrides, sampler="heun", steps=7)
    assert (settings.schedule, settings.churn.amount, settings.guidance_interval) == ("vp", 3.0, (0.3, 5.0))
    assert settings.steps == 7
    with pytest.raises(UsageError, match=r"--set train\.lr=1: only keys of \[sample\] apply to sampling"):
        sample_settings(tiny_recipe, ["train.lr=1"])


def test_batches_are_generated_on_demand(denoiser):
    seen = []
    batches = generate(denoiser, range(10**9), on_step=lambda step: seen.append(step))
    assert not seen
    next(batches)
    assert len(seen) == 4


def test_sizes_other_than_the_recipes_are_sampled(denoiser):
    assert images(denoiser, [0, 1], image_size=(24, 32)).shape == (2, 3, 24, 32)
    with pytest.raises(UsageError, match=r"--size 18x32: height 18 is not a multiple of 4 .*; use 16 or 20"):
        generate(denoiser, [0], image_size=(18, 32))


def test_an_unknown_class_is_refused(denoiser):
    with pytest.raises(UsageError, match="class 4: the network has the classes 0 to 2"):
        generate(denoiser, [0], class_ids=[4])


def test_settings_are_checked_like_a_recipe(tiny_recipe):
    assert sample_settings(tiny_recipe, steps=7, guidance=None).steps == 7
    with pytest.raises(RecipeError, match="did you mean 'dpmpp_2m'"):
        sample_settings(tiny_recipe, sampler="dpmpp2m")
    with pytest.raises(RecipeError, match="guidance"):
        sample_settings(tiny_recipe, guidance=float("nan"))


def test_a_batch_converts_to_clipped_bytes_and_pillow_images():
    images = torch.tensor([-1.5, -1.0, 0.0, 1.39]).reshape(2, 1, 1, 2)
    batch = Samples([0, 1], None, images)
    assert batch.to_uint8().reshape(-1).tolist() == [0, 0, 128, 255]
    assert [list(np.asarray(image).ravel()) for image in batch.to_pil()] == [[0, 0], [128, 255]]


def test_one_noise_level_serves_for_all_images_and_a_wrong_channel_count_is_refused_in_one_line(denoiser):
    x = torch.randn(2, 3, 16, 24)
    expected = denoiser(x, torch.full((2,), 1.5), torch.tensor([0, 1]))
    assert torch.equal(denoiser(x, 1.5, torch.tensor([0, 1])), expected)
    assert torch.equal(denoiser(x, torch.tensor(1.5), torch.tensor([0, 1])), expected)
    with pytest.raises(UsageError, match=r"x has shape \(2, 1, 16, 24\); this model takes \[B, 3, H, W\]"):
        denoiser(x[:, :1], 1.5)


def test_sampling_never_uses_tf32(denoiser):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        next(generate(denoiser, [0]))
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


def test_images_of_absurd_sizes_are_refused_before_any_work(denoiser):
    with pytest.raises(UsageError, match=r"--size 1099511627776x1099511627776: an image of 3 channels has more than"):
        generate(denoiser, [0], image_size=(2**40, 2**40))
