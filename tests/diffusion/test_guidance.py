import pytest
import torch

from hdit_core.diffusion.guidance import Guide, guided
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.samplers.schedule import sampling_sigmas
from hdit_core.errors import UsageError
from hdit_core.recipe.sample import SampleRecipe
from tests.diffusion.sample_with import sample

CLASSES = torch.tensor([0, 2])


class Counting(torch.nn.Module):
    """A network whose answer tells every argument apart, and which counts the images that it is given."""

    def __init__(self, slope=3.0):
        super().__init__()
        self.images, self.calls, self.class_ids, self.slope = 0, 0, None, slope

    def forward(self, x, sigma, class_ids=None, augment_cond=None, mapping_cond=None, condition=None):
        self.images, self.calls, self.class_ids = self.images + len(x), self.calls + 1, class_ids
        shift = sum(cond.to(x).sum(1) for cond in (augment_cond, mapping_cond) if cond is not None)
        size = torch.ones_like(sigma) if class_ids is None else (class_ids + 1.0) ** 2
        if condition is not None:
            shift = shift + (condition.mean((1, 2, 3)) + 1) ** 3
        waves = torch.sin(self.slope * x) * (sigma.log() * size).view(-1, 1, 1, 1)
        return waves + (shift + size).view(-1, 1, 1, 1)


@pytest.fixture
def denoiser(tiny_recipe):
    return Denoiser(Counting(), tiny_recipe).double()


@pytest.fixture
def worse(tiny_recipe):
    """A model of the same images that answers otherwise."""
    return Denoiser(Counting(slope=2.0), tiny_recipe).double()


@pytest.fixture
def worse_without_classes(changed):
    return Denoiser(Counting(slope=2.0), changed({"model.num_classes": 0})).double()


@pytest.fixture
def x():
    return torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def sigma():
    return torch.tensor([0.4, 7.0], dtype=torch.float64)


def test_guidance_extrapolates_from_the_unconditional_image(denoiser, x, sigma):
    conditional = denoiser(x, sigma, CLASSES)
    unconditional = denoiser(x, sigma, torch.full_like(CLASSES, 3))
    found = guided(denoiser, CLASSES, 2.5)(x, sigma)
    torch.testing.assert_close(found, unconditional + 2.5 * (conditional - unconditional), rtol=1e-12, atol=0)


def test_guidance_evaluates_both_halves_at_once_with_the_unconditional_one_first(denoiser, x, sigma):
    guided(denoiser, CLASSES, 2.5)(x, sigma)
    assert (denoiser.network.calls, denoiser.network.images) == (1, 4)
    assert denoiser.network.class_ids.tolist() == [3, 3, 0, 2]


def test_weight_1_is_the_conditional_model_bit_for_bit_and_costs_half(denoiser, x, sigma):
    expected = denoiser(x, sigma, CLASSES)
    denoiser.network.images = 0
    assert torch.equal(guided(denoiser, CLASSES, 1.0)(x, sigma), expected)
    assert denoiser.network.images == 2


def test_weight_0_is_the_unconditional_model_and_costs_half(denoiser, x, sigma):
    expected = denoiser(x, sigma, torch.full_like(CLASSES, 3))
    denoiser.network.images = 0
    assert torch.equal(guided(denoiser, CLASSES, 0.0)(x, sigma), expected)
    assert denoiser.network.images == 2


def test_a_model_without_classes_gets_no_classes(denoiser, x, sigma):
    assert torch.equal(guided(denoiser)(x, sigma), denoiser(x, sigma))


def test_both_halves_have_the_same_other_conditioning(denoiser, x, sigma):
    augment, mapping = torch.rand(2, 9).double(), torch.rand(2, 5).double()
    conditional = denoiser(x, sigma, CLASSES, augment, mapping)
    unconditional = denoiser(x, sigma, torch.full_like(CLASSES, 3), augment, mapping)
    found = guided(denoiser, CLASSES, 3.0, augment, mapping)(x, sigma)
    torch.testing.assert_close(found, unconditional + 3 * (conditional - unconditional), rtol=1e-12, atol=0)
    torch.testing.assert_close(guided(denoiser, CLASSES, 1.0, augment, mapping)(x, sigma), conditional)


def test_guidance_without_classes_is_refused(denoiser):
    with pytest.raises(UsageError, match=r"sample\.guidance = 2\.0 needs classes.*; use 1"):
        guided(denoiser, None, 2.0)


def test_sequential_guidance_evaluates_twice_and_is_bit_identical(denoiser, x, sigma):
    expected = guided(denoiser, CLASSES, 2.5)(x, sigma)
    denoiser.network.calls = denoiser.network.images = 0
    assert torch.equal(guided(denoiser, CLASSES, 2.5, batched=False)(x, sigma), expected)
    assert (denoiser.network.calls, denoiser.network.images) == (2, 4)


def test_autoguidance_uses_the_class_for_both_models(denoiser, worse, x, sigma):
    good, bad = denoiser(x, sigma, CLASSES), worse(x, sigma, CLASSES)
    found = guided(denoiser, CLASSES, guide=Guide(worse, 2.5))(x, sigma)
    torch.testing.assert_close(found, bad + 2.5 * (good - bad), rtol=1e-12, atol=1e-12)
    assert worse.network.class_ids.tolist() == CLASSES.tolist()


def test_a_guide_works_without_classes(worse_without_classes, changed, x, sigma):
    denoiser = Denoiser(Counting(), changed({"model.num_classes": 0})).double()
    good, bad = denoiser(x, sigma), worse_without_classes(x, sigma)
    found = guided(denoiser, guide=Guide(worse_without_classes, 3.0))(x, sigma)
    torch.testing.assert_close(found, bad + 3 * (good - bad), rtol=1e-12, atol=1e-12)


def test_a_guide_without_classes_is_evaluated_without_them(denoiser, worse_without_classes, x, sigma):
    good, bad = denoiser(x, sigma, CLASSES), worse_without_classes(x, sigma)
    found = guided(denoiser, CLASSES, guide=Guide(worse_without_classes, 2.0))(x, sigma)
    torch.testing.assert_close(found, bad + 2 * (good - bad), rtol=1e-12, atol=1e-12)
    assert worse_without_classes.network.class_ids is None


@pytest.mark.parametrize("batched", [True, False])
def test_both_kinds_of_guidance_are_added(denoiser, worse, x, sigma, batched):
    good, bad = denoiser(x, sigma, CLASSES), worse(x, sigma, CLASSES)
    without = denoiser(x, sigma, torch.full_like(CLASSES, 3))
    found = guided(denoiser, CLASSES, 1.8, batched=batched, guide=Guide(worse, 2.5))(x, sigma)
    torch.testing.assert_close(found, good + 0.8 * (good - without) + 1.5 * (good - bad), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_autoguidance_of_scale_1_is_an_exact_no_op_without_evaluations(denoiser, worse, x, sigma, weight):
    expected = guided(denoiser, CLASSES, weight)(x, sigma)
    assert torch.equal(guided(denoiser, CLASSES, weight, guide=Guide(worse, 1.0))(x, sigma), expected)
    assert worse.network.calls == 0


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_an_unbounded_interval_and_a_rescale_of_0_change_no_bit(denoiser, x, sigma, weight):
    expected = guided(denoiser, CLASSES, weight)(x, sigma)
    assert torch.equal(guided(denoiser, CLASSES, weight, interval=(0.0, 8.0), rescale=0.0)(x, sigma), expected)


def test_outside_the_interval_there_is_one_evaluation(denoiser, worse, x, sigma):
    expected = denoiser(x, sigma, CLASSES)
    denoiser.network.calls = denoiser.network.images = 0
    led = guided(denoiser, CLASSES, 2.5, guide=Guide(worse, 2.0), interval=(8.0, 9.0), rescale=0.7)
    assert torch.equal(led(x, sigma), expected)
    assert (denoiser.network.calls, denoiser.network.images, worse.network.calls) == (1, 2, 0)


def test_the_interval_is_open_below_and_closed_above(denoiser, x):
    led, plain = guided(denoiser, CLASSES, 2.5, interval=(0.4, 7.0)), guided(denoiser, CLASSES)
    both = guided(denoiser, CLASSES, 2.5)
    for level, like in ((0.4, plain), (0.41, both), (7.0, both), (7.01, plain)):
        sigma = torch.full((2,), level, dtype=torch.float64)
        assert torch.equal(led(x, sigma), like(x, sigma))


def test_guidance_is_applied_per_image_by_its_noise_level(denoiser, x, sigma):
    led = guided(denoiser, CLASSES, 2.5, interval=(1.0, 9.0))
    denoiser.network.images = 0
    found = led(x, sigma)
    assert denoiser.network.images == 3
    assert torch.equal(found[:1], denoiser(x, sigma, CLASSES)[:1])
    assert torch.equal(found[1:], guided(denoiser, CLASSES, 2.5)(x, sigma)[1:])


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_a_sampler_evaluates_only_the_halves_that_the_interval_needs(denoiser, worse, x, weight, batched):
    settings = SampleRecipe(steps=20, sigma_max=80.0)
    sigmas = sampling_sigmas(settings)
    inside = int(((sigmas > 0.3) & (sigmas <= 5.0)).sum())
    led = guided(denoiser, CLASSES, weight, batched=batched, guide=Guide(worse, 2.0), interval=(0.3, 5.0))
    sample("dpmpp_2m", led, 80 * x, sigmas, lambda a, b: x)
    assert 0 < inside < 20
    assert denoiser.network.images == 2 * 20 + 2 * inside
    assert worse.network.images == 2 * inside


def test_a_rescale_of_1_gives_each_image_the_standard_deviation_of_the_unguided_one(denoiser, x, sigma):
    plain, led = denoiser(x, sigma, CLASSES), guided(denoiser, CLASSES, 4.0)(x, sigma)
    found = guided(denoiser, CLASSES, 4.0, rescale=1.0)(x, sigma)
    deviation = [images.std((1, 2, 3), correction=0) for images in (plain, led, found)]
    torch.testing.assert_close(deviation[2], deviation[0], rtol=1e-12, atol=0)
    assert ((deviation[1] - deviation[0]).abs() > 0.1).all()
    torch.testing.assert_close(found / led, (deviation[0] / deviation[1]).view(2, 1, 1, 1).expand_as(led))


def test_a_rescale_between_0_and_1_interpolates_linearly(denoiser, x, sigma):
    none, part, full = (guided(denoiser, CLASSES, 4.0, rescale=share)(x, sigma) for share in (0.0, 0.7, 1.0))
    torch.testing.assert_close(part, 0.3 * none + 0.7 * full, rtol=1e-12, atol=1e-12)


def test_the_unconditional_model_is_rescaled_to_the_conditional_one(denoiser, x, sigma):
    plain, found = denoiser(x, sigma, CLASSES), guided(denoiser, CLASSES, 0.0, rescale=1.0)(x, sigma)
    torch.testing.assert_close(found.std((1, 2, 3)), plain.std((1, 2, 3)), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("model.num_classes", 5, r"the guide's model.num_classes is 5, the model's is 3; expected equal values"),
        ("model.channels", 1, r"the guide's model.channels is 1, the model's is 3"),
        ("model.mapping_cond_dim", 4, r"the guide's model.mapping_cond_dim is 4, the model's is 0"),
        ("model.condition_channels", 2, r"the guide's model.condition_channels is 2, the model's is 0"),
    ],
)
def test_a_guide_with_other_inputs_is_refused(denoiser, changed, key, value, message):
    guide = Guide(Denoiser(Counting(), changed({key: value, "data.augment_prob": 0.0})), 2.0)
    with pytest.raises(UsageError, match=message):
        guided(denoiser, CLASSES, guide=guide)


# --- condition images and vectors ------------------------------------------------------------------------------------


@pytest.fixture
def given(x):
    """Condition images and vectors of the two images."""
    numbers = torch.Generator().manual_seed(7)
    condition = torch.rand(2, 2, 4, 6, dtype=torch.float64, generator=numbers)
    return {"condition": condition, "mapping_cond": torch.rand(2, 5, dtype=torch.float64, generator=numbers)}


@pytest.mark.parametrize("batched", [True, False])
def test_each_input_is_guided_by_its_own_scale_and_dropped_as_zeros(denoiser, x, sigma, given, batched):
    def answer(class_ids=CLASSES, condition=given["condition"], vector=given["mapping_cond"]):
        return denoiser(x, sigma, class_ids, None, vector, condition)

    zeros = {key: torch.zeros_like(value) for key, value in given.items()}
    all_given = answer()
    expected = (
        all_given
        + 1.5 * (all_given - answer(class_ids=torch.full_like(CLASSES, 3)))
        + 0.5 * (all_given - answer(condition=zeros["condition"]))
        - 0.25 * (all_given - answer(vector=zeros["mapping_cond"]))
    )
    scales = {"condition_guidance": 1.5, "vector_guidance": 0.75}
    denoiser.network.images = denoiser.network.calls = 0
    found = guided(denoiser, CLASSES, 2.5, batched=batched, **given, **scales)(x, sigma)
    assert (denoiser.network.images, denoiser.network.calls) == (8, 1 if batched else 4)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_scale_zero_of_a_condition_is_the_model_without_it_at_one_evaluation(denoiser, x, sigma, given):
    without = denoiser(x, sigma, CLASSES, None, given["mapping_cond"], torch.zeros_like(given["condition"]))
    denoiser.network.images = 0
    found = guided(denoiser, CLASSES, condition_guidance=0.0, **given)(x, sigma)
    assert torch.equal(found, without)
    assert denoiser.network.images == 2


@pytest.mark.parametrize("key", ["condition", "vector"])
def test_guidance_for_an_input_that_is_not_given_is_refused(denoiser, key):
    with pytest.raises(UsageError, match=f"sample.{key}_guidance = 2.0 needs a {key}, but none is given; use 1"):
        guided(denoiser, CLASSES, **{f"{key}_guidance": 2.0})
