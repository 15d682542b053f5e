"""Differences between nested tables, such as two recipes: by key path, as in `model.levels[1].width`."""

from collections.abc import Iterable, Mapping
from typing import Any

Difference = tuple[str, Any, Any]
"""A key path and both values; None where a table has no such key."""

MOST_SHOWN = 3


def flatten(value: Any, key: str = "") -> dict[str, Any]:
    """Return every leaf of nested tables and arrays of tables by its key path."""
    if isinstance(value, Mapping):
        children = [(f"{key}.{name}" if key else str(name), child) for name, child in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        children = [(f"{key}[{index}]", child) for index, child in enumerate(value)]
    else:
        return {key: value}
    return {path: leaf for name, child in children for path, leaf in flatten(child, name).items()}


def differences(first: Any, second: Any) -> list[Difference]:
    """Return the leaves that differ between two nested tables."""
    a, b = flatten(first), flatten(second)
    keys = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    listed = {key.partition("[")[0] for key in keys if "[" in key}  # an empty array differs by the tables of the other
    return [(key, a.get(key), b.get(key)) for key in keys if key not in listed]


def describe_differences(found: Iterable[Difference], first: str, second: str) -> str:
    """Return the first differences as text, such as `"train.lr 0.001 (run) vs 0.002 (command); and 2 more"`.

    Args:
        found: what `differences` returned.
        first: the name of the first table.
        second: the name of the second.
    """
    rows = list(found)
    shown = [f"{key} {show_value(a)} ({first}) vs {show_value(b)} ({second})" for key, a, b in rows[:MOST_SHOWN]]
    more = [f"and {len(rows) - MOST_SHOWN} more"] if len(rows) > MOST_SHOWN else []
    return "; ".join([*shown, *more])


def show_value(value: Any) -> str:
    """Return a value as an error shows it."""
    return "not set" if value is None else repr(value)
