"""Arguments of the API's functions, checked: paths, sizes, settings by name; and whether progress is shown."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from hdit_core.errors import UsageError, did_you_mean
from hdit_core.progress_bar import ProgressBar, progress, showing_log_messages

PathLike = str | os.PathLike[str]
Settings = TypeVar("Settings")  # a dataclass


def path_argument(value: PathLike, name: str) -> str:
    """Return a path as a string, with `~` for the home folder."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name}: expected a path (str or pathlib.Path), got {type(value).__name__}")
    text = os.fspath(value)
    return str(Path(text).expanduser()) if text.startswith("~") else text


def size_argument(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a size in pixels."""
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, tuple | list) else ()
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise UsageError(f"size = {size!r}: expected one number of pixels, or (height, width)")
    return pair


def whole_number(value: int, name: str, *, at_least: int = 0) -> None:
    """Refuse a value that is not a whole number from `at_least` to 2^63 - 1."""
    if not isinstance(value, int) or not at_least <= value < 2**63:
        raise UsageError(f"{name} = {value!r}: expected a whole number, {at_least} or more")


def checked_settings(kind: type[Settings], function: str, values: Mapping[str, Any]) -> Settings:
    """Return settings of some kind, their names and types checked."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise TypeError(f"{function}: no setting {name!r}{did_you_mean(name, names)}")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as problem:
        first = problem.errors()[0]
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise UsageError(f"{function}: {first['loc'][0]} = {first['input']!r}: {message}") from None


@contextmanager
def shown_progress(wanted: bool, label: str, total: int | None = None) -> Iterator[ProgressBar]:
    """Show progress and messages while the body runs, if that is wanted."""
    if not wanted:
        yield ProgressBar(label, "images", total)
        return
    with showing_log_messages(), progress(label, total=total) as bar:
        yield bar
