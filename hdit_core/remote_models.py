"""Models on other machines: an address is fetched once into the cache, verified, and read from there.

    hf://owner/name[@revision][/folder or file]     Hugging Face hub; needs huggingface_hub
    s3://bucket/folder, gs://bucket/folder          object stores; need s3fs or gcsfs
    https://host/weights.safetensors                a file; needs aiohttp

A folder is an export, a checkpoint, or a run, whose newest checkpoint is fetched. Only files with known names are
fetched; nothing in them is executed. A file enters the cache only if it has the size, and on the hub the SHA-256, that
the store reports; hdit's own checksums are compared when it is loaded. A copy that was damaged in the cache is fetched
again.

    <cache>/models/<hash of address and versions>/...     the files, and their checksums in `.digests.json`
    <cache>/models/<hash of the address>.json             the folder that was fetched last, for use without network
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hdit_core.errors import CheckpointError, UsageError, first_line
from hdit_core.files import (
    TEMPORARY,
    atomic_folder,
    cache_folder,
    crc32,
    digest,
    read_json,
    write_atomic,
    write_file,
)
from hdit_core.locks import LockHeldError, locked

logger = logging.getLogger("hdit")

ADDRESS = re.compile(r"(hf|s3|gs|https):/{1,2}(?=[^/])(.+)|(http):/{1,2}((?:127\.0\.0\.1|localhost)[:/].+)")
"""`pathlib` shortens `//` to `/`. Plain http is accepted for this machine only."""

PACKAGES = {"hf": "huggingface_hub", "s3": "s3fs", "gs": "gcsfs", "https": "aiohttp", "http": "aiohttp"}
EXPORT_FILES = ("weights.safetensors", "recipe.toml", "sample.toml", "classes.json")
CHECKPOINT_FILES = ("manifest.json", "state.json", "model.safetensors", "ema.safetensors", "optimizer.safetensors")
PROFILE = re.compile(r"ema-0\.[0-9]{3}\.safetensors")
STEP = re.compile(r"step-[0-9]{9}")
VERSION_KEYS = (
    *("blob_id", "ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "mtime"),
    *("Content-MD5", "Digest", "Last-Modified"),  # of fsspec's HTTP
)
CACHE_GB, CACHE_GB_VARIABLE = 50.0, "HDIT_MODEL_CACHE_GB"
DIGESTS = ".digests.json"
WAIT_S = 3600.0  # for another process that fetches the same model
LARGEST_RECORD_BYTES = 10_000


@dataclass(frozen=True)
class RemoteFile:
    """A file of a store.

    Attributes:
        path: in the store.
        version: changes when the content does.
        sha256: of the content; None if the store does not report it.
    """

    name: str
    path: str
    size: int
    version: str
    sha256: str | None = None


def remote_address(path: Path | str) -> str | None:
    """Return the normalized address, or None if the path is local."""
    match = ADDRESS.fullmatch(str(path))
    if match is None:
        return None
    scheme, rest = [group for group in match.groups() if group is not None]
    return f"{scheme}://{rest.rstrip('/')}"


def fetch_model(address: str) -> Path:
    """Return the copy of a model in the cache, fetched first if necessary.

    Args:
        address: as `remote_address` returns it.

    Raises:
        UsageError: the package for this kind of address is missing.
        CheckpointError: there is no model at the address, or it cannot be fetched.
    """
    return _fetched(address, cache_folder() / "models")


@lru_cache(maxsize=64)
def _fetched(address: str, cache: Path) -> Path:
    """Return the copy of a model in the cache; a process keeps using the version that it fetched first."""
    record = cache / f"{_hash([address])}.json"
    try:
        with _store_errors(address):
            store, files = _files_at(address)
    except ConnectionError as problem:
        if (known := _last_known(record, cache)) is None:
            raise CheckpointError(
                f"{address}: cannot be reached ({problem}), and is not in the cache {cache}"
            ) from None
        if damaged := _damaged_file(cache / known.relative_to(cache).parts[0]):
            raise CheckpointError(
                f"{damaged}: damaged since it was fetched, and {address} cannot be reached ({problem}); rerun this "
                "command when it can"
            ) from None
        logger.warning("%s: cannot be reached; the copy in the cache is used", address)
        return known
    key = _hash([address, *(f"{file.name} {file.size} {file.version}" for file in files)])
    inside = files[0].name if address.endswith(".safetensors") else "."
    try:
        with locked(cache / f"{key}.lock", wait_s=WAIT_S):
            if damaged := _damaged_file(cache / key):
                logger.warning("%s: damaged since it was fetched; %s is fetched again", damaged, address)
                shutil.rmtree(cache / key)
            if (cache / key).exists() and not all(file.version for file in files):
                logger.warning("%s: the server states no version; it is fetched again", address)
                shutil.rmtree(cache / key)
            if not (cache / key).exists():
                _make_room(cache, sum(file.size for file in files), address)
                _fetch(store, files, cache / key, address)
    except LockHeldError:
        raise CheckpointError(f"{address}: another process has been fetching it for {WAIT_S / 60:.0f} min") from None
    os.utime(cache / key)
    write_atomic(record, json.dumps({"address": address, "key": key, "inside": inside}))
    return cache / key / inside


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


def _last_known(record: Path, cache: Path) -> Path | None:
    try:
        known = read_json(record, LARGEST_RECORD_BYTES)
        path = cache / str(known["key"]) / str(known["inside"])
    except (OSError, ValueError, KeyError):
        return None
    return path if path.exists() else None


def _damaged_file(folder: Path) -> Path | None:
    """Return a file of a cached model that has changed since it was fetched; None if there is none."""
    if not folder.exists():
        return None
    try:
        digests = read_json(folder / DIGESTS, LARGEST_RECORD_BYTES)
        damaged = [name for name, (size_bytes, crc) in digests.items() if not _is_whole(folder / name, size_bytes, crc)]
    except FileNotFoundError:  # fetched by an older version
        return None
    except (ValueError, TypeError):
        damaged = [DIGESTS]
    return folder / damaged[0] if damaged else None


def _is_whole(path: Path, size_bytes: int, crc: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes and crc32(path) == crc


@contextmanager
def _store_errors(address: str) -> Iterator[None]:
    """Turn the exceptions of a store's package into errors with a one-line message.

    Raises:
        ConnectionError: the store cannot be reached.
        CheckpointError: instead of any other exception.
    """
    try:
        yield
    except (CheckpointError, UsageError):
        raise
    except FileNotFoundError:
        hint = "; for a private or gated repository, log in with `hf auth login`" if address.startswith("hf:") else ""
        raise CheckpointError(f"{address}: not found{hint}") from None
    except PermissionError as problem:
        raise CheckpointError(f"{address}: access denied ({first_line(problem)})") from None
    except Exception as problem:  # packages have exceptions of their own
        if _is_offline(problem):
            raise ConnectionError(first_line(problem)) from None
        raise CheckpointError(f"{address}: cannot be fetched ({first_line(problem)})") from None


def _is_offline(problem: BaseException) -> bool:
    names = {cls.__name__ for cls in type(problem).__mro__}
    offline = {"ConnectionError", "ConnectError", "ConnectTimeout", "ClientConnectionError", "EndpointConnectionError"}
    return bool(names & (offline | {"OfflineModeIsEnabled", "TimeoutError", "gaierror", "LocalEntryNotFoundError"}))


def _files_at(address: str) -> tuple[Any, list[RemoteFile]]:
    """Return the store of an address, and the files of the model there."""
    scheme = address.partition(":")[0]
    try:
        from fsspec.core import url_to_fs

        store, root = url_to_fs(address, skip_instance_cache=True, use_listings_cache=False)
    except ImportError:
        raise UsageError(f"{address}: needs fsspec and {PACKAGES[scheme]}; pip install {PACKAGES[scheme]}") from None
    if address.endswith(".safetensors"):
        return store, [_file(store.info(root))]
    if scheme in ("http", "https"):
        infos = [store.info(f"{root}/{name}") for name in EXPORT_FILES if store.exists(f"{root}/{name}")]
        return store, _checked([_file(info) for info in infos], address)
    return store, _checked(_in_folder(store, root), address)


def _in_folder(store: Any, root: str) -> list[RemoteFile]:
    """Return the files of an export or a checkpoint, or those of the newest checkpoint of a run."""
    entries = {_name(info): info for info in store.ls(root, detail=True)}
    if "checkpoints" in entries and EXPORT_FILES[0] not in entries:
        steps = [_name(info) for info in store.ls(f"{root}/checkpoints", detail=True)]
        steps = sorted(name for name in steps if STEP.fullmatch(name))
        return _in_folder(store, f"{root}/checkpoints/{steps[-1]}") if steps else []
    known = EXPORT_FILES if EXPORT_FILES[0] in entries else CHECKPOINT_FILES
    wanted = [name for name in sorted(entries) if name in known or (known != EXPORT_FILES and PROFILE.fullmatch(name))]
    return [_file(entries[name]) for name in wanted if entries[name]["type"] == "file"]


def _checked(files: list[RemoteFile], address: str) -> list[RemoteFile]:
    names = {file.name for file in files}
    if not names & {EXPORT_FILES[0], CHECKPOINT_FILES[0]}:
        raise CheckpointError(
            f"{address}: neither an export ({EXPORT_FILES[0]}) nor a run or a checkpoint ({CHECKPOINT_FILES[0]})"
        )
    return files


def _name(info: dict[str, Any]) -> str:
    return str(info["name"]).rstrip("/").rpartition("/")[2]


def _file(info: dict[str, Any]) -> RemoteFile:
    sha256 = (info.get("lfs") or {}).get("sha256")
    version = sha256 or next((str(info[key]) for key in VERSION_KEYS if info.get(key)), "")
    if info.get("size") is None:
        raise CheckpointError(f"{info['name']}: the server does not state its size, so that it cannot be verified")
    return RemoteFile(_name(info), str(info["name"]), int(info["size"]), version, sha256)


def _fetch(store: Any, files: list[RemoteFile], folder: Path, address: str) -> None:
    logger.info("fetching %s: %.3g MB", address, sum(file.size for file in files) / 1e6)
    try:
        with atomic_folder(folder) as target, _store_errors(address):
            digests = {}
            for file in files:
                store.get_file(file.path, str(target / file.name), callback=_at_most(file, address))
                fetched = digest(target / file.name)
                if fetched.size_bytes != file.size or file.sha256 not in (None, fetched.sha256):
                    raise CheckpointError(
                        f"{address}: {file.name} arrived as {fetched.size_bytes:,} bytes, sha256 {fetched.sha256[:9]}; "
                        f"the store reports {file.size:,} bytes, sha256 {(file.sha256 or 'unknown')[:9]}; try again"
                    )
                digests[file.name] = fetched.size_bytes, fetched.crc32
            write_file(target / DIGESTS, json.dumps(digests))
    except ConnectionError as problem:
        raise CheckpointError(f"{address}: the connection was lost ({problem}); try again") from None


def _at_most(file: RemoteFile, address: str) -> Any:
    """Return a callback of fsspec that ends a transfer of more bytes than the store reported."""
    from fsspec.callbacks import Callback

    class AtMost(Callback):
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value > file.size:
                raise CheckpointError(f"{address}: {file.name} is larger than the {file.size:,} bytes announced")

    return AtMost()


def _make_room(cache: Path, needed_bytes: int, address: str) -> None:
    """Remove the least recently used models, so that the cache stays within its limit."""
    try:
        limit = float(os.environ.get(CACHE_GB_VARIABLE, CACHE_GB)) * 1e9
    except ValueError:
        raise UsageError(f"{CACHE_GB_VARIABLE}={os.environ[CACHE_GB_VARIABLE]}: expected a number of GB") from None
    if not needed_bytes <= limit:  # also if that is NaN
        raise CheckpointError(
            f"{address}: has {needed_bytes / 1e9:.3g} GB, but the model cache is limited to {limit / 1e9:g} GB; raise "
            f"the limit with {CACHE_GB_VARIABLE}"
        )
    models = [path for path in cache.iterdir() if path.is_dir() and not path.name.startswith(TEMPORARY)]
    held = {path: sum(file.stat().st_size for file in path.iterdir()) for path in models}
    for path in sorted(held, key=lambda path: path.stat().st_mtime):
        if sum(held.values()) + needed_bytes <= limit:
            return
        shutil.rmtree(path)
        del held[path]
