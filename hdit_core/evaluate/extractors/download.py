"""Weight files of feature networks: passed by path, found in the cache, or downloaded once and verified."""

import logging
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hdit_core.errors import CheckpointError, HditError, UsageError
from hdit_core.files import CHUNK_BYTES, DigestingWriter, atomic_file, digest

TIMEOUT_S = 20.0  # without a byte from the server

logger = logging.getLogger("hdit")


@dataclass(frozen=True)
class WeightsFile:
    """A published file: its name, URL and sha256, and its size, beyond which nothing is read."""

    name: str
    url: str
    sha256: str
    size_bytes: int


def find_weights(wanted: WeightsFile, path: Path | None, cache: Path) -> tuple[Path, str]:
    """Return a weights file and its sha256: the user's, whatever it is, or the published one from cache or network.

    Args:
        wanted: the published file.
        path: the user's file, or a folder with a file of the published name; the cache is then not used.
        cache: folder of downloads.

    Raises:
        UsageError: there is no file at `path`.
        CheckpointError: the file in the cache is not the published one.
        HditError: the download failed or gave another file.
    """
    if path is not None:
        path = path / wanted.name if path.is_dir() else path
        if not path.is_file():
            raise UsageError(f"{path}: no such weights file")
        return path, digest(path).sha256
    path = cache / wanted.name
    if not path.exists():
        logger.info(f"downloading {wanted.url} ({wanted.size_bytes / 1e6:.0f} MB) to {path}")
        _download(wanted, path)
    sha256 = digest(path).sha256
    if sha256 != wanted.sha256:
        raise CheckpointError(
            f"{path}: damaged: its sha256 is {sha256}, expected {wanted.sha256}; delete it to download it again"
        )
    return path, sha256


def _download(wanted: WeightsFile, path: Path) -> None:
    """Download a file, which gets its name once its checksum is right."""
    _check_scheme(wanted.url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            sha256 = _fetch(wanted, temporary)
            if sha256 != wanted.sha256:
                raise HditError(f"{wanted.url}: the download has sha256 {sha256}, expected {wanted.sha256}; not kept")
    except OSError as problem:  # no network, no such host, a time-out, a full disk
        raise HditError(
            f"{wanted.url}: cannot be downloaded to {path} ({problem}); download it on a machine with network access "
            "and put it there, pass it by --extractor-weights PATH, or use --extractor efficientnet-lite0, which works "
            "offline"
        ) from None


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname != "127.0.0.1":
        raise ValueError(f"{url}: weights are downloaded over https only")


def _fetch(wanted: WeightsFile, temporary: Path) -> str:
    """Write a server's response to a file, and return its SHA-256."""
    with (
        urllib.request.urlopen(wanted.url, timeout=TIMEOUT_S) as response,  # noqa: S310  the scheme was checked
        temporary.open("wb") as file,
    ):
        writer = DigestingWriter(file)
        while chunk := response.read(CHUNK_BYTES):
            writer.write(chunk)
            if writer.digest().size_bytes > wanted.size_bytes:
                raise HditError(f"{wanted.url}: longer than the expected {wanted.size_bytes:,} bytes; not kept")
    return writer.digest().sha256
