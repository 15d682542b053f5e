"""From a TOML file, or the name of a shipped one, and `--set` overrides to a checked `Recipe`.

Every mistake is reported at once.
"""

import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

import hdit_core
from hdit_core.errors import RecipeError, did_you_mean
from hdit_core.recipe.run import Recipe

MAX_RECIPE_BYTES = 1_000_000
Keys = tuple[str | int, ...]


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with hdit, by name, from the installed package or the source tree."""
    package = Path(hdit_core.__file__).parent
    folders = (package / "recipes", package.parent / "recipes")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


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
        + did_you_mean(path.stem, shipped)
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
        _override(tables, override)
    return check_recipe(tables, str(path))


def check_recipe(tables: Mapping[str, Any], where: str) -> Recipe:
    """Turn parsed tables into a `Recipe`; `where` names their origin in errors.

    Raises:
        RecipeError: as `read_recipe`.
    """
    try:
        return Recipe.model_validate(dict(tables))
    except ValidationError as error:
        mistakes = [line for detail in error.errors() for line in _mistakes(detail)]
        raise RecipeError("\n".join(f"{where}: {mistake}" for mistake in mistakes)) from None


def _parse(path: Path) -> dict[str, Any]:
    if (size_bytes := path.stat().st_size) > MAX_RECIPE_BYTES:
        raise RecipeError(f"{path}: {size_bytes} bytes are too many for a recipe (at most {MAX_RECIPE_BYTES})")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise RecipeError(f"{path}: nested too deeply") from None
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise RecipeError(f"{path}: not a TOML file: {error}") from None


def _override(tables: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {override}: expected table.key=value, for example train.batch_size=64")
    *parents, last = key.strip().split(".")
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
    if part.isascii() and part.isdigit() and int(part) < len(array):
        return int(part)
    raise RecipeError(f"--set {override}: expected a place from 0 to {len(array) - 1} in the array, found '{part}'")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except (ValueError, RecursionError):
        return text.strip()


def _mistakes(detail: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of one of pydantic's errors, in our words."""
    keys: Keys = detail["loc"]
    key, found = _key(keys), detail["input"]
    match detail["type"]:
        case "laws":
            for inner, problem in detail["ctx"]["problems"]:
                equals = " = " if problem[:1].isdigit() or problem[:1] == "-" else ": "
                yield f"{key}.{inner}{equals}{problem}" if key else f"{inner}{equals}{problem}"
        case "extra_forbidden":
            valid = _valid_keys(keys[:-1])
            table = f"table [{_key(keys[:-1])}]" if keys[:-1] else "a recipe"
            yield f"{key}: unknown key{did_you_mean(str(keys[-1]), valid)} ({table} takes {', '.join(valid)})"
        case "missing":
            yield f"{key}: missing; expected {_expectation(keys)}"
        case "literal_error":
            expected = detail["ctx"]["expected"]
            yield f"{key} = {_show(found)}: expected {expected}{did_you_mean(str(found), _choices(keys))}"
        case _:
            expected = detail["msg"].removeprefix("Input should be ").removeprefix("Value should be ")
            yield f"{key} = {_show(found)}: expected {expected}"


def _key(keys: Keys) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in keys)
    return text.removeprefix(".")


def _show(found: Any) -> str:
    if isinstance(found, float) and not math.isfinite(found):
        return str(found)
    text = json.dumps(found, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _field(keys: Keys) -> Any:
    """Return pydantic's description of the field at a key path, or None where there is none."""
    field: Any = None
    table: Any = Recipe
    for part in keys:
        if isinstance(part, int):
            continue
        field = table.model_fields.get(part) if table is not None else None
        table = _table_of(field.annotation) if field is not None else None
    return field


def _table_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((table for inner in get_args(annotation) if (table := _table_of(inner))), None)


def _valid_keys(keys: Keys) -> list[str]:
    table = _table_of(_field(keys).annotation) if keys else Recipe
    return list(table.model_fields) if table is not None else []


def _choices(keys: Keys) -> list[str]:
    return [str(choice) for choice in get_args(_field(keys).annotation)]


def _expectation(keys: Keys) -> str:
    field = _field(keys)
    if _table_of(field.annotation) is not None and field.description is None:
        return f"a table [{_key(keys)}]"
    return field.description or getattr(field.annotation, "__name__", str(field.annotation))
