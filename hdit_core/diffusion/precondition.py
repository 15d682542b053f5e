"""Preconditioning: the scalings that turn a network into a denoiser (EDM, section 5; HDiT, section 4.5)."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hdit_core.devices import at_least_float32
from hdit_core.errors import UsageError
from hdit_core.recipe.diffusion import Objective
from hdit_core.recipe.run import Recipe

Scalings = tuple[Float[Tensor, "*B"], Float[Tensor, "*B"], Float[Tensor, "*B"]]


def _edm_scalings(sigma: Float[Tensor, "*B"], sigma_data: float) -> Scalings:
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt()


def _flow_scalings(sigma: Float[Tensor, "*B"], sigma_data: float) -> Scalings:
    total = sigma + sigma_data
    return sigma_data / total, sigma * sigma_data / total, 1 / total


def _x_scalings(sigma: Float[Tensor, "*B"], sigma_data: float) -> Scalings:
    return torch.zeros_like(sigma), torch.full_like(sigma, sigma_data), 1 / (sigma + sigma_data)


@dataclass(frozen=True)
class Parameterization:
    """A prediction target with its scalings.

    Attributes:
        scalings: c_skip, c_out and c_in as functions of sigma and sigma_data.
        target: the target of F as a function of images, noise, sigma and sigma_data: (x0 - c_skip x) / c_out, written
            out to avoid cancellation and division by a small c_out.
    """

    scalings: Callable[[Tensor, float], Scalings]
    target: Callable[[Tensor, Tensor, Tensor, float], Tensor]


def _edm_target(images: Tensor, noise: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    _, _, c_in = _edm_scalings(sigma, sigma_data)
    return c_in * (sigma / sigma_data * images - sigma_data * noise)


PARAMETERIZATIONS: dict[Objective, Parameterization] = {
    "edm": Parameterization(_edm_scalings, _edm_target),
    "flow": Parameterization(_flow_scalings, lambda images, noise, sigma, sigma_data: images / sigma_data - noise),
    "x": Parameterization(_x_scalings, lambda images, noise, sigma, sigma_data: images / sigma_data),
}


def scalings(sigma: Float[Tensor, "*B"], sigma_data: float, objective: Objective = "edm") -> Scalings:
    """Return c_skip, c_out and c_in: D(x, sigma) = c_skip x + c_out F(c_in x, sigma).

    Args:
        sigma: noise levels, positive.
        sigma_data: standard deviation of the images' pixels in [-1, 1].
        objective: the prediction target.
    """
    return PARAMETERIZATIONS[objective].scalings(sigma, sigma_data)


def target(
    images: Float[Tensor, "B C H W"],
    noise: Float[Tensor, "B C H W"],
    sigma: Float[Tensor, "B 1 1 1"],
    sigma_data: float,
    objective: Objective = "edm",
) -> Float[Tensor, "B C H W"]:
    """Return the network's prediction target, in at least the dtype of sigma.

    Args:
        images: clean images in [-1, 1].
        noise: standard normal numbers.
        sigma: noise levels, positive.
        sigma_data: standard deviation of the images' pixels in [-1, 1].
        objective: the prediction target.
    """
    dtype = torch.promote_types(images.dtype, sigma.dtype)
    return PARAMETERIZATIONS[objective].target(images.to(dtype), noise.to(dtype), sigma, sigma_data)


def _described(value: object) -> str:
    """Return the type of a value for an error."""
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, for people; None where unknown.

    Attributes:
        run: the run directory, or its name where the model was exported.
        step: of the checkpoint.
        images_seen: that the run had been trained on.
        weights: `"ema"`, `"model"` (raw), or an EMA length such as `"0.080"`.
    """

    run: str | None = None
    step: int | None = None
    images_seen: int | None = None
    weights: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the known fields as JSON values."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class Denoiser(nn.Module):
    """A network with its scalings: predicts the clean image from a noisy one."""

    def __init__(self, network: nn.Module, recipe: Recipe, source: ModelSource | None = None):
        """
        Args:
            network: `network(x, sigma, class_ids, augment_cond, mapping_cond, condition) -> F`, called with a scaled x.
            recipe: its `diffusion.sigma_data` and `diffusion.objective` set the scalings.
            source: where the network's weights come from.
        """
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.source = source or ModelSource()
        self.sigma_data = recipe.diffusion.sigma_data
        self.objective = recipe.diffusion.objective

    def raw(
        self,
        x: Float[Tensor, "B C H W"],
        sigma: Float[Tensor, "B"],
        class_ids: Int64[Tensor, "B"] | None = None,
        augment_cond: Float[Tensor, "B 9"] | None = None,
        mapping_cond: Float[Tensor, "B E"] | None = None,
        condition: Float[Tensor, "B K H W"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Return F(c_in x, sigma), the network's own output for noisy images. Arguments as in `forward`."""
        sigma = sigma.to(at_least_float32(x.dtype))
        _, _, c_in = scalings(rearrange(sigma, "b -> b 1 1 1"), self.sigma_data, self.objective)
        return self.network((x * c_in).to(x.dtype), sigma, class_ids, augment_cond, mapping_cond, condition)

    def _check_inputs(self, x: object, sigma: object, class_ids: object) -> None:
        """Refuse arguments of the wrong type or shape, in one line."""
        model = self.recipe.model
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x: expected a floating-point tensor [B, {model.channels}, H, W], got {_described(x)}")
        if x.ndim != 4 or x.shape[1] != model.channels:
            raise UsageError(f"x has shape {tuple(x.shape)}; this model takes [B, {model.channels}, H, W]")
        if not x.shape[0]:
            raise UsageError(f"x has shape {tuple(x.shape)}; expected at least one image")
        if not isinstance(sigma, Tensor | float | int):
            raise TypeError(f"sigma: expected a number or a tensor [B], got {_described(sigma)}")
        if not isinstance(sigma, Tensor) and not 0 < sigma < float("inf"):
            raise UsageError(f"sigma = {sigma:g}; expected a positive number")
        if isinstance(sigma, Tensor) and sigma.ndim and sigma.shape != x.shape[:1]:
            raise UsageError(f"sigma has shape {tuple(sigma.shape)}; expected ({x.shape[0]},) or one number")
        if not model.num_classes or class_ids is None:
            return  # the network reports missing inputs
        if not isinstance(class_ids, Tensor) or class_ids.dtype != torch.int64:
            raise TypeError(f"class_ids: expected an int64 tensor [B], got {_described(class_ids)}")
        if class_ids.shape != x.shape[:1]:
            raise UsageError(f"class_ids has shape {tuple(class_ids.shape)}; expected ({x.shape[0]},)")
        if class_ids.device.type == "cpu" and not bool(((class_ids >= 0) & (class_ids <= model.num_classes)).all()):
            wrong = [number for number in class_ids.tolist() if not 0 <= number <= model.num_classes]
            raise UsageError(f"class_ids has {wrong[0]}; expected 0 to {model.num_classes} ({model.num_classes}: none)")

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        sigma: Float[Tensor, "B"] | Float[Tensor, ""] | float,
        class_ids: Int64[Tensor, "B"] | None = None,
        augment_cond: Float[Tensor, "B 9"] | None = None,
        mapping_cond: Float[Tensor, "B E"] | None = None,
        condition: Float[Tensor, "B K H W"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Return the denoised images D(x, sigma), in the dtype of x.

        Args:
            x: clean image in [-1, 1] plus sigma times standard normal noise, not scaled.
            sigma: noise level of each image, or one for all, positive.
            class_ids: class of each image; `num_classes` means no class.
            augment_cond: the nine parameters of the augmentation; default: zeros.
            mapping_cond: the extra conditioning vector, for models that have one.
            condition: the condition image in [-1, 1], for models that have one; c_in does not apply to it.

        Raises:
            TypeError, UsageError: an argument has another type or shape than the model takes.
        """
        if not torch.compiler.is_compiling():
            self._check_inputs(x, sigma, class_ids)
        if not isinstance(sigma, Tensor) or sigma.ndim == 0:
            sigma = torch.as_tensor(sigma, dtype=at_least_float32(x.dtype), device=x.device).expand(x.shape[0])
        output = self.raw(x, sigma, class_ids, augment_cond, mapping_cond, condition)
        sigma = sigma.to(at_least_float32(x.dtype))
        c_skip, c_out, _ = scalings(rearrange(sigma, "b -> b 1 1 1"), self.sigma_data, self.objective)
        return (c_skip * x + c_out * output).to(x.dtype)
