"""A recipe's sampling on the machine at hand: one evaluation of the guided denoiser, and what images that makes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hdit_core.bench.child_process import OutOfMemory, Say, measure_in_child_process
from hdit_core.bench.machine import FLOPS_PER_MAC, finish, rate_of
from hdit_core.bench.timing import Rounds, Timing, interleaved, stopwatch
from hdit_core.bench.train import check_work, rounds_for
from hdit_core.devices import autocast, compute_dtype, make_mkl_reproducible
from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.samplers.sampler import sample_by
from hdit_core.diffusion.samplers.schedule import sampling_sigmas
from hdit_core.flops.count import count
from hdit_core.generate.pipeline import check_request, conditioned
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.sample import SampleRecipe

GUIDE_WEIGHT = 2.0  # any but 1, at which a guide is not asked


@dataclass(frozen=True)
class SampleFigure:
    """What was measured of a recipe's sampling.

    Attributes:
        images: drawn at once.
        evaluations: of the denoiser that the recipe's sampler makes for an image; None where that depends on the image.
        flops: of the products in one evaluation; guidance has two passes in it, and a guide one of its own.
        rate: FLOP/s of large matrix products in the same dtype on this device.
        timing: of one evaluation.
        peak_bytes: most memory at once, weights included; None where unknown.
    """

    images: int
    evaluations: int | None
    flops: int
    dtype: str
    rate: float
    timing: Timing
    peak_bytes: int | None

    @property
    def images_per_s(self) -> float | None:
        """Finished images; the sampler's own arithmetic is not counted, it is small beside the network's.

        Guidance is counted at all noise levels, also where the recipe has it in an interval only.
        """
        return None if self.evaluations is None else self.images / (self.evaluations * self.timing.median_s)

    @property
    def utilisation(self) -> float:
        """Share of the machine's own matrix product rate that the model's products reach."""
        return self.flops / self.timing.median_s / self.rate

    def to_json(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "evaluations": self.evaluations,
            "flops": self.flops,
            "dtype": self.dtype,
            "product_flops_per_s": self.rate,
            "time": self.timing.to_json(),
            "images_per_s": self.images_per_s,
            "utilisation": self.utilisation,
            "peak_bytes": self.peak_bytes,
        }


def bench_sample(
    recipe: Recipe,
    device: torch.device,
    *,
    threads: int,
    guide: Recipe | None = None,
    rounds: Rounds | None = None,
    say: Say = lambda line: None,
) -> SampleFigure:
    """Measure one evaluation of a recipe's guided denoiser, as its sampler makes it.

    Args:
        recipe: of which `[sample]` and `train.precision` count.
        threads: of the CPU.
        guide: of a worse model that images are led away from, of which the network counts; None: there is none.
        say: is told how far it is.

    Raises:
        UsageError: the evaluation is too much work to be measured here, or the guide cannot be asked the same.
        OutOfMemory: it does not fit into the memory there is.
    """
    _check_guide(recipe, guide)
    dtype = compute_dtype(recipe.train.precision, device)
    rate, _ = measure_in_child_process(rate_of, device, dtype, device=device, threads=threads)
    images, flops = recipe.sample.batch_size, evaluation_flops(recipe, guide)
    check_work(flops, rate, f"one evaluation of {images} images", "sample.batch_size")
    say(f"sampling: {images} images at once, {flops / 1e9:,.0f} GFLOP, at least {flops / rate:.2g} s")
    work = (recipe, guide, device, rounds_for(rounds, flops / rate))
    try:
        timing, memory = measure_in_child_process(_measure, *work, device=device, threads=threads, say=say)
    except OutOfMemory as problem:
        size = "x".join(map(str, recipe.model.image_size))
        raise OutOfMemory(
            f"sampling {images} images of {size} at once {problem}; try --set sample.batch_size=1, or smaller images"
        ) from None
    name = str(dtype).removeprefix("torch.")
    return SampleFigure(images, evaluations(recipe.sample), flops, name, rate, timing, memory.peak_bytes)


def evaluation_flops(recipe: Recipe, guide: Recipe | None = None) -> int:
    """Return the work of one evaluation of a batch, led away from a guide where there is one."""
    settings, model = recipe.sample, recipe.model
    without_class_only = settings.guidance == 0 and guide is None and not settings.guidance_rescale
    passes = 1 if settings.guidance == 1 or without_class_only else 2
    macs = passes * count(model).macs
    if guide is not None:
        macs += count(guide.model.model_copy(update={"image_size": model.image_size})).macs
    return FLOPS_PER_MAC * macs * settings.batch_size


def evaluations(settings: SampleRecipe) -> int | None:
    """Return how often a sampler asks for denoised images; None for the one that chooses its own steps."""
    if settings.sampler == "dpm_adaptive":
        return None
    asked = 0

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return torch.zeros_like(x)

    def no_noise(sigma: float, sigma_next: float) -> Tensor:
        return torch.zeros(1, 1, 1, 1)

    sigmas = sampling_sigmas(settings)
    start = torch.full((1, 1, 1, 1), settings.sigma_max)
    sample_by(settings, denoise, start, sigmas, no_noise)
    return asked


def _denoiser(recipe: Recipe) -> Denoiser:
    return Denoiser(HourglassTransformer(recipe.model), recipe).eval().requires_grad_(False)


def _check_guide(recipe: Recipe, guide: Recipe | None) -> None:
    """Refuse, with a UsageError, a guide that cannot be asked what the model is asked."""
    if guide is not None:
        with torch.device("meta"):  # of which nothing but the recipes is looked at
            check_request(_denoiser(recipe), recipe.model.image_size, Guide(_denoiser(guide), GUIDE_WEIGHT))


def _initialized(recipe: Recipe, device: torch.device) -> Denoiser:
    """Return a recipe's denoiser as it would begin its training."""
    denoiser = _denoiser(recipe)
    assert isinstance(denoiser.network, HourglassTransformer)
    initialize(denoiser.network, recipe.train.seed)
    return denoiser.to(device)


def _measure(recipe: Recipe, guide: Recipe | None, device: torch.device, rounds: Rounds, say: Say) -> Timing:
    """Return the times of one evaluation in the middle of the noise levels."""
    make_mkl_reproducible()  # as where images are drawn
    settings = recipe.sample.model_copy(update={"guidance_interval": None})  # that level may lie outside
    images, num_classes = settings.batch_size, recipe.model.num_classes
    led_from = Guide(_initialized(guide, device), GUIDE_WEIGHT) if guide is not None else None
    classes = [i % num_classes for i in range(images)] if num_classes else None
    denoise = conditioned(_initialized(recipe, device), classes, settings, led_from)
    x = torch.randn(images, recipe.model.channels, *recipe.model.image_size, device=device)
    sigma = torch.ones(images, device=device)

    def evaluate() -> None:
        with torch.inference_mode(), autocast(device, compute_dtype(recipe.train.precision, device)):
            denoise(x, sigma)

    task = stopwatch(evaluate, lambda: finish(device))
    return interleaved({"step": task}, rounds, on_round=lambda done: say(f"evaluation {done}"))["step"]
