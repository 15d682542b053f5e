"""Guidance: the denoised image is led away from that of a model which knows less.

Two kinds, alone or together, each nothing at weight 1. Away from the same model without the class: classifier-free
guidance on denoised images (Ho and Salimans, eq. 6; HDiT, section 5.2). Away from a worse model, the class being the
same: autoguidance (Karras et al. 2024, section 3), which needs no classes. With both,

    D + (w - 1) (D - D_no_class) + (w_guide - 1) (D - D_guide),

in an interval of noise levels only where one is given (Kynkaanniemi et al. 2024, section 3). Guidance widens the range
of the pixels; rescaling gives each image back its contrast (Lin et al. 2023, section 3.4).
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hdit_core.devices import at_least_float32
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.samplers.sampler_state import Denoise, mean_of_each
from hdit_core.errors import UsageError

Interval = tuple[float, float]


@dataclass(frozen=True)
class Guide:
    """A worse model of the same images: trained for less long, smaller, or averaged over less.

    Attributes:
        denoiser: its classes are the led model's, or it has none.
        weight: of its guidance; 1: none.
    """

    denoiser: Denoiser
    weight: float


@dataclass(frozen=True)
class Conditions:
    """What the images of a batch are conditioned on."""

    class_ids: Int64[Tensor, "B"] | None
    augment_cond: Float[Tensor, "B 9"] | None
    mapping_cond: Float[Tensor, "B E"] | None

    def denoise(
        self, denoiser: Denoiser, x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"]
    ) -> Float[Tensor, "B C H W"]:
        return denoiser(x, sigma, self.class_ids, self.augment_cond, self.mapping_cond)

    def of(self, rows: Tensor) -> "Conditions":
        """Return those of some of the images, by a mask or by numbers."""
        return Conditions(*(None if each is None else each[rows] for each in self._each()))

    def after(self, other: "Conditions") -> "Conditions":
        """Return those of a batch that has the other's images first."""
        pairs = zip(other._each(), self._each(), strict=True)
        return Conditions(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))

    def without_class(self, num_classes: int | None = None) -> "Conditions":
        """Return the same but for the class: that which means none, or for a model that has no classes none at all."""
        unknown = torch.full_like(self.class_ids, num_classes) if self.class_ids is not None and num_classes else None
        return Conditions(unknown, self.augment_cond, self.mapping_cond)

    def _each(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return self.class_ids, self.augment_cond, self.mapping_cond


def rescale_guidance(
    led: Float[Tensor, "B C H W"], plain: Float[Tensor, "B C H W"], share: float
) -> Float[Tensor, "B C H W"]:
    """Return led images of which each has its standard deviation, by `share` of the way, from the plain one's."""
    ratio = rearrange(_deviation(plain) / _deviation(led), "b -> b 1 1 1").to(led.dtype)
    return share * ratio * led + (1 - share) * led


def _deviation(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B"]:
    wide = images.to(at_least_float32(images.dtype))
    from_mean = wide - rearrange(mean_of_each(wide), "b -> b 1 1 1")
    return mean_of_each(from_mean**2).sqrt()


@dataclass(frozen=True)
class Guided:
    """A denoiser bound to its conditions and its guidance: what a sampler asks, see `guided`."""

    denoiser: Denoiser
    given: Conditions
    weight: float
    guide: Guide | None
    interval: Interval | None
    rescale: float
    batched: bool

    def __call__(self, x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
        """Return the denoised images; those outside of the interval are asked for once."""
        if self.weight == 1 and self.guide is None:
            return self.given.denoise(self.denoiser, x, sigma)
        if self.interval is None:
            return self._guide(x, sigma, self.given)

        inside = self._inside(sigma)
        if inside.all():
            return self._guide(x, sigma, self.given)
        if not inside.any():
            return self.given.denoise(self.denoiser, x, sigma)

        # images of one batch at noise levels of their own, as `dpm_adaptive` has them
        result, outside = torch.empty_like(x), ~inside
        result[inside] = self._guide(x[inside], sigma[inside], self.given.of(inside))
        result[outside] = self.given.of(outside).denoise(self.denoiser, x[outside], sigma[outside])
        return result

    def _inside(self, sigma: Float[Tensor, "B"]) -> Bool[Tensor, "B"]:
        low, high = self.interval or (0.0, float("inf"))
        return (low < sigma) & (sigma <= high)

    def _guide(
        self, x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"], given: Conditions
    ) -> Float[Tensor, "B C H W"]:
        num_classes = self.denoiser.recipe.model.num_classes
        if self.weight == 0 and self.guide is None and not self.rescale:
            return given.without_class(num_classes).denoise(self.denoiser, x, sigma)

        if self.weight == 1:
            led = plain = given.denoise(self.denoiser, x, sigma)
        else:
            without, plain = self._without_and_with_class(x, sigma, given)
            led = without + self.weight * (plain - without)
        if self.guide is not None:
            known = given if self.guide.denoiser.recipe.model.num_classes else given.without_class()
            led = led + (self.guide.weight - 1) * (plain - known.denoise(self.guide.denoiser, x, sigma))
        return rescale_guidance(led, plain, self.rescale) if self.rescale else led

    def _without_and_with_class(
        self, x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"], given: Conditions
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
        unknown = given.without_class(self.denoiser.recipe.model.num_classes)
        if not self.batched:
            return unknown.denoise(self.denoiser, x, sigma), given.denoise(self.denoiser, x, sigma)
        both = given.after(unknown).denoise(self.denoiser, torch.cat([x, x]), torch.cat([sigma, sigma]))
        without, with_class = both.chunk(2)
        return without, with_class


def guided(
    denoiser: Denoiser,
    class_ids: Int64[Tensor, "B"] | None = None,
    weight: float = 1.0,
    augment_cond: Float[Tensor, "B 9"] | None = None,
    mapping_cond: Float[Tensor, "B E"] | None = None,
    batched: bool = True,
    *,
    guide: Guide | None = None,
    interval: Interval | None = None,
    rescale: float = 0.0,
) -> Denoise:
    """Return `denoise(x, sigma)`, what a sampler asks for, with the conditioning bound to it.

    Weight 1 is the plain conditional model and weight 0 the unconditional one, each at the cost of one pass; any other
    weight costs two, and a guide of another weight than 1 one of its own.

    Args:
        denoiser: the model.
        class_ids: class of each image; None for models without classes.
        weight: of guidance away from the model without class, w.
        augment_cond, mapping_cond: the same in all passes; None as in the denoiser.
        batched: run the passes with and without class as one batch, whose first half is unconditional; else one after
            the other, in half of the memory. On a CPU both ways give the same bits.
        guide: a worse model to lead away from as well.
        interval: of noise levels, low < sigma <= high, outside of which nothing is guided; None: everywhere.
        rescale: share of the way, 0 to 1, by which each image's standard deviation is set back to the unguided one's.

    Raises:
        UsageError: guidance without classes, or a guide with others.
    """
    if weight != 1 and class_ids is None:
        raise UsageError(
            f"sample.guidance = {weight} needs classes, and this model is given none; use sample.guidance = 1"
        )
    if guide is not None:
        check_guide(denoiser, guide.denoiser)
    worth_asking = guide if guide is not None and guide.weight != 1 else None
    given = Conditions(class_ids, augment_cond, mapping_cond)
    return Guided(denoiser, given, weight, worth_asking, interval, rescale, batched)


def check_guide(denoiser: Denoiser, guide: Denoiser) -> None:
    """Refuse a guide that cannot be asked what the model is asked.

    Raises:
        UsageError: its channels, classes or conditioning vector are others.
    """
    for key, may_lack in (("channels", False), ("num_classes", True), ("mapping_cond_dim", False)):
        own, other = (getattr(one.recipe.model, key) for one in (denoiser, guide))
        if other != own and not (may_lack and other == 0):
            raise UsageError(f"the guide's model.{key} is {other} and the model's is {own}; expected the same")
