import pytest
import torch

from hdit_core.diffusion.guidance import guided
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import UsageError

CLASSES = torch.tensor([0, 2])


class Counting(torch.nn.Module):
    """A network whose answer tells every argument apart, and which counts the images that it is given."""

    def __init__(self):
        super().__init__()
        self.images, self.calls, self.class_ids = 0, 0, None

    def forward(self, x, sigma, class_ids=None, augment_cond=None, mapping_cond=None):
        self.images, self.calls, self.class_ids = self.images + len(x), self.calls + 1, class_ids
        shift = sum(cond.to(x).sum(1) for cond in (augment_cond, mapping_cond) if cond is not None)
        shift = shift + (0 if class_ids is None else (class_ids + 1.0) ** 2)
        return torch.sin(3 * x) * sigma.view(-1, 1, 1, 1).log() + torch.as_tensor(shift).view(-1, 1, 1, 1)


@pytest.fixture
def denoiser(tiny_recipe):
    return Denoiser(Counting(), tiny_recipe).double()


@pytest.fixture
def x():
    return torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def sigma():
    return torch.tensor([0.4, 7.0], dtype=torch.float64)


def test_guidance_leads_away_from_the_unconditional_image(denoiser, x, sigma):
    conditional = denoiser(x, sigma, CLASSES)
    unconditional = denoiser(x, sigma, torch.full_like(CLASSES, 3))
    found = guided(denoiser, CLASSES, 2.5)(x, sigma)
    torch.testing.assert_close(found, unconditional + 2.5 * (conditional - unconditional), rtol=1e-12, atol=0)


def test_guidance_asks_once_for_both_with_the_unconditional_half_first(denoiser, x, sigma):
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


def test_a_model_without_classes_is_asked_as_it_is(denoiser, x, sigma):
    assert torch.equal(guided(denoiser)(x, sigma), denoiser(x, sigma))


def test_both_halves_have_the_same_other_conditioning(denoiser, x, sigma):
    augment, mapping = torch.rand(2, 9).double(), torch.rand(2, 5).double()
    conditional = denoiser(x, sigma, CLASSES, augment, mapping)
    unconditional = denoiser(x, sigma, torch.full_like(CLASSES, 3), augment, mapping)
    found = guided(denoiser, CLASSES, 3.0, augment, mapping)(x, sigma)
    torch.testing.assert_close(found, unconditional + 3 * (conditional - unconditional), rtol=1e-12, atol=0)
    torch.testing.assert_close(guided(denoiser, CLASSES, 1.0, augment, mapping)(x, sigma), conditional)


def test_guidance_without_classes_is_refused(denoiser):
    with pytest.raises(UsageError, match=r"sample\.guidance = 2\.0 needs classes.*use sample\.guidance = 1"):
        guided(denoiser, None, 2.0)


def test_guidance_in_turn_asks_twice_for_half_as_many_and_gives_the_same_bits(denoiser, x, sigma):
    expected = guided(denoiser, CLASSES, 2.5)(x, sigma)
    denoiser.network.calls = denoiser.network.images = 0
    assert torch.equal(guided(denoiser, CLASSES, 2.5, batched=False)(x, sigma), expected)
    assert (denoiser.network.calls, denoiser.network.images) == (2, 4)
