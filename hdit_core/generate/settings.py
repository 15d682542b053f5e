"""How the images of a run are drawn where nothing else is said: what `hdit sweep` found best, in RUN/sample.toml.

    weights = "0.100"

    [sample]
    guidance = 1.5

It stands between the recipe's `[sample]`, which stays as the run began with it, and what a command is given.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hdit_core.checkpoint.denoiser import Weights, load_denoiser
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import RecipeError, UsageError
from hdit_core.files import write_atomic
from hdit_core.recipe.read import check_recipe, override_key
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.sample import SampleRecipe

NAME = "sample.toml"
LARGEST_BYTES = 100_000
DEFAULT_WEIGHTS = "ema"


@dataclass(frozen=True)
class Defaults:
    """What a run's images are drawn with.

    Attributes:
        weights: which of its weights.
        sample: keys of the recipe's `[sample]`, in place of the recipe's.
        path: the file that says so; None where there is none.
    """

    weights: Weights = DEFAULT_WEIGHTS
    sample: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def note(self) -> str | None:
        """What a user has to know who asked for none of it."""
        said = [f"weights {self.weights}", *(f"{key} {value}" for key, value in self.sample.items())]
        return f"as {self.path} says where the command does not: {', '.join(said)}" if self.path else None


def read_defaults(run: Path) -> Defaults:
    """Return the defaults of a run; those of everything else, a checkpoint or a file, are the recipe's.

    Raises:
        RecipeError: the file is damaged, or says what it cannot say.
    """
    path = run / NAME
    if not path.is_file():
        return Defaults()
    if path.stat().st_size > LARGEST_BYTES:
        raise RecipeError(f"{path}: more than {LARGEST_BYTES:,} bytes, which no sampling defaults have; remove it")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise RecipeError(f"{path}: not a TOML file: {problem}; mend or remove it") from None
    weights, sample = tables.pop("weights", DEFAULT_WEIGHTS), tables.pop("sample", {})
    if tables or not isinstance(weights, str) or not isinstance(sample, dict):
        raise RecipeError(f'{path}: expected weights = "..." and [sample] and no other key; mend or remove it')
    return Defaults(weights, sample, path)


def _rows(sample: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield a line for each key; JSON's strings, numbers, booleans and arrays of these are TOML's too."""
    for key, value in sample.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key} = {json.dumps(value)}"


def write_defaults(run: Path, weights: Weights, sample: Mapping[str, Any], remark: str) -> Path:
    """Write the defaults of a run, whole or not at all; older ones are replaced.

    Args:
        run: the run's folder.
        weights: as `load_denoiser` takes them.
        sample: keys of `[sample]`; those that are None are left out.
        remark: where they come from, one line.
    """
    lines = [f"# {remark}", f"weights = {json.dumps(weights)}", "", "[sample]", *_rows(sample)]
    write_atomic(run / NAME, "\n".join(lines) + "\n")
    return run / NAME


def apply_defaults(recipe: Recipe, defaults: Defaults) -> Recipe:
    """Return the recipe with the defaults in its `[sample]`.

    Raises:
        RecipeError: they do not go with the network.
    """
    if not defaults.sample:
        return recipe
    tables = recipe.model_dump(mode="json", exclude_none=True)
    tables["sample"] |= defaults.sample
    return check_recipe(tables, str(defaults.path))


def open_denoiser(
    path: str | Path, weights: Weights | None = None, device: str | torch.device = "cpu"
) -> tuple[Denoiser, Defaults]:
    """Load a denoiser whose recipe says how its images are drawn by default, and return those defaults too.

    Args:
        path: as `load_denoiser` takes it.
        weights: the same; default those of RUN/sample.toml, otherwise the averaged ones.
        device: where the network goes.

    Raises:
        CheckpointError, UsageError: as `load_denoiser`.
        RecipeError: RUN/sample.toml is damaged, or does not go with the network.
    """
    defaults = read_defaults(Path(path))
    denoiser = load_denoiser(path, weights or defaults.weights, device)
    return with_sample(denoiser, apply_defaults(denoiser.recipe, defaults).sample), defaults


def with_sample(denoiser: Denoiser, sample: SampleRecipe) -> Denoiser:
    """Return the same network in a denoiser whose recipe draws otherwise."""
    recipe = denoiser.recipe.model_copy(update={"sample": sample})
    return Denoiser(denoiser.network, recipe).eval()


def sample_settings(recipe: Recipe, overrides: Iterable[str] = (), **given: object) -> SampleRecipe:
    """Return the recipe's sampling settings with those replaced that are given and not None.

    Args:
        recipe: whose `[sample]` table is the preset.
        overrides: `sample.key=value` each, as on the command line.
        given: by key of the table, stronger than overrides.

    Raises:
        UsageError: an override of another table, which decides nothing here.
        RecipeError: a setting that there is not, or that does not go with the network.
    """
    tables = recipe.model_dump(mode="json", exclude_none=True)
    for override in overrides:
        if not override.strip().startswith("sample."):
            raise UsageError(
                f"--set {override}: only keys of [sample] decide how images are drawn, for example sample.schedule=vp"
            )
        override_key(tables, override)
    tables["sample"] |= {key: value for key, value in given.items() if value is not None}
    return check_recipe(tables, "sampling").sample
