"""`train`: from a recipe to a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hdit_core.api.arguments import PathLike, path_argument, shown_progress
from hdit_core.api.recipes import read_recipe
from hdit_core.recipe.read import Overrides, override_recipe
from hdit_core.recipe.run import Recipe
from hdit_core.train import run
from hdit_core.train.monitor.callbacks import Callbacks, showing
from hdit_core.train.start.fork import parse_source


@dataclass(frozen=True)
class TrainedRun:
    """A run that `train` finished; a path, so that it can be given to `load_denoiser` and `generate`.

    Attributes:
        folder: the run directory.
        step: number of optimizer steps.
        num_images: number of images trained on.
        elapsed_s: training time, over all processes that worked on the run.
    """

    folder: Path
    step: int
    num_images: int
    elapsed_s: float

    def __fspath__(self) -> str:
        return str(self.folder)


def train(
    recipe: Recipe | PathLike,
    out: PathLike,
    *,
    data: PathLike | None = None,
    overrides: Overrides = (),
    fork_from: PathLike | None = None,
    reset: Sequence[str] = (),
    device: str = "auto",
    deterministic: bool = False,
    progress: bool = True,
) -> TrainedRun:
    """Train a recipe, or resume it if the run directory contains an unfinished run of it, like `hdit train`.

    Args:
        recipe: from `read_recipe`, or what that takes.
        out: the run directory.
        data: a prepared data set; default: the recipe's `data.path`.
        overrides: as for `read_recipe`.
        fork_from: a run, or `"RUN@STEP"`, to continue from with other settings.
        reset: state that is not taken over from it: `"optimizer"`, `"ema"`, `"counter"`.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        deterministic: use deterministic algorithms; fail if an operation has none.
        progress: show progress and messages on stderr.

    Raises:
        HditError: as `hdit_core.train.run.train`; `StoppedEarly` after a signal: the same call resumes.
    """
    folder = Path(path_argument(out, "out"))
    checked = override_recipe(recipe, overrides) if isinstance(recipe, Recipe) else read_recipe(recipe, overrides)
    if data is not None:
        checked = override_recipe(checked, {"data.path": path_argument(data, "data")})
    fork = None if fork_from is None else parse_source(path_argument(fork_from, "fork_from"), reset)
    with shown_progress(progress, "train", checked.train.num_images) as bar:
        callbacks = showing(bar) if progress else Callbacks()
        state = run.train(checked, folder, device=device, callbacks=callbacks, deterministic=deterministic, fork=fork)
        bar.update(state.num_images, remark=bar.remark, per_s=bar.per_s)
    return TrainedRun(folder, state.step, state.num_images, state.elapsed_s)
