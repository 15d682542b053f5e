"""Where `hdit sample` is to put its images, and in what time: read before anything heavy is imported."""

from dataclasses import dataclass
from pathlib import Path

from hdit_cli.sample_options import seconds
from hdit_cli.sample_output import check_out, grid_shape
from hdit_core.errors import UsageError


@dataclass(frozen=True)
class Target:
    """Where the images go."""

    out: Path
    grid: str | None = None
    trajectory: Path | None = None
    budget: str | None = None

    def __post_init__(self) -> None:
        check_out(self.out, self.grid)
        self._check_spelling()
        if self.budget is not None and self.out.suffix == ".npz":
            raise UsageError("--budget: an npz says at its beginning how many images it holds; use a folder or .tar")
        if self.trajectory is not None and self.trajectory.suffix.lower() != ".webp":
            raise UsageError(f"--trajectory {self.trajectory}: expected a name that ends in .webp")
        if self.trajectory is not None and not self.trajectory.parent.is_dir():
            raise UsageError(f"--trajectory {self.trajectory}: there is no folder {self.trajectory.parent}")

    def _check_spelling(self) -> None:
        """Refuse a misspelt grid or time now, not when the network is loaded."""
        if self.grid is not None:
            grid_shape(self.grid)
        if self.budget is not None:
            seconds(self.budget)

    @property
    def columns(self) -> tuple[int, int] | None:
        """Rows and columns of the grid."""
        return grid_shape(self.grid) if self.grid is not None else None

    @property
    def budget_s(self) -> float | None:
        """Time there is."""
        return seconds(self.budget) if self.budget is not None else None
