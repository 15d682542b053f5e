"""A `Recipe` back to TOML: what a run keeps beside its checkpoints, with every default written out."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hdit_core.recipe.run import Recipe


def recipe_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML that `read_recipe` reads back to an equal one. Keys that are None are left out."""
    return "\n".join(_lines((), recipe.model_dump(mode="json", exclude_none=True))).lstrip("\n") + "\n"


def _lines(keys: tuple[str, ...], table: Mapping[str, Any], brackets: str = "[{}]") -> Iterator[str]:
    if keys:
        yield "\n" + brackets.format(".".join(keys))
    for key, value in table.items():
        if not isinstance(value, dict) and not _is_array_of_tables(value):
            # JSON's numbers, booleans, strings and arrays of these are TOML's too, but for the escape of DEL
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007F")
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _lines((*keys, key), value)
        elif _is_array_of_tables(value):
            for element in value:
                yield from _lines((*keys, key), element, "[[{}]]")


def _is_array_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
