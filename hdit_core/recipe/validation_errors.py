"""pydantic's errors about a recipe, as messages for someone who writes TOML."""

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from hdit_core.errors import did_you_mean
from hdit_core.recipe.base_table import CONSTRAINTS, UNCONSTRAINED, Table
from hdit_core.recipe.run import Recipe

LONGEST_SHOWN = 60  # characters of a key or value
MOST_LISTED = 12  # keys in a message; more are in the reference
MOST_REPAIRS = 100  # invalid keys that are left out for further checks
EXPECTATION = ": expected "
Keys = tuple[str | int, ...]

NAMES_ELSEWHERE = {"ddim": "euler"}

# pydantic's type of error: what was expected, filled in from the error's context
EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_unicode": "text of Unicode characters",
    "model_type": "a table",
    "finite_number": "a finite number",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "an array with at least {min_length} in it",
    "too_long": "an array with at most {max_length} in it",
    "literal_error": "{expected}",
}


def format_validation_errors(error: ValidationError, tables: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line per mistake in a recipe's tables: key path, value found, value expected."""
    details = error.errors()
    if all(detail["type"] == CONSTRAINTS for detail in details):  # a table with an invalid part was not checked yet
        yield from _constraint_violations((), Recipe.model_validate(dict(tables), context=UNCONSTRAINED))
        return
    expected: dict[str, list[str]] = {}  # by key and value: several for a value of several types
    for detail in details:
        for line in _lines(detail, _as_written(detail["loc"], tables)):
            what, _, expectation = line.partition(EXPECTATION)
            others = expected.setdefault(what, [])
            if expectation and expectation not in others:
                others.append(expectation)
    lines = [f"{what}{EXPECTATION}{' or '.join(words)}" if words else what for what, words in expected.items()]
    yield from lines
    recipe, names = without_mistakes(tables)
    if recipe is not None:  # constraints of tables with a mistake, and between tables
        violations = _constraint_violations((), recipe)
        yield from (line for line in violations if line not in lines and not names_any(line, names))


def without_mistakes(tables: Mapping[str, Any]) -> tuple[Recipe | None, set[str]]:
    """Return a recipe without its invalid keys, for further checks, and the names of these keys.

    Its constraints may be violated. None if a required key is missing or invalid, or if there are too many mistakes.
    """
    names: set[str] = set()
    for _ in range(MOST_REPAIRS):
        try:
            return Recipe.model_validate(dict(tables), context=UNCONSTRAINED), names
        except ValidationError as error:
            details = error.errors()
        if len(details) > MOST_REPAIRS or any(detail["type"] == "missing" for detail in details):
            break
        for keys in dict.fromkeys(_as_written(detail["loc"], tables) for detail in details):
            names |= _names_of(keys)
            tables = _without(tables, keys)
    return None, names


def _names_of(keys: Keys) -> set[str]:
    """Return the name of a key, and the one that it may be a misspelling of."""
    name = next((part for part in reversed(keys) if isinstance(part, str)), "")
    return {name, *difflib.get_close_matches(name, _valid_keys(keys[:-1]), n=1)}


def _without(table: Any, keys: Keys) -> Any:
    """Return nested tables without a key; for an element of an array without the whole array."""
    first, rest = keys[0], keys[1:]
    if isinstance(table, Mapping):
        if all(isinstance(part, int) for part in rest):
            return {name: value for name, value in table.items() if name != first}
        return {name: _without(value, rest) if name == first else value for name, value in table.items()}
    if isinstance(table, list):
        return [_without(value, rest) if index == first else value for index, value in enumerate(table)]
    return table


def names_any(line: str, names: Iterable[str]) -> bool:
    """Return whether a message mentions one of these keys, so that it may be a consequence of their mistakes."""
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", line) for name in names if name)


def keys_named(name: str) -> list[str]:
    """Return the keys whose last part is a name, such as `train.lr` for `lr`."""
    return [f"{table}.{name}" for table in Recipe.model_fields if name in _valid_keys((table,))]


def _constraint_violations(keys: Keys, part: Any) -> Iterator[str]:
    """Yield the violated constraints of a table and of all tables in it, whose types are right."""
    if isinstance(part, tuple):
        for index, element in enumerate(part):
            yield from _constraint_violations((*keys, index), element)
    if isinstance(part, Table):
        yield from (
            _constraint_violation(_key(keys), inner, problem) for inner, problem in part.constraint_violations()
        )
        for name, value in part:
            yield from _constraint_violations((*keys, name), value)


def _as_written(keys: Keys, tables: Any) -> Keys:
    """Return the part of a key path that the recipe contains.

    For `image_size = 0` pydantic names `image_size[0]`, and for a value of several types also the type.
    """
    value = tables
    for depth, part in enumerate(keys):
        if not isinstance(value, list | tuple if isinstance(part, int) else Mapping):
            return keys[:depth]
        if isinstance(value, Mapping):
            value = value.get(str(part))
        elif isinstance(part, int) and part < len(value):
            value = value[part]
    return keys


def _lines(detail: Mapping[str, Any], keys: Keys) -> Iterator[str]:
    key, found = _key(keys), detail["input"]
    match detail["type"]:
        case kind if kind == CONSTRAINTS:
            yield from (_constraint_violation(key, inner, problem) for inner, problem in detail["ctx"]["problems"])
        case "extra_forbidden":
            yield _unknown(keys)
        case "missing":
            yield f"{key}: missing; expected {_expectation(keys)}"
        case "tuple_type":
            yield f"{key} = {_show(found)}{EXPECTATION}{_array(keys)}"
        case "too_short" if len(found) >= detail["ctx"]["min_length"]:
            return  # pydantic counts only valid elements; the others are reported already
        case kind:
            words = EXPECTED.get(kind, detail["msg"].removeprefix("Input should be "))
            near = _nearest(str(found), keys) if kind == "literal_error" else ""
            yield f"{key} = {_show(found)}{EXPECTATION}{words.format(**detail.get('ctx', {}))}{near}"


def _nearest(found: str, keys: Keys) -> str:
    """Return a suggestion for a value that is not one of the choices; `""` if none is near."""
    if name := NAMES_ELSEWHERE.get(found.lower()):
        return f"; {found} is {name} here"
    return did_you_mean(found, _choices(keys))


def _constraint_violation(key: str, inner: str, problem: str) -> str:
    equals = " = " if problem[:1].isdigit() or problem[:1] == "-" else ": "
    return f"{key}.{inner}{equals}{problem}" if key else f"{inner}{equals}{problem}"


def _unknown(keys: Keys) -> str:
    valid, name = _valid_keys(keys[:-1]), str(keys[-1])
    near = f"; did you mean {elsewhere[0]}?" if (elsewhere := keys_named(name)) else did_you_mean(name, valid)
    if len(valid) > MOST_LISTED:
        return f"{_key(keys)}: unknown key{near} (hdit recipe reference lists the keys of [{_key(keys[:-1])}])"
    table = f"table [{_key(keys[:-1])}]" if keys[:-1] else "a recipe"
    return f"{_key(keys)}: unknown key{near} ({table} takes {', '.join(valid)})"


def _key(keys: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{_cut(part)}" for part in keys).removeprefix(".")


def _show(found: Any) -> str:
    if isinstance(found, float) and not math.isfinite(found):
        return str(found)
    return _cut(json.dumps(found, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def _field(keys: Keys) -> Any:
    """Return pydantic's description of the field at a key path; None if there is no such key."""
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


def _array(keys: Keys) -> str:
    field = _field(keys)
    return "an array of tables" if _table_of(field.annotation) else f"an array ({field.description})"


def _expectation(keys: Keys) -> str:
    field = _field(keys)
    if isinstance(keys[-1], int):
        return f"an array of {len(get_args(field.annotation))}"
    if _table_of(field.annotation) is not None and field.description is None:
        return f"a table [{_key(keys)}]"
    return field.description or {int: "a whole number"}.get(field.annotation, str(field.annotation))
