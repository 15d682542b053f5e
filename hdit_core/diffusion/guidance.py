"""Guidance: extrapolates the denoised image away from that of a weaker model.

Two kinds, alone or combined, each disabled at scale 1. Classifier-free guidance uses the same model without one of its
inputs: the class (Ho and Salimans, eq. 6; HDiT, section 5.2), the condition image or the vector, which are zeros where
they are dropped. Autoguidance uses a weaker model with the same inputs (Karras et al. 2024, section 3), and works
without classes. With all of them,

    D + sum over inputs of (w_input - 1) (D - D_without_input) + (w_guide - 1) (D - D_guide),

optionally in an interval of noise levels only (Kynkaanniemi et al. 2024, section 3). Guidance widens the range of the
pixels; rescaling restores each image's contrast (Lin et al. 2023, section 3.4).
"""

from dataclasses import dataclass, replace
from functools import reduce

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
    condition: Float[Tensor, "B K H W"] | None = None

    def denoise(
        self, denoiser: Denoiser, x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the denoised images under these conditions."""
        return denoiser(x, sigma, self.class_ids, self.augment_cond, self.mapping_cond, self.condition)

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
        return replace(self, class_ids=unknown)

    def without_condition(self) -> "Conditions":
        """Return the same with condition images of zeros."""
        return replace(self, condition=None if self.condition is None else torch.zeros_like(self.condition))

    def without_vector(self) -> "Conditions":
        """Return the same with vectors of zeros."""
        return replace(self, mapping_cond=None if self.mapping_cond is None else torch.zeros_like(self.mapping_cond))

    def _each(self) -> tuple[Tensor | None, ...]:
        return self.class_ids, self.augment_cond, self.mapping_cond, self.condition


@dataclass(frozen=True)
class Scales:
    """The scale of classifier-free guidance for each input; 1 disables it."""

    class_ids: float = 1.0
    condition: float = 1.0
    vector: float = 1.0

    def dropped(self, conditions: Conditions, num_classes: int) -> list[tuple[float, Conditions]]:
        """Return the scale of each guided input with the conditions that lack it."""
        each = (
            (self.class_ids, conditions.without_class(num_classes)),
            (self.condition, conditions.without_condition()),
            (self.vector, conditions.without_vector()),
        )
        return [(scale, without) for scale, without in each if scale != 1]


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
    scales: Scales
    guide: Guide | None
    interval: Interval | None
    rescale: float
    batched: bool

    def __call__(self, x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
        """Return the denoised images; outside the interval the model is evaluated only once."""
        if self.scales == Scales() and self.guide is None:
            return self.conditions.denoise(self.denoiser, x, sigma)
        if self.interval is None:
            return self._guide(x, sigma, self.conditions)

        inside = self._inside(sigma)
        flags = inside.tolist()  # waits for a GPU, once
        if all(flags):
            return self._guide(x, sigma, self.conditions)
        if not any(flags):
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
        dropped = self.scales.dropped(conditions, self.denoiser.recipe.model.num_classes)
        if [scale for scale, _ in dropped] == [0] and self.guide is None and not self.rescale:
            return dropped[0][1].denoise(self.denoiser, x, sigma)

        *withouts, plain = self._denoised(x, sigma, [*(without for _, without in dropped), conditions])
        result = plain
        for index, ((scale, _), without) in enumerate(zip(dropped, withouts, strict=True)):
            start, factor = (result, scale - 1) if index else (without, scale)
            result = start + factor * (plain - without)
        if self.guide is not None:
            has_classes = self.guide.denoiser.recipe.model.num_classes
            of_guide = conditions if has_classes else conditions.without_class()
            result = result + (self.guide.weight - 1) * (plain - of_guide.denoise(self.guide.denoiser, x, sigma))
        return rescale_guidance(result, plain, self.rescale) if self.rescale else result

    def _denoised(
        self, x: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"], each: list[Conditions]
    ) -> list[Float[Tensor, "B C H W"]]:
        """Return the denoised images under each of the conditions, in one batch or one after the other."""
        if not self.batched:
            return [conditions.denoise(self.denoiser, x, sigma) for conditions in each]
        together = reduce(lambda before, conditions: conditions.after(before), each)
        times = len(each)
        return list(together.denoise(self.denoiser, torch.cat([x] * times), torch.cat([sigma] * times)).chunk(times))


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
    condition: Float[Tensor, "B K H W"] | None = None,
    condition_guidance: float = 1.0,
    vector_guidance: float = 1.0,
) -> Denoise:
    """Return the function `denoise(x, sigma)` that samplers call, with conditioning and guidance.

    Scale 1 is the conditional model and scale 0 the unconditional one, each at one evaluation per call; any other scale
    costs one more, and so does a guide of a scale other than 1.

    Args:
        class_ids: class of each image; None for models without classes.
        weight: classifier-free guidance scale, w.
        augment_cond, mapping_cond, condition: as the denoiser takes them.
        batched: evaluate all in one batch; else sequentially, in less memory: on a CPU, with the same bits.
        guide: a weaker model for autoguidance.
        interval: of noise levels, low < sigma <= high, outside which there is no guidance; None: no limits.
        rescale: factor phi, 0 to 1, by which each image's standard deviation is moved back to the unguided one's.
        condition_guidance, vector_guidance: classifier-free guidance scales of the condition image and the vector.

    Raises:
        UsageError: guidance for a missing input, or a guide that does not match the model.
    """
    if guide is not None:
        check_guide(denoiser, guide.denoiser)
    conditions = Conditions(class_ids, augment_cond, mapping_cond, condition)
    scales = _checked_scales(Scales(weight, condition_guidance, vector_guidance), conditions)
    guide = guide if guide is not None and guide.weight != 1 else None
    return Guided(denoiser, conditions, scales, guide, interval, rescale, batched)


def _checked_scales(scales: Scales, conditions: Conditions) -> Scales:
    if scales.class_ids != 1 and conditions.class_ids is None:
        raise UsageError(
            f"sample.guidance = {scales.class_ids} needs classes, but this model has none or none are given; use 1"
        )
    given = (("condition", scales.condition, conditions.condition), ("vector", scales.vector, conditions.mapping_cond))
    for key, scale, value in given:
        if scale != 1 and value is None:
            raise UsageError(f"sample.{key}_guidance = {scale} needs a {key}, but none is given; use 1")
    return scales


def check_guide(denoiser: Denoiser, guide: Denoiser) -> None:
    """Refuse a guide that does not take the model's inputs.

    Raises:
        UsageError: its channels, classes, conditioning vector or condition image differ.
    """
    inputs = (
        ("channels", False),
        ("num_classes", True),
        ("mapping_cond_dim", False),
        ("condition_channels", False),
    )
    for key, may_lack in inputs:
        own, other = (getattr(model.recipe.model, key) for model in (denoiser, guide))
        if other != own and not (may_lack and other == 0):
            raise UsageError(f"the guide's model.{key} is {other}, the model's is {own}; expected equal values")
