"""`[train]`: how the weights are found. Progress is counted in images, so that it survives a change of batch size."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from hdit_core.recipe.table import (
    Listed,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Problem,
    Seed,
    Table,
)

Precision = Literal["auto", "float32", "bfloat16"]
Parallel = Literal["auto", "ddp", "fsdp"]
OptimizerName = Literal["adamw", "muon"]
Schedule = Literal["constant", "inverse-sqrt", "cosine"]
Beta = Annotated[float, Field(ge=0, lt=1)]
EmaLength = Annotated[float, Field(ge=0.001, le=0.288)]  # a uniform average of the whole run has 1/sqrt(12) = 0.2887

DEFAULT_SNAPSHOTS = 64


class BatchGrowth(Table):
    """From `after_images` on, a step takes `batch_size` images."""

    after_images: PositiveInt
    batch_size: PositiveInt


class TrainRecipe(Table):
    """The training loop; the defaults are the paper's (table 7)."""

    num_images: PositiveInt = Field(description="images to train on, repetitions counted")
    batch_size: PositiveInt = Field(256, description="images of one step over all ranks")
    batch_growth: Annotated[tuple[BatchGrowth, ...], Listed] = Field((), description="larger steps later in the run")
    micro_batch_size: PositiveInt | None = Field(
        None, description="most images one rank takes at once; more are accumulated. Default: all of its share"
    )
    seed: Seed = 0
    init_from: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="run, checkpoint or file whose averaged weights to begin with; it may lack outer levels"
    )
    optimizer: OptimizerName = Field(
        "adamw", description="muon: orthogonal updates of the hidden matrices, adamw for the rest, at one lr"
    )
    lr: PositiveFloat = 5e-4
    betas: Annotated[tuple[Beta, Beta], Listed] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 1e-2
    schedule: Schedule = Field(
        "constant", description="of the learning rate between warm-up and cool-down; cosine ends at zero"
    )
    inverse_sqrt_images: PositiveInt | None = Field(
        None, description="inverse-sqrt: the rate falls as sqrt(this / images) from this many images on"
    )
    warmup_images: NonNegativeInt = Field(0, description="the learning rate rises linearly over these first images")
    cooldown_images: NonNegativeInt = Field(0, description="and falls linearly to zero over these last ones")
    grad_clip: PositiveFloat = Field(1.0, description="largest norm of the gradient")
    class_dropout: Probability = Field(0.1, description="images whose class is withheld, for guidance")
    ema_power: PositiveFloat = Field(0.75, description="the average's decay is 1 - (1 + steps)^-power, at most ...")
    ema_max: Probability = Field(0.9999, description="... this")
    ema_profiles: Annotated[tuple[EmaLength, ...], Listed] = Field(
        (), description="lengths of further averages, as shares of the run, e.g. [0.05, 0.10]; hdit ema makes any other"
    )
    ema_snapshot_every_images: NonNegativeInt | None = Field(
        None, description="ema_profiles: a snapshot of each every so often. Default: 64 in the run; 0: none"
    )
    rollback: NonNegativeInt = Field(
        0, description="times that a run goes back to its last checkpoint and passes over the images of a spike"
    )
    precision: Precision = Field("auto", description="auto: bfloat16 on GPUs that have it, else float32")
    compile: bool = Field(False, description="compile the layers with torch.compile: pays on GPUs, seldom on CPUs")
    activation_checkpointing: bool | NonNegativeInt = Field(
        False, description="levels, outermost first, that keep no activations: less memory, more time; true: all"
    )
    parallel: Parallel = Field(
        "auto",
        description="ranks share weights: ddp, each has all; fsdp, each has a part; auto: fsdp where all do not fit",
    )
    shard_ranks: PositiveInt | None = Field(
        None, description="neighbouring ranks that share one copy of the weights under fsdp. Default: all ranks"
    )
    rank_timeout_s: PositiveInt = Field(600, description="how long a rank waits for the others before the run ends")
    log_every_images: PositiveInt = 10_000
    checkpoint_every_images: PositiveInt = 1_000_000
    keep_checkpoints: Annotated[int, Field(ge=2)] = Field(3, description="newest intact checkpoints that stay on disk")
    keep_every_images: NonNegativeInt = Field(0, description="a checkpoint every so often stays for ever; 0: none does")
    sample_every_images: NonNegativeInt = Field(1_000_000, description="a grid of samples every so often; 0: never")
    eval_every_images: NonNegativeInt = Field(0, description="score samples every so often, keep the best; 0: never")
    eval_num_images: Annotated[int, Field(ge=2)] = Field(5_000, description="samples that are drawn for such a score")
    eval_metric: Literal["frechet", "kernel"] = Field("frechet", description="the distance that the best is lowest in")

    def batch_size_at(self, num_images: int) -> int:
        """Return how many images the step takes that begins after `num_images` images."""
        return next(
            (g.batch_size for g in reversed(self.batch_growth) if num_images >= g.after_images), self.batch_size
        )

    @property
    def snapshot_every_images(self) -> int:
        """How many images lie between two snapshots of the profiles, 0: there are none."""
        if not self.ema_profiles or self.ema_snapshot_every_images is not None:
            return self.ema_snapshot_every_images or 0
        return max(1, self.num_images // DEFAULT_SNAPSHOTS)

    def constraint_violations(self) -> Iterator[Problem]:
        yield from self._profile_problems()
        yield from self._growth_problems()
        yield from self._schedule_problems()
        if self.parallel == "ddp" and self.shard_ranks is not None:
            yield "shard_ranks", "is for parallel = 'fsdp'; with 'ddp' every rank has all weights, leave it out"
        if self.keep_every_images % self.checkpoint_every_images:
            yield (
                "keep_every_images",
                (
                    f"{self.keep_every_images} is not a multiple of checkpoint_every_images = "
                    f"{self.checkpoint_every_images}, when checkpoints are saved"
                ),
            )

    def _growth_problems(self) -> Iterator[Problem]:
        marks = [growth.after_images for growth in self.batch_growth]
        if any(later <= earlier for earlier, later in pairwise(marks)):
            yield "batch_growth", f"after_images has to rise from entry to entry, found {marks}"
        start = 0
        for index, growth in enumerate(self.batch_growth):
            before = self.batch_growth[index - 1].batch_size if index else self.batch_size
            if (growth.after_images - start) % before:
                yield (
                    f"batch_growth[{index}].after_images",
                    (f"{growth.after_images} does not fall between two steps of {before} images"),
                )
            start = growth.after_images

    def _schedule_problems(self) -> Iterator[Problem]:
        point, wanted = self.inverse_sqrt_images, self.schedule == "inverse-sqrt"
        if wanted and point is None:
            example = max(1, self.num_images // 10)
            yield (
                "inverse_sqrt_images",
                f"missing; 'inverse-sqrt' falls from that many images on, for example {example}",
            )
        if point is not None and not wanted:
            yield "inverse_sqrt_images", f"{point} means nothing to schedule = '{self.schedule}', but to 'inverse-sqrt'"
        if self.warmup_images + self.cooldown_images > self.num_images:
            yield (
                "cooldown_images",
                (
                    f"warm-up ({self.warmup_images}) and cool-down ({self.cooldown_images}) together "
                    f"are longer than num_images = {self.num_images}"
                ),
            )

    def _profile_problems(self) -> Iterator[Problem]:
        lengths = self.ema_profiles
        if any(round(length, 3) != length for length in lengths):
            yield "ema_profiles", f"{list(lengths)} has more than three decimals, by which averages are named"
        if len(set(lengths)) != len(lengths):
            yield "ema_profiles", f"{list(lengths)} has a length twice"
        if self.ema_snapshot_every_images and not lengths:
            yield "ema_snapshot_every_images", "needs ema_profiles, for example [0.05, 0.10]"
