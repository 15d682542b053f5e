"""What a user asked `hdit sample` for: read before anything heavy is imported, then turned into a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hdit_cli.options import image_size
from hdit_cli.sample_options import seconds
from hdit_cli.sample_output import check_out, grid_shape
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    import torch

    from hdit_core.diffusion.guidance import Guide
    from hdit_core.generate.job import Job

AUTOGUIDANCE = 2.0  # a weight near which Karras et al. (2024, table 1) find the best of their models


@dataclass(frozen=True)
class Target:
    """Where the images go."""

    out: Path
    grid: str | None = None
    trajectory: Path | None = None
    budget: str | None = None

    def __post_init__(self) -> None:
        check_out(self.out, self.grid)
        if self.budget is not None and self.out.suffix == ".npz":
            raise UsageError("--budget: an npz says at its beginning how many images it holds; use a folder or .tar")
        if self.trajectory is not None and self.trajectory.suffix.lower() != ".webp":
            raise UsageError(f"--trajectory {self.trajectory}: expected a name that ends in .webp")
        if self.trajectory is not None and not self.trajectory.parent.is_dir():
            raise UsageError(f"--trajectory {self.trajectory}: there is no folder {self.trajectory.parent}")

    @property
    def columns(self) -> tuple[int, int] | None:
        """Rows and columns of the grid."""
        return grid_shape(self.grid) if self.grid is not None else None

    @property
    def budget_s(self) -> float | None:
        """Time there is."""
        return seconds(self.budget) if self.budget is not None else None


@dataclass(frozen=True)
class GuideRequest:
    """The worse model to lead away from; without one nothing else may be said of it."""

    ckpt: Path | None = None
    weights: str | None = None
    autoguidance: float | None = None

    def __post_init__(self) -> None:
        for option, value in (("--autoguidance", self.autoguidance), ("--guide-weights", self.weights)):
            if self.ckpt is None and value is not None:
                raise UsageError(f"{option} {value}: needs a model to lead away from; give one with --guide CKPT")

    def load(self, weights: str, device: "torch.device") -> "Guide | None":
        """Return the guide, None where there is to be none; its weights are those of the model if no others are named.

        Raises:
            CheckpointError: it cannot be read.
        """
        if self.ckpt is None:
            return None
        from hdit_core.checkpoint import load_denoiser
        from hdit_core.diffusion.guidance import Guide

        denoiser = load_denoiser(self.ckpt, self.weights or weights, device)
        return Guide(denoiser, AUTOGUIDANCE if self.autoguidance is None else self.autoguidance)


@dataclass(frozen=True)
class Request:
    """The images that are to be drawn.

    Attributes:
        weights: of the checkpoint; None: those that RUN/sample.toml names, or the averaged ones.
        num: how many from the first, unless `numbers` lists some.
        size: what `--size` says.
        drawn: sampling settings by key, None where the recipe's count.
        overrides: further ones as `sample.key=value`.
    """

    ckpt: Path
    weights: str | None
    num: int
    numbers: str | None
    seed: int
    class_id: int | None
    size: str | None
    drawn: Mapping[str, object]
    overrides: Sequence[str]
    guide: GuideRequest

    def job(self, device: "torch.device", budget_s: float | None) -> "Job":
        """Load what is asked for.

        Raises:
            UsageError: the network has no such class or size, or the guide is unlike it.
            RecipeError: a setting that there is not.
            CheckpointError: a checkpoint cannot be read.
        """
        pixels = image_size(self.size) if self.size is not None else None

        from hdit_core.generate.defaults import open_denoiser
        from hdit_core.generate.generate import check_classes, check_request
        from hdit_core.generate.job import Job
        from hdit_core.generate.ranges import read_ranges
        from hdit_core.generate.settings import sample_settings

        numbers = list(range(self.num)) if self.numbers is None else read_ranges(self.numbers)
        denoiser, defaults = open_denoiser(self.ckpt, self.weights, device)
        settings = sample_settings(denoiser.recipe, self.overrides, **self.drawn)
        guide = self.guide.load(self.weights or defaults.weights, device)
        job = Job(
            denoiser,
            numbers,
            self.seed,
            settings,
            pixels or denoiser.recipe.model.image_size,
            self.class_id,
            budget_s,
            guide,
        )
        check_request(denoiser, job.image_size, guide)
        check_classes(denoiser.recipe.model.num_classes, numbers[:1], None if job.class_id is None else [job.class_id])
        return job
