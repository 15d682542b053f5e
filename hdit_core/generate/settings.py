"""Default sampling settings of a run, such as those that `hdit sweep` found best: RUN/sample.toml.

    weights = "0.100"

    [sample]
    guidance = 1.5

They override the recipe's `[sample]`, which never changes, and are overridden by a command's options.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hdit_core.checkpoint.denoiser import Weights, check_weights, load_denoiser
from hdit_core.checkpoint.layout import local_model
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import RecipeError, UsageError
from hdit_core.files import read_text, write_atomic
from hdit_core.recipe.read import check_recipe, override_key
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.sample import SampleRecipe
from hdit_core.recipe.write import tables_toml

NAME = "sample.toml"
LARGEST_BYTES = 100_000
DEFAULT_WEIGHTS = "ema"


@dataclass(frozen=True)
class Defaults:
    """Default weights and sampling settings of a run.

    Attributes:
        weights: kind of its weights.
        sample: keys of `[sample]` that override the recipe's.
        path: the file that they come from; None without one.
    """

    weights: Weights = DEFAULT_WEIGHTS
    sample: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def note(self, weights: Weights | None, overrides: Iterable[str] = (), **values: object) -> str | None:
        """Return a message that lists the defaults that a command uses, None if it uses none.

        Args:
            weights: chosen by the command, None for the default.
            overrides, values: sampling settings of the command, as `sample_settings` takes them.
        """
        overridden = {re.split(r"[.=\[]", f"{override}=")[1].strip() for override in overrides}
        overridden |= {key for key, value in values.items() if value is not None}
        used = {} if weights is not None else {"weights": self.weights}
        used |= {key: value for key, value in self.sample.items() if key not in overridden}
        if self.path is None or not used:
            return None
        return f"using defaults from {self.path}: {', '.join(f'{key}={value}' for key, value in used.items())}"


def read_defaults(run: Path) -> Defaults:
    """Return the defaults in a run's sample.toml; without that file, those of the recipe.

    Raises:
        RecipeError: the file is damaged or has unknown keys.
    """
    path = local_model(run) / NAME
    if not path.is_file():
        return Defaults()
    if path.stat().st_size > LARGEST_BYTES:
        raise RecipeError(f"{path}: larger than {LARGEST_BYTES:,} bytes; expected sampling defaults: remove it")
    try:
        tables = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as problem:
        raise RecipeError(f"{path}: not a TOML file: {problem}; fix or remove it") from None
    weights, sample = tables.pop("weights", DEFAULT_WEIGHTS), tables.pop("sample", {})
    if tables or not isinstance(weights, str) or not isinstance(sample, dict):
        raise RecipeError(f'{path}: expected weights = "..." and [sample], and no other key; fix or remove it')
    return Defaults(weights, sample, path)


def write_defaults(run: Path, weights: Weights, sample: Mapping[str, Any], remark: str) -> Path:
    """Write the defaults of a run atomically, replacing earlier ones, and return the file.

    Args:
        run: the run's folder.
        weights: as `load_denoiser` takes them.
        sample: keys of `[sample]`; None values are omitted.
        remark: their origin, one line.
    """
    tables = {"weights": weights, "sample": {key: value for key, value in sample.items() if value is not None}}
    write_atomic(run / NAME, f"# {remark}\n{tables_toml(tables)}")
    return run / NAME


def apply_defaults(recipe: Recipe, defaults: Defaults) -> Recipe:
    """Return the recipe with the defaults in its `[sample]`.

    Raises:
        RecipeError: they do not match the network.
    """
    if not defaults.sample:
        return recipe
    tables = recipe.model_dump(mode="json", exclude_none=True)
    tables["sample"] |= defaults.sample
    return check_recipe(tables, str(defaults.path))


def open_denoiser(
    path: str | Path, weights: Weights | None = None, device: str | torch.device = "cpu"
) -> tuple[Denoiser, Defaults]:
    """Return a denoiser whose recipe includes the run's default sampling settings, and those defaults.

    Args:
        path: as `load_denoiser` takes it.
        weights: as `load_denoiser` takes them; default: those of RUN/sample.toml, else the EMA weights.
        device: of the network.

    Raises:
        CheckpointError, UsageError: as `load_denoiser`.
        RecipeError: RUN/sample.toml is damaged, or does not match the network.
    """
    defaults = read_defaults(Path(path))
    denoiser = load_denoiser(path, weights or defaults.weights, device)
    check_weights(path, weights, denoiser.source)
    return with_sample(denoiser, apply_defaults(denoiser.recipe, defaults).sample), defaults


def with_sample(denoiser: Denoiser, sample: SampleRecipe) -> Denoiser:
    """Return a denoiser with the same network and other default sampling settings."""
    recipe = denoiser.recipe.model_copy(update={"sample": sample})
    return Denoiser(denoiser.network, recipe, denoiser.source).eval()


def sample_settings(recipe: Recipe, overrides: Iterable[str] = (), **values: object) -> SampleRecipe:
    """Return the recipe's sampling settings with overrides.

    Args:
        recipe: whose `[sample]` table gives the defaults.
        overrides: `sample.key=value` each, as on the command line.
        values: by key of the table; None keeps the default. They take precedence over `overrides`.

    Raises:
        UsageError: an override of another table, which has no effect on sampling.
        RecipeError: an unknown setting, or one that does not match the network.
    """
    tables = recipe.model_dump(mode="json", exclude_none=True)
    for override in overrides:
        if not override.strip().startswith("sample."):
            raise UsageError(
                f"--set {override}: only keys of [sample] apply to sampling, for example sample.schedule=vp"
            )
        override_key(tables, override)
    tables["sample"] |= {key: value for key, value in values.items() if value is not None}
    return check_recipe(tables, "sampling").sample
