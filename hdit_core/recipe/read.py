"""A checked `Recipe` from a TOML file or the name of a built-in recipe, with `--set` overrides.

All mistakes are reported at once.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import hdit_core
from hdit_core.errors import RecipeError, did_you_mean
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.validation_errors import format_validation_errors, names_any, without_mistakes

MAX_RECIPE_BYTES = 1_000_000
MAX_ERRORS = 100  # that are printed
MAX_KEY_PARTS = 32

# tomllib's time is quadratic in the number of parts of a key: 24 s for 30,000 parts.
_ENDLESS_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){MAX}""".replace("MAX", str(MAX_KEY_PARTS))
)

_INDEX = re.compile(r"\[([^\[\]]*)\]")  # `levels[0]` is `levels.0`

_WHOLE = re.compile(r"\s*([0-9]{1,9})[eE]\+?([0-9]{1,2})\s*", re.ASCII)  # 1e6, which TOML reads as a float
_INTERVAL = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*:\s*([0-9]*\.?[0-9]+)\s*", re.ASCII)

Overrides = Iterable[str] | Mapping[str, Any]
"""`table.key=value` each, as on the command line, or values by their keys, such as `{"train.batch_size": 64}`."""

_NOT_UNICODE = re.compile("[\ud800-\udfff]")  # how Python carries bytes of the command line that are not UTF-8


def shipped_recipes() -> dict[str, Path]:
    """Return the built-in recipes by name, from the installed package or the source tree.

    Those in subfolders come last, with the folder in their name: `ablations/b1`.
    """
    package = Path(hdit_core.__file__).parent
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in (package / "recipes", package.parent / "recipes")
        for pattern in ("*.toml", "*/*.toml")
        for path in sorted(folder.glob(pattern))
    }


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by its path or by the name of a built-in recipe.

    Raises:
        RecipeError: there is no such file and no such name.
    """
    path, shipped = Path(name), shipped_recipes()
    if path.is_file():
        return path
    if name in shipped:
        return shipped[name]
    raise RecipeError(
        f"{name}: no such recipe file, and no built-in recipe of that name (hdit recipe list prints them)"
        + (did_you_mean(name.removesuffix(".toml"), shipped) or did_you_mean(path.stem, shipped))
    )


def read_recipe(name: str, overrides: Overrides = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        name: path of a TOML file, or the name of a built-in recipe.
        overrides: `table.key=value` each, the value in TOML; a bare word is a string. Or values by their keys. Elements
            of an array are given by index: `model.levels[0].width=64` or `model.levels.0.width=64`.

    Raises:
        RecipeError: one line per mistake, with file, key, the value found and the value expected.
        OSError: the file cannot be read.
    """
    return check_recipe(*_read_tables(name, overrides))


def recipe_mistakes(
    name: str, overrides: Overrides = (), check: Callable[[Recipe], Iterable[str]] = lambda recipe: ()
) -> list[str]:
    """Return all mistakes of a recipe that can be found at once, one line each.

    Args:
        name, overrides: as for `read_recipe`.
        check: further problems of a recipe. If the recipe has mistakes, it gets one without the invalid keys if
            possible, and problems that mention these keys are left out.

    Raises:
        RecipeError: the file is not TOML, or an override is malformed.
        OSError: the file cannot be read.
    """
    tables, where = _read_tables(name, overrides)
    try:
        return [f"{where}: {problem}" for problem in check(check_recipe(tables, where))]
    except RecipeError as error:
        mistakes = str(error).splitlines()
    recipe, names = without_mistakes(tables)
    problems = [] if recipe is None else [problem for problem in check(recipe) if not names_any(problem, names)]
    return [*mistakes, *(f"{where}: {problem}" for problem in problems)]


def _read_tables(name: str, overrides: Overrides) -> tuple[dict[str, Any], str]:
    """Return the tables of a recipe file with overrides, not yet checked, and the path of the file."""
    path = find_recipe(name)
    if (size_bytes := path.stat().st_size) > MAX_RECIPE_BYTES:
        raise RecipeError(f"{path}: {size_bytes} bytes, too large for a recipe (at most {MAX_RECIPE_BYTES})")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from None
    except OSError as error:
        error.filename = error.filename or str(path)  # an error of `read` has none
        raise
    return _overridden(_parse(text, str(path)), overrides), str(path)


def parse_recipe(text: str, overrides: Overrides = ()) -> Recipe:
    """Check a recipe given as TOML.

    Args:
        text: of the recipe.
        overrides: as for `read_recipe`.

    Raises:
        RecipeError: as `read_recipe`.
    """
    return check_recipe(_overridden(_parse(text, "recipe"), overrides), "recipe")


def override_recipe(recipe: Recipe, overrides: Overrides) -> Recipe:
    """Return a recipe with overrides, checked again; arguments as for `parse_recipe`.

    Raises:
        RecipeError: as `read_recipe`.
    """
    return check_recipe(_overridden(recipe.model_dump(mode="json", exclude_none=True), overrides), "recipe")


def _overridden(tables: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            if not isinstance(key, str):
                raise TypeError(f"overrides: expected keys such as 'train.batch_size', got {key!r}")
            set_key(tables, key, os.fspath(value) if isinstance(value, os.PathLike) else value)
        return tables
    for override in overrides:
        override_key(tables, override)
    return tables


def check_recipe(tables: Mapping[str, Any], where: str) -> Recipe:
    """Return the `Recipe` of parsed tables; `where` names their origin in errors.

    Raises:
        RecipeError: as `read_recipe`.
    """
    try:
        return Recipe.model_validate(dict(tables))
    except ValidationError as error:
        lines = [f"{where}: {mistake}" for mistake in islice(format_validation_errors(error, tables), MAX_ERRORS + 1)]
        lines[MAX_ERRORS:] = [f"{where}: and more mistakes"] if len(lines) > MAX_ERRORS else []
        raise RecipeError("\n".join(lines)) from None


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        tables = None if _ENDLESS_KEY.search(text) else tomllib.loads(text)
    except RecursionError:
        tables = None
    except ValueError as error:  # not TOML, or a number of thousands of digits
        raise RecipeError(f"{where}: not a TOML file: {error}") from None
    if tables is None:
        raise RecipeError(f"{where}: nested too deeply for a recipe")
    return tables


def override_key(tables: dict[str, Any], override: str) -> None:
    """Apply one `--set table.key=value` to a recipe's tables, in place.

    Raises:
        RecipeError: it is not of that form, or there is no such array element.
    """
    key, equals, text = override.partition("=")
    if not equals or key.strip().endswith(".") or not key.strip():
        raise RecipeError(f"--set {override}: expected table.key=value, for example train.batch_size=64")
    if _NOT_UNICODE.search(override):
        raise RecipeError(f"--set {override}: not UTF-8, as a recipe has to be")
    value = _interval(text) if key.strip().endswith("guidance_interval") else None
    set_key(tables, key, _value(text) if value is None else value, f"--set {override}")


def set_key(tables: dict[str, Any], key: str, value: Any, where: str | None = None) -> None:
    """Set a key such as `train.batch_size` or `model.levels[0].width` in a recipe's tables, in place.

    Args:
        tables: of the recipe.
        key: the path to the value.
        value: of the type that TOML would have.
        where: the override, for errors; default: the key.

    Raises:
        RecipeError: there is no such array element, or a part of the key is a value.
    """
    where = where or key
    *parents, last = _INDEX.sub(r".\1", key.strip()).split(".")
    if len(parents) >= MAX_KEY_PARTS:
        raise RecipeError(f"{where[:40]}: a key of {len(parents) + 1} parts; a recipe has at most {MAX_KEY_PARTS}")
    table: Any = tables
    for part in parents:
        table = _enter(table, part, where)
    if isinstance(table, list):
        table[_index(table, last, where)] = value
    else:
        table[last] = value


def _enter(table: Any, part: str, where: str) -> Any:
    inner = table[_index(table, part, where)] if isinstance(table, list) else table.setdefault(part, {})
    if not isinstance(inner, dict | list):
        raise RecipeError(f"{where}: '{part}' is a value, not a table")
    return inner


def _index(array: list[Any], part: str, where: str) -> int:
    if not array:
        raise RecipeError(f"{where}: the array has no element '{part}', it is empty")
    if re.fullmatch("[0-9]{1,9}", part) and int(part) < len(array):
        return int(part)
    raise RecipeError(f"{where}: expected an index from 0 to {len(array) - 1}, found '{part}'")


def _interval(text: str) -> list[float] | None:
    """Return the two numbers of `LOW:HIGH`, which is how the options of commands give intervals; None: other text."""
    match = _INTERVAL.fullmatch(text)
    return [float(match[1]), float(match[2])] if match else None


def _value(text: str) -> Any:
    """Return the value of a text in TOML, `1e6` as a whole number; the text itself if it is not exactly one value."""
    if match := _WHOLE.fullmatch(text):
        return int(match[1]) * 10 ** int(match[2])
    try:
        tables = tomllib.loads(f"value = {text.strip()}")
    except (ValueError, RecursionError):
        return text.strip()
    return tables["value"] if len(tables) == 1 else text.strip()
