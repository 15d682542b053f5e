"""New."""

from collections.abc import Iterator, Mapping
from typing import Any


def flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested mappings as pairs of a dotted key and a value."""
    if not isinstance(value, Mapping):
        return [(prefix, value)]
    return [pair for key, inner in value.items() for pair in flatten(inner, f"{prefix}.{key}" if prefix else str(key))]


def differences(there: Any, here: Any, key: str = "") -> Iterator[str]:
    """Yield what differs between two such records, as `settings.steps is 50 there and 25 here`."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in sorted({*there, *here}):
            yield from differences(there.get(name), here.get(name), f"{key}.{name}".lstrip("."))
    elif there != here:
        yield f"{key} is {there!r} there and {here!r} here"
