"""From a TOML file, or the name of a shipped one, and `--set` overrides to a checked `Recipe`.

Every mistake is reported at once.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import hdit_core
from hdit_core.errors import RecipeError, did_you_mean
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.validation_errors import format_validation_errors

MAX_RECIPE_BYTES = 1_000_000
MAX_ERRORS = 100  # that are printed
MAX_KEY_PARTS = 32

# tomllib's time grows with the square of the number of a key's parts: 24 s for 30,000 of them.
_ENDLESS_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){MAX}""".replace("MAX", str(MAX_KEY_PARTS))
)

_NOT_UNICODE = re.compile("[\ud800-\udfff]")  # how Python carries bytes of the command line that are not UTF-8


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with hdit, by name, from the installed package or the source tree.

    Those of a folder within come last, and are named after it: `ablations/b1`.
    """
    package = Path(hdit_core.__file__).parent
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in (package / "recipes", package.parent / "recipes")
        for pattern in ("*.toml", "*/*.toml")
        for path in sorted(folder.glob(pattern))
    }


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by path or by shipped name.

    Raises:
        RecipeError: there is no such file and no such name.
    """
    path, shipped = Path(name), shipped_recipes()
    if path.is_file():
        return path
    if name in shipped:
        return shipped[name]
    raise RecipeError(
        f"{name}: no such recipe file, and no shipped recipe of that name (there are {', '.join(shipped)})"
        + (did_you_mean(name.removesuffix(".toml"), shipped) or did_you_mean(path.stem, shipped))
    )


def read_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        name: path of a TOML file, or the name of a shipped recipe.
        overrides: `table.key=value` each, the value in TOML; a bare word is taken as a string. An element of an
            array is named by its place: `model.levels.0.width=64`.

    Raises:
        RecipeError: with one line for every mistake, each naming file, key, what was found and what is expected.
    """
    path = find_recipe(name)
    tables = _parse(path)
    for override in overrides:
        override_key(tables, override)
    return check_recipe(tables, str(path))


def check_recipe(tables: Mapping[str, Any], where: str) -> Recipe:
    """Turn parsed tables into a `Recipe`; `where` names their origin in errors.

    Raises:
        RecipeError: as `read_recipe`.
    """
    try:
        return Recipe.model_validate(dict(tables))
    except ValidationError as error:
        lines = [f"{where}: {mistake}" for mistake in islice(format_validation_errors(error, tables), MAX_ERRORS + 1)]
        lines[MAX_ERRORS:] = [f"{where}: and more mistakes"] if len(lines) > MAX_ERRORS else []
        raise RecipeError("\n".join(lines)) from None


def _parse(path: Path) -> dict[str, Any]:
    if (size_bytes := path.stat().st_size) > MAX_RECIPE_BYTES:
        raise RecipeError(f"{path}: {size_bytes} bytes are too many for a recipe (at most {MAX_RECIPE_BYTES})")
    try:
        text = path.read_text(encoding="utf-8")
        tables = None if _ENDLESS_KEY.search(text) else tomllib.loads(text)
    except RecursionError:
        tables = None
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise RecipeError(f"{path}: not a TOML file: {error}") from None
    if tables is None:
        raise RecipeError(f"{path}: nested too deeply for a recipe")
    return tables


def override_key(tables: dict[str, Any], override: str) -> None:
    """Set one key of a recipe's tables, in place, as `--set table.key=value` says.

    Raises:
        RecipeError: it is not of that form, or there is no such place.
    """
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise RecipeError(f"--set {override}: expected table.key=value, for example train.batch_size=64")
    if len(parents) >= MAX_KEY_PARTS:
        raise RecipeError(f"--set: a key of {len(parents) + 1} parts; a recipe has at most {MAX_KEY_PARTS}")
    if _NOT_UNICODE.search(override):
        raise RecipeError(f"--set {override}: not UTF-8, as a recipe has to be")
    here: Any = tables
    for part in parents:
        here = _enter(here, part, override)
    if isinstance(here, list):
        here[_place(here, last, override)] = _value(text)
    else:
        here[last] = _value(text)


def _enter(here: Any, part: str, override: str) -> Any:
    inside = here[_place(here, part, override)] if isinstance(here, list) else here.setdefault(part, {})
    if not isinstance(inside, dict | list):
        raise RecipeError(f"--set {override}: '{part}' is a value, not a table")
    return inside


def _place(array: list[Any], part: str, override: str) -> int:
    if not array:
        raise RecipeError(f"--set {override}: the array has no element '{part}', it is empty")
    if re.fullmatch("[0-9]{1,9}", part) and int(part) < len(array):
        return int(part)
    raise RecipeError(f"--set {override}: expected a place from 0 to {len(array) - 1} in the array, found '{part}'")


def _value(text: str) -> Any:
    """Return what the text means in TOML; the text itself where it means nothing, or more than one value."""
    try:
        tables = tomllib.loads(f"value = {text.strip()}")
    except (ValueError, RecursionError):
        return text.strip()
    return tables["value"] if len(tables) == 1 else text.strip()
