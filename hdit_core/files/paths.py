"""Paths: where hdit keeps what it caches, and which outputs are refused before any work."""

import os
import tempfile
from pathlib import Path

from hdit_core.errors import UsageError

STDIN, STDIN_NAME = "-", "stdin"  # on a command line, and in messages


def cache_folder() -> Path:
    """Return where hdit keeps what it downloads or compiles: `hdit` under `$XDG_CACHE_HOME` or `~/.cache`.

    A user without a home folder (an arbitrary user id in a container) has a folder under the temporary one.
    """
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "hdit"
    try:
        return Path.home() / ".cache" / "hdit"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"hdit-{os.getuid()}"


def check_output(option: str, path: Path | None, *endings: str, new: bool = False) -> None:
    """Refuse, before any work, a file that cannot be written.

    Args:
        option: names the file, for the message.
        path: None if the option was not given.
        endings: allowed endings of the name, lower case; none: any.
        new: whether the path must not exist; its folder need not exist yet. Otherwise an existing file is replaced, and
            the folder must exist.

    Raises:
        UsageError: the name has another ending or is a folder's, the file exists, or its folder does not.
    """
    if path is None:
        return
    if endings and path.suffix.lower() not in endings:
        raise UsageError(f"{option} {path}: expected a name that ends in {' or '.join(endings)}")
    if new and (path.exists() or path.is_symlink()):
        raise UsageError(f"{option} {path}: already exists and is never replaced; choose another name")
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; give the name of a file")
    if not new and not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}; create it, or choose another name")
