"""`manifest.json` of a checkpoint: sizes and checksums of its files, and the run that it belongs to.

Format 1 has files, versions and recipe. Format 2 (since 0.2) adds step, images, ranks, and hashes of recipe and data
set. Both are supported.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from hdit_core.checkpoint.state import State
from hdit_core.data.format.retry_reads import StorageUnavailable, is_storage_error, retry_transient
from hdit_core.errors import CheckpointError
from hdit_core.files import Digest, crc32, read_json
from hdit_core.recipe.run import Recipe

T = TypeVar("T")

FORMAT = 2
READABLE = (1, 2)
NAME = "manifest.json"
LARGEST_BYTES = 64 << 20


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """Return the sha256 of a recipe, given as the table in a manifest."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def make_manifest(recipe: Recipe, state: State, files: Mapping[str, Digest]) -> dict[str, Any]:
    """Return the manifest of a checkpoint. It contains no time, so that equal checkpoints have equal bytes."""
    table = recipe.model_dump(mode="json")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "versions": {"hdit": version("hdit-toolkit"), "torch": str(torch.__version__)},
        "step": state.step,
        "num_images": state.num_images,
        "world_size": state.world_size,
        "data_hash": state.data_hash,
        "recipe_hash": recipe_hash(table),
        "recipe": table,
        "files": {name: files[name].to_json() for name in sorted(files)},
    }
    return manifest | {"checksum": manifest_checksum(manifest)}


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of a manifest without its checksum."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and verify the manifest of a checkpoint.

    Raises:
        CheckpointError: it is missing, corrupt, or has a format that this version does not read.
    """
    manifest = read_table(folder / NAME)
    if "hashes" in manifest:
        raise CheckpointError(f"{folder}: is a prepared data set; expected a run or a checkpoint")
    if manifest.get("format") not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise CheckpointError(
            f"{folder}/{NAME}: its format is {manifest.get('format')!r}, this version reads {known}; it is corrupt, or "
            "was written by a newer version of hdit"
        )
    if manifest.get("checksum") != manifest_checksum(manifest):
        raise CheckpointError(f"{folder}/{NAME}: corrupt: its checksum does not match its content")
    files = manifest.get("files")
    if not isinstance(files, dict) or "state.json" not in files or "model.safetensors" not in files:
        raise CheckpointError(f"{folder}/{NAME}: corrupt: it does not list the checkpoint's files")
    if any("/" in name or "\\" in name or name.startswith(".") for name in files):
        raise CheckpointError(f"{folder}/{NAME}: names a file outside of its folder")
    return manifest


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Read every file of a checkpoint and compare it with the manifest.

    Raises:
        CheckpointError: naming the first file that is missing, cannot be read, or has changed.
    """
    for name, expected in manifest["files"].items():
        _verify(folder / name, expected)


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing, or is not a JSON object.
    """
    try:
        return _tried_again(path, lambda: read_json(path, LARGEST_BYTES))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is this a checkpoint of hdit?") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise CheckpointError(f"{path}: corrupt: {error}") from None


def _tried_again(path: Path, read: Callable[[], T]) -> T:
    """Return what `read` returns; temporary failures are retried, and do not count as damage.

    Raises:
        StorageUnavailable: the storage stays unavailable.
        CheckpointError: an I/O error persists: the file is on a damaged part of the disk.
    """
    try:
        return retry_transient(path, read)
    except StorageUnavailable as error:
        if error.errno != errno.EIO:
            raise
        raise CheckpointError(f"{path}: cannot be read ({os.strerror(errno.EIO)})") from None


def _unreadable(path: Path, error: OSError) -> Exception:
    """Return the error to raise for a file that cannot be read: a CheckpointError, unless the storage failed."""
    return error if is_storage_error(error) else CheckpointError(f"{path}: cannot be read ({error.strerror})")


def _verify(path: Path, expected: Any) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: missing")
    if not isinstance(expected, dict):
        raise CheckpointError(f"{path.parent}/{NAME}: corrupt")
    if (size_bytes := path.stat().st_size) != expected.get("size_bytes"):
        raise CheckpointError(f"{path}: corrupt: {size_bytes} bytes, expected {expected.get('size_bytes')}")
    try:
        actual = _tried_again(path, lambda: crc32(path))
    except OSError as error:
        raise _unreadable(path, error) from None
    if actual != expected.get("crc32"):
        raise CheckpointError(f"{path}: corrupt: its crc32 is {actual}, expected {expected.get('crc32')}")
