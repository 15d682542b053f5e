"""A recipe's sampling on the machine at hand: one evaluation of the guided denoiser, and what images that makes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hdit_core.bench.apart import OutOfMemory, Say, measured
from hdit_core.bench.machine import FLOPS_PER_MAC, finish, rate_of
from hdit_core.bench.timing import Rounds, Timing, interleaved, stopwatch
from hdit_core.bench.train import check_work, rounds_for
from hdit_core.devices import autocast, compute_dtype, same_bits_on_any_threads
from hdit_core.diffusion.guidance import guided
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.sampler import sample_by
from hdit_core.diffusion.schedule import sampling_sigmas
from hdit_core.flops.count import count
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.sample import SampleRecipe


@dataclass(frozen=True)
class SampleFigure:
    """What was measured of a recipe's sampling.

    Attributes:
        images: drawn at once.
        evaluations: of the denoiser that the recipe's sampler makes for an image; None where that depends on the image.
        flops: of the model's products in one evaluation; guidance has two passes in it.
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
        """Finished images; the sampler's own arithmetic is not counted, it is small beside the network's."""
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
    rounds: Rounds | None = None,
    say: Say = lambda line: None,
) -> SampleFigure:
    """Measure one evaluation of a recipe's guided denoiser, as its sampler makes it.

    Args:
        recipe: of which `[sample]` and `train.precision` count.
        threads: of the CPU.
        say: is told how far it is.

    Raises:
        UsageError: the evaluation is too much work to be measured here.
        OutOfMemory: it does not fit into the memory there is.
    """
    dtype = compute_dtype(recipe.train.precision, device)
    rate, _ = measured(rate_of, device, dtype, device=device, threads=threads)
    images, passes = recipe.sample.batch_size, 1 if recipe.sample.guidance in (0, 1) else 2
    flops = passes * FLOPS_PER_MAC * count(recipe.model).macs * images
    check_work(flops, rate, f"one evaluation of {images} images", "sample.batch_size")
    say(f"sampling: {images} images at once, {flops / 1e9:,.0f} GFLOP, at least {flops / rate:.2g} s")
    work = (recipe, device, rounds_for(rounds, flops / rate))
    try:
        timing, memory = measured(_measure, *work, device=device, threads=threads, say=say)
    except OutOfMemory as problem:
        size = "x".join(map(str, recipe.model.image_size))
        raise OutOfMemory(
            f"sampling {images} images of {size} at once {problem}; try --set sample.batch_size=1, or smaller images"
        ) from None
    name = str(dtype).removeprefix("torch.")
    return SampleFigure(images, evaluations(recipe.sample), flops, name, rate, timing, memory.peak_bytes)


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


def _measure(recipe: Recipe, device: torch.device, rounds: Rounds, say: Say) -> Timing:
    """Return the times of one evaluation in the middle of the noise levels."""
    same_bits_on_any_threads()  # as where images are drawn
    network = HourglassTransformer(recipe.model)
    initialize(network, recipe.train.seed)
    denoiser = Denoiser(network, recipe).to(device).eval().requires_grad_(False)
    images, num_classes = recipe.sample.batch_size, recipe.model.num_classes
    class_ids = torch.arange(images, device=device) % num_classes if num_classes else None
    denoise = guided(denoiser, class_ids, recipe.sample.guidance, batched=recipe.sample.guidance_batched)
    x = torch.randn(images, recipe.model.channels, *recipe.model.image_size, device=device)
    sigma = torch.ones(images, device=device)

    def evaluate() -> None:
        with torch.inference_mode(), autocast(device, compute_dtype(recipe.train.precision, device)):
            denoise(x, sigma)

    task = stopwatch(evaluate, lambda: finish(device))
    return interleaved({"step": task}, rounds, on_round=lambda done: say(f"evaluation {done}"))["step"]
