"""Weights files of feature networks: given by path, found in the cache, or downloaded once and checked."""

import hashlib
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hdit_core.errors import CheckpointError, HditError, UsageError
from hdit_core.evaluate.extractors.extractor import Say
from hdit_core.files import CHUNK_BYTES, TEMPORARY, digest, flush_folder

TIMEOUT_S = 20.0  # without a byte from the server


@dataclass(frozen=True)
class WeightsFile:
    """A file that the world agrees on: its name, where it lies, its sha256, and its size, beyond which none is read."""

    name: str
    url: str
    sha256: str
    size_bytes: int


def find_weights(wanted: WeightsFile, given: Path | None, cache: Path, say: Say) -> tuple[Path, str]:
    """Return the file and its sha256: the one given, whatever it is, or the wanted one from the cache or the network.

    Args:
        wanted: the file.
        given: a file, or a folder that has one of the wanted name; nothing else is then looked at.
        cache: folder of downloads.
        say: told before a download.

    Raises:
        UsageError: there is nothing at `given`.
        CheckpointError: the file in the cache is not the wanted one.
        HditError: it cannot be downloaded, or what comes is not it.
    """
    if given is not None:
        path = given / wanted.name if given.is_dir() else given
        if not path.is_file():
            raise UsageError(f"{path}: no such weights file")
        return path, digest(path).sha256
    path = cache / wanted.name
    if not path.exists():
        say(f"downloading {wanted.url} ({wanted.size_bytes / 1e6:.0f} MB) to {path}")
        _download(wanted, path)
    found = digest(path).sha256
    if found != wanted.sha256:
        raise CheckpointError(
            f"{path}: damaged: its sha256 is {found}, expected {wanted.sha256}; delete it to download it again"
        )
    return path, found


def _download(wanted: WeightsFile, path: Path) -> None:
    """Fetch a file into a temporary sibling, and rename it when it is what is wanted."""
    _check_scheme(wanted.url)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _fetch(wanted, temporary)
        if found != wanted.sha256:
            raise HditError(f"{wanted.url}: what came has the sha256 {found}, expected {wanted.sha256}; not kept")
        temporary.replace(path)
        flush_folder(path.parent)
    except OSError as problem:  # no network, no such host, a time-out, a full disk
        raise HditError(
            f"{wanted.url}: cannot be downloaded to {path} ({problem}); fetch it on a machine with network and put it "
            "there, name it with --extractor-weights PATH, or use --extractor efficientnet-lite0, which needs none"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname != "127.0.0.1":
        raise ValueError(f"{url}: weights are downloaded over https only")


def _fetch(wanted: WeightsFile, temporary: Path) -> str:
    """Write what the server sends to a file, flushed, and return its sha256."""
    sha256, size_bytes = hashlib.sha256(), 0
    with (
        urllib.request.urlopen(wanted.url, timeout=TIMEOUT_S) as answer,  # noqa: S310  the scheme was checked
        temporary.open("wb") as file,
    ):
        while chunk := answer.read(CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > wanted.size_bytes:
                raise HditError(f"{wanted.url}: longer than the expected {wanted.size_bytes:,} bytes; not kept")
            sha256.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return sha256.hexdigest()
