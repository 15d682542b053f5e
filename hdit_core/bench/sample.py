"""Benchmark of a recipe's sampling: one evaluation of the guided denoiser, and the images/s that follow from it."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hdit_core.bench.child_process import BenchSettings, OutOfMemory, measure_in_child_process
from hdit_core.bench.machine import product_rate
from hdit_core.bench.timing import Timing, interleaved, stopwatch
from hdit_core.bench.train import check_bound, rounds_for
from hdit_core.devices import autocast, compute_dtype, disable_tf32, make_mkl_reproducible, synchronize
from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.samplers.registry import sample_by
from hdit_core.diffusion.samplers.schedule import sampling_sigmas
from hdit_core.errors import UsageError
from hdit_core.flops.count import FLOPS_PER_MAC, count
from hdit_core.generate.pipeline import ConditionInputs, SamplingPipeline, check_request
from hdit_core.model.compile import compile_network
from hdit_core.model.cuda_graph import use_cuda_graphs
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.sample import SampleRecipe

logger = logging.getLogger("hdit")

GUIDE_WEIGHT = 2.0  # any scale but 1, which disables autoguidance


@dataclass(frozen=True)
class SampleFigure:
    """The measurements of a recipe's sampling.

    Attributes:
        images: batch size.
        evaluations: NFE per image of the recipe's sampler; None if that depends on the image.
        flops: of the matrix products of one evaluation, with all forward passes of guidance.
        rate: FLOP/s of large matrix products in the same dtype on this device.
        timing: of one evaluation.
        peak_bytes: peak memory, including weights; None if unknown.
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
        """Sampling throughput, without the sampler's own arithmetic, which is negligible.

        Guidance counts at all noise levels, even if the recipe limits it to an interval.
        """
        return None if self.evaluations is None else self.images / (self.evaluations * self.timing.median_s)

    @property
    def utilisation(self) -> float:
        """Fraction of the FLOP/s of large matrix products that the model reaches."""
        return self.flops / self.timing.median_s / self.rate

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as JSON."""
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
    settings: BenchSettings,
    *,
    guide: Recipe | None = None,
    compiled: bool = False,
    graphed: bool = False,
) -> SampleFigure:
    """Measure one evaluation of a recipe's guided denoiser, as in `hdit sample`.

    Args:
        recipe: gives the model, `[sample]` and `train.precision`.
        guide: recipe of the guidance model for autoguidance; None: no autoguidance.
        compiled: use torch.compile, as `hdit sample --compile`.
        graphed: replay the networks as CUDA graphs, as `hdit sample --cuda-graphs`.

    Raises:
        UsageError: the evaluation takes too long to be measured on this machine, the guidance model has other inputs
            than the model, or the networks cannot be captured in CUDA graphs.
        OutOfMemory: it does not fit into memory.
    """
    _check_guide(recipe, guide)
    dtype = compute_dtype(recipe.train.precision, settings.device)
    rate, _ = measure_in_child_process(product_rate, settings.device, dtype, settings=settings)
    images, flops = recipe.sample.batch_size, evaluation_flops(recipe, guide)
    check_bound(flops, rate, f"one evaluation of {images} images", "sample.batch_size")
    logger.info(f"sampling: batch size {images}, {flops / 1e9:,.0f} GFLOP, at least {flops / rate:.2g} s")
    settings = rounds_for(settings, flops / rate)
    try:
        timing, peak_bytes = measure_in_child_process(
            _measure, recipe, guide, settings, compiled, graphed, settings=settings
        )
    except OutOfMemory as problem:
        size = "x".join(map(str, recipe.model.image_size))
        raise OutOfMemory(
            f"sampling a batch of {images} images of {size} {problem}; try --set sample.batch_size=1, or smaller images"
        ) from None
    name = str(dtype).removeprefix("torch.")
    return SampleFigure(images, evaluations(recipe.sample), flops, name, rate, timing, peak_bytes)


def evaluation_flops(recipe: Recipe, guide: Recipe | None = None) -> int:
    """Return the FLOPs of one evaluation of a batch, with all forward passes of guidance and autoguidance."""
    settings, model = recipe.sample, recipe.model
    scales = (settings.guidance, settings.condition_guidance, settings.vector_guidance)
    guided = [scale for scale in scales if scale != 1]
    unconditional_only = guided == [0] and guide is None and not settings.guidance_rescale
    passes = 1 if unconditional_only else 1 + len(guided)
    macs = passes * count(model).macs
    if guide is not None:
        macs += count(guide.model.model_copy(update={"image_size": model.image_size})).macs
    return FLOPS_PER_MAC * macs * settings.batch_size


def evaluations(settings: SampleRecipe) -> int | None:
    """Return the NFE per image of a sampler; None for the one with adaptive steps."""
    if settings.sampler == "dpm_adaptive":
        return None
    calls = 0

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros_like(x)

    def no_noise(sigma: float, sigma_next: float) -> Tensor:
        return torch.zeros(1, 1, 1, 1)

    sigmas = sampling_sigmas(settings)
    start = torch.full((1, 1, 1, 1), settings.sigma_max)
    sample_by(settings, denoise, start, sigmas, no_noise)
    return calls


def _denoiser(recipe: Recipe) -> Denoiser:
    return Denoiser(HourglassTransformer(recipe.model), recipe).eval().requires_grad_(False)


def _check_guide(recipe: Recipe, guide: Recipe | None) -> None:
    """Raise UsageError if the guidance model has other inputs than the model."""
    if guide is not None:
        with torch.device("meta"):  # only the recipes are compared
            check_request(_denoiser(recipe), recipe.model.image_size, Guide(_denoiser(guide), GUIDE_WEIGHT))


def _initialized(recipe: Recipe, device: torch.device) -> Denoiser:
    """Return the denoiser of a recipe at initialization."""
    denoiser = _denoiser(recipe)
    assert isinstance(denoiser.network, HourglassTransformer)
    initialize(denoiser.network, recipe.train.seed)
    return denoiser.to(device)


def _no_conditions(recipe: Recipe, indices: list[int]) -> ConditionInputs:
    """Return zeros for the condition images and vectors that the network takes."""
    channels, length, batch = recipe.condition_image_channels, recipe.model.mapping_cond_dim, len(indices)
    return ConditionInputs(
        torch.zeros(batch, channels, *recipe.model.image_size) if channels else None,
        torch.zeros(batch, length) if length else None,
    )


def _prepare(denoiser: Denoiser, compiled: bool, graphed: bool) -> None:
    """Compile the network's layers and capture it in CUDA graphs, if requested."""
    assert isinstance(denoiser.network, HourglassTransformer)
    if compiled:
        compile_network(denoiser.network)
    if graphed and (problem := use_cuda_graphs(denoiser.network)):
        raise UsageError(f"--cuda-graphs: {problem}")


def _measure(recipe: Recipe, guide: Recipe | None, bench: BenchSettings, compiled: bool, graphed: bool) -> Timing:
    """Return the timing of one evaluation at a medium noise level."""
    make_mkl_reproducible()  # as in sampling
    disable_tf32()
    device = bench.device
    settings = recipe.sample.model_copy(update={"guidance_interval": None})  # which may exclude that noise level
    images, num_classes = settings.batch_size, recipe.model.num_classes
    guidance_model = Guide(_initialized(guide, device), GUIDE_WEIGHT) if guide is not None else None
    classes = [i % num_classes for i in range(images)] if num_classes else None
    size, source = recipe.model.image_size, partial(_no_conditions, recipe)
    pipeline = SamplingPipeline(_initialized(recipe, device), settings, 0, size, guidance_model, source)
    for denoiser in (pipeline.denoiser, *([guidance_model.denoiser] if guidance_model else [])):
        _prepare(denoiser, compiled, graphed)
    denoise = pipeline.conditioned(classes, pipeline.inputs(list(range(images))))
    x = torch.randn(images, recipe.model.channels, *recipe.model.image_size, device=device)
    sigma = torch.ones(images, device=device)

    def evaluate() -> None:
        with torch.inference_mode(), autocast(device, compute_dtype(recipe.train.precision, device)):
            denoise(x, sigma)

    task = stopwatch(evaluate, lambda: synchronize(device))
    return interleaved({"step": task}, bench.rounds, on_round=lambda done: logger.info(f"evaluation {done}"))["step"]
