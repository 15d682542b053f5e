"""Finds the columns of a Parquet file that hold images and classes, by its schema and Hugging Face's metadata."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdit_core.errors import DataError

_BYTES = ("binary", "large_binary")
_TEXT = ("string", "large_string")


@dataclass(frozen=True)
class Columns:
    """Where the images and their classes are."""

    image: str
    content: str  # the image's bytes: the column itself, or a part of it
    path: str | None  # the image's name, where it has one
    label: str | None
    classes: tuple[str, ...] | None  # what the numbers in `label` mean, where the file says it


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return what Hugging Face's metadata say about each column; nothing where they cannot be read."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: about for name, about in features.items() if isinstance(about, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _of_type(features: dict[str, dict[str, Any]], kind: str) -> list[str]:
    return [name for name, about in features.items() if about.get("_type") == kind]


def _only(found: list[str], preferred: tuple[str, ...]) -> str | None:
    """Return the column of a preferred name, else the only one."""
    named = [name for name in preferred if name in found]
    return named[0] if named else found[0] if len(found) == 1 else None


def _class_names(features: dict[str, dict[str, Any]], label: str | None, path: Path) -> tuple[str, ...] | None:
    names = features.get(label or "", {}).get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"{path}: its metadata does not give each class of the column '{label}' one name")
    return tuple(names)


def find_columns(schema: Any, path: Path) -> Columns:
    """Return which columns of a Parquet file hold images and classes.

    Args:
        schema: of pyarrow.
        path: of the file, for errors.

    Raises:
        DataError: none holds images, or several may hold classes.
    """
    features = _features(schema)
    fields = {field.name: field for field in schema}
    images = [name for name in fields if name in ("image", "img", *_of_type(features, "Image"))]
    labels = [name for name in fields if name in ("label", "labels", *_of_type(features, "ClassLabel"))]
    image, label = _only(images, ("image", "img")), _only(labels, ("label", "labels", "fine_label"))
    parts = {} if image is None else {part.name: part.type for part in fields[image].flatten()}
    content = next((name for name in (f"{image}.bytes", image) if str(parts.get(name)) in _BYTES), None)
    if image is None or content is None:
        raise DataError(
            f"{path}: no images in its columns {', '.join(fields)}; expected 'image', bytes or {{bytes, path}}"
        )
    if labels and label is None:
        raise DataError(f"{path}: classes in several columns, {', '.join(labels)}; call the one that is meant 'label'")
    name = f"{image}.path" if str(parts.get(f"{image}.path")) in _TEXT else None
    return Columns(image, content, name, label, _class_names(features, label, path))
