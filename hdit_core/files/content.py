"""The content of files: read and written so that each error names the path."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to an OSError of the body that has none: `write`, `fsync` and others fail without one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def is_bounded(member: zipfile.ZipInfo) -> bool:
    """Return whether a member of a zip file can be read in bounded memory: zipfile expands bzip2 and LZMA at once."""
    return member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def check_bounded(member: zipfile.ZipInfo) -> None:
    """Refuse a member of an npz that numpy did not write.

    Raises:
        ValueError: it is compressed by bzip2, LZMA or another method.
    """
    if not is_bounded(member):
        raise ValueError(f"{member.filename} is compressed by method {member.compress_type}; expected Deflate or none")


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; unlike those of `Path.read_bytes`, all errors have the path."""
    with naming(path):
        return path.read_bytes()


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a UTF-8 file; all errors except UnicodeDecodeError have the path."""
    return read_bytes(path).decode(errors=errors)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file inside a temporary folder; elsewhere `write_atomic` is right. All errors have the path."""
    with naming(path):
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def read_json(path: Path, largest_bytes: int) -> dict[str, Any]:
    """Return the JSON object in an untrusted file.

    Raises:
        ValueError: the file is larger, or is not a JSON object; the message is the reason, without the path.
        OSError: the file is missing or cannot be read.
    """
    with naming(path), path.open("rb") as file:
        content = file.read(largest_bytes + 1)
    if len(content) > largest_bytes:
        raise ValueError(f"larger than {largest_bytes:,} bytes")
    try:
        record = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it contains {name}, which JSON does not have")
