"""Guidance: extrapolates the denoised image away from that of a weaker model.

Two kinds, alone or combined, each disabled at scale 1. Classifier-free guidance uses the same model without the class
(Ho and Salimans, eq. 6; HDiT, section 5.2). Autoguidance uses a weaker model with the same class (Karras et al. 2024,
section 3), and works without classes. With both,

    D + (w - 1) (D - D_no_class) + (w_guide - 1) (D - D_guide),

optionally in an interval of noise levels only (Kynkaanniemi et al. 2024, section 3). Guidance widens the range of the
pixels; rescaling restores each image's contrast (Lin et al. 2023, section 3.4).
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
    """A weaker model of the same images, for autoguidance: trained for less time, smaller, or with a shorter EMA.

    Attributes:
        denoiser: with the same classes as the main model, or without classes.
        weight: autoguidance scale; 1 disables it.
    """

    denoiser: Denoiser
    weight: float


@dataclass(frozen=True)
class Conditions:
    """The conditioning of the images of a batch."""

    class_ids: Int64[Tensor, "B"] | None
    augment_cond: Float[Tensor, "B 9"] | None
    mapping_cond: Float[Tensor, "B E"] | None

    def denoise(
        self, denoiser: Denoiser, x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the denoised images under these conditions."""
        return denoiser(x, sigma, self.class_ids, self.augment_cond, self.mapping_cond)

    def of(self, rows: Tensor) -> "Conditions":
        """Return the conditions of some of the images, selected by a mask or by indices."""
        return Conditions(*(None if each is None else each[rows] for each in self._each()))

    def after(self, other: "Conditions") -> "Conditions":
        """Return the conditions of a batch that contains the other's images first, then these."""
        pairs = zip(other._each(), self._each(), strict=True)
        return Conditions(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))

    def without_class(self, num_classes: int | None = None) -> "Conditions":
        """Return the same without the class: the null class, or for a model without classes no class argument."""
        unknown = torch.full_like(self.class_ids, num_classes) if self.class_ids is not None and num_classes else None
        return Conditions(unknown, self.augment_cond, self.mapping_cond)

    def _each(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return self.class_ids, self.augment_cond, self.mapping_cond


def rescale_guidance(
    guided: Float[Tensor, "B C H W"], plain: Float[Tensor, "B C H W"], phi: float
) -> Float[Tensor, "B C H W"]:
    """Return guided images with their standard deviations moved towards the unguided images' by the factor phi."""
    ratio = rearrange(_deviation(plain) / _deviation(guided), "b -> b 1 1 1").to(guided.dtype)
    return phi * ratio * guided + (1 - phi) * guided


def _deviation(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B"]:
    wide = images.to(at_least_float32(images.dtype))
    from_mean = wide - rearrange(mean_of_each(wide), "b -> b 1 1 1")
    return mean_of_each(from_mean**2).sqrt()


@dataclass(frozen=True)
class Guided:
    """A denoiser with its conditions and guidance, as samplers call it; see `guided`."""

    denoiser: Denoiser
    conditions: Conditions
    weight: float
    guide: Guide | None
    interval: Interval | None
    rescale: float
    batched: bool

    def __call__(self, x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
        """Return the denoised images; outside the interval the model is evaluated only once."""
        if self.weight == 1 and self.guide is None:
            return self.conditions.denoise(self.denoiser, x, sigma)
        if self.interval is None:
            return self._guide(x, sigma, self.conditions)

        inside = self._inside(sigma)
        if inside.all():
            return self._guide(x, sigma, self.conditions)
        if not inside.any():
            return self.conditions.denoise(self.denoiser, x, sigma)

        # images of one batch at different noise levels, as in `dpm_adaptive`
        result, outside = torch.empty_like(x), ~inside
        result[inside] = self._guide(x[inside], sigma[inside], self.conditions.of(inside))
        result[outside] = self.conditions.of(outside).denoise(self.denoiser, x[outside], sigma[outside])
        return result

    def _inside(self, sigma: Float[Tensor, "B"]) -> Bool[Tensor, "B"]:
        low, high = self.interval or (0.0, float("inf"))
        return (low < sigma) & (sigma <= high)

    def _guide(
        self, x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"], conditions: Conditions
    ) -> Float[Tensor, "B C H W"]:
        num_classes = self.denoiser.recipe.model.num_classes
        if self.weight == 0 and self.guide is None and not self.rescale:
            return conditions.without_class(num_classes).denoise(self.denoiser, x, sigma)

        if self.weight == 1:
            result = plain = conditions.denoise(self.denoiser, x, sigma)
        else:
            without, plain = self._without_and_with_class(x, sigma, conditions)
            result = without + self.weight * (plain - without)
        if self.guide is not None:
            has_classes = self.guide.denoiser.recipe.model.num_classes
            of_guide = conditions if has_classes else conditions.without_class()
            result = result + (self.guide.weight - 1) * (plain - of_guide.denoise(self.guide.denoiser, x, sigma))
        return rescale_guidance(result, plain, self.rescale) if self.rescale else result

    def _without_and_with_class(
        self, x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"], conditions: Conditions
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
        unknown = conditions.without_class(self.denoiser.recipe.model.num_classes)
        if not self.batched:
            return unknown.denoise(self.denoiser, x, sigma), conditions.denoise(self.denoiser, x, sigma)
        both = conditions.after(unknown).denoise(self.denoiser, torch.cat([x, x]), torch.cat([sigma, sigma]))
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
    """Return the function `denoise(x, sigma)` that samplers call, with conditioning and guidance.

    Scale 1 is the conditional model and scale 0 the unconditional one, each at one evaluation per call; any other scale
    costs two, and a guide of a scale other than 1 costs one of its own.

    Args:
        denoiser: the model.
        class_ids: class of each image; None for models without classes.
        weight: classifier-free guidance scale, w.
        augment_cond, mapping_cond: the same in all evaluations; None as in the denoiser.
        batched: evaluate with and without class in one batch, whose first half is unconditional; else sequentially, in
            half the memory. On a CPU the results are bit-identical.
        guide: a weaker model for autoguidance.
        interval: of noise levels, low < sigma <= high, outside which there is no guidance; None: no limits.
        rescale: factor phi, 0 to 1, by which each image's standard deviation is moved back to the unguided one's.

    Raises:
        UsageError: guidance without classes, or a guide that does not match the model.
    """
    if weight != 1 and class_ids is None:
        raise UsageError(f"sample.guidance = {weight} needs classes, but this model has none or none are given; use 1")
    if guide is not None:
        check_guide(denoiser, guide.denoiser)
    active_guide = guide if guide is not None and guide.weight != 1 else None
    conditions = Conditions(class_ids, augment_cond, mapping_cond)
    return Guided(denoiser, conditions, weight, active_guide, interval, rescale, batched)


def check_guide(denoiser: Denoiser, guide: Denoiser) -> None:
    """Refuse a guide that does not take the model's inputs.

    Raises:
        UsageError: its channels, classes or conditioning vector differ.
    """
    for key, may_lack in (("channels", False), ("num_classes", True), ("mapping_cond_dim", False)):
        own, other = (getattr(model.recipe.model, key) for model in (denoiser, guide))
        if other != own and not (may_lack and other == 0):
            raise UsageError(f"the guide's model.{key} is {other}, the model's is {own}; expected equal values")
