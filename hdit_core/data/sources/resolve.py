"""Which kind of source a path is: a file by its first bytes, a folder by what it holds."""

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from io import BufferedIOBase
from pathlib import Path
from typing import cast

from hdit_core.data.format.manifest import MANIFEST
from hdit_core.data.sources.archive import TAR_DAMAGE, TarFile, TarSource, ZipSource, is_zip
from hdit_core.data.sources.folder import FolderSource
from hdit_core.data.sources.parquet import PARQUET_ENDING, ParquetSource, is_parquet
from hdit_core.data.sources.path_list import LIST_ENDINGS, open_list
from hdit_core.data.sources.prepared import PreparedSource
from hdit_core.data.sources.source import IMAGE_SUFFIX, Source
from hdit_core.data.sources.webdataset import SHARD_ENDINGS, ShardedSource, is_sharded
from hdit_core.errors import DataError, UsageError, did_you_mean

_WILD = frozenset("*?[")


def _open_several(name: str, paths: Sequence[Path]) -> Source | None:
    """Open shards, or Parquet files; None where there are neither."""
    shards = [path for path in paths if path.name.lower().endswith(SHARD_ENDINGS)]
    tables = [path for path in paths if path.name.lower().endswith(PARQUET_ENDING)]
    if shards:  # img2dataset puts a table of addresses beside each shard
        return ShardedSource(name, shards)
    return ParquetSource(name, tables) if tables else None


def _open_folder(path: Path, leave_out: Path | None) -> Source:
    if (path / MANIFEST).is_file():
        return PreparedSource(path)
    folder = FolderSource(path, leave_out)
    if any(IMAGE_SUFFIX.search(entry.name) for entry in folder.entries):
        return folder
    visible = [entry.name for entry in folder.entries if entry.problem is None and "/." not in f"/{entry.name}"]
    return _open_several(folder.name, [path / name for name in visible]) or folder


def _is_sharded(path: Path) -> bool:
    try:
        return is_sharded(TarFile(path))
    except TAR_DAMAGE:  # which TarSource says better
        return False


def _open_file(path: Path) -> Source:
    if is_zip(path):
        return ZipSource(path)
    if is_parquet(path):
        return ParquetSource(path.name, [path])
    if path.suffix.lower() in LIST_ENDINGS:
        return open_list(path)
    return ShardedSource(path.name, [path]) if _is_sharded(path) else TarSource(path)


def _open_pattern(pattern: Path) -> Source | None:
    """Open the shards or Parquet files that a pattern such as `train-*.parquet` means."""
    paths = sorted(path for path in pattern.parent.glob(pattern.name) if path.is_file())
    source = _open_several(pattern.name, paths)
    if paths and source is None:
        raise UsageError(f"{pattern}: means {paths[0].name}; a pattern can mean shards (.tar) or .parquet files")
    return source


def open_path(path: Path, leave_out: Path | None = None) -> Source | None:
    """Open a folder, an archive, shards, Parquet files, a list of paths, or what a pattern means.

    Args:
        path: its last part may be a pattern with `*`, `?` or `[...]`, where there is no file of that very name.
        leave_out: a file that is no input where it lies in a folder, such as the labels.

    Returns:
        None where there is nothing.

    Raises:
        UsageError: it is a device or a pipe, or a pattern that means something else.
        DataError: it is damaged.
    """
    if path.is_dir():
        return _open_folder(path, leave_out)
    if path.is_file():
        return _open_file(path)
    if path.exists():
        raise UsageError(f"{path}: is a device or a pipe; expected a folder, an archive or a named set")
    return _open_pattern(path) if _WILD & set(path.name) else None


NAMED_SETS = "hdit.sources"


def _named_sets() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=NAMED_SETS)}


def _open_path(location: str, leave_out: Path | None) -> Source | None:
    from hdit_core.data.sources.path_list import STDIN, open_stdin
    from hdit_core.data.sources.resolve import open_path

    if location == STDIN:
        is_piped = sys.stdin is not None and not sys.stdin.isatty()
        return open_stdin(cast(BufferedIOBase, sys.stdin.buffer) if is_piped else None)
    try:
        return open_path(Path(location), leave_out)
    except OSError as problem:
        raise DataError(f"{problem.filename or location}: cannot be read ({problem.strerror or problem})") from None


def open_source(location: str, leave_out: Path | None = None) -> Source:
    """Open whatever holds images.

    Args:
        location: a folder (of images, of webdataset shards, of Parquet files, or a prepared data set), a zip, a tar
            (plain, gz, bz2, xz), a shard, a Parquet file, a pattern for some of the last two, a text file of paths,
            `-` for such a text on stdin, or the name of a set.
        leave_out: a file that is no input where it lies in the folder, such as the labels.

    Raises:
        UsageError: there is nothing of this name, or two things.
        DataError: it cannot be read, or a package that offers it is missing.
    """
    sets = _named_sets()
    if location in sets and Path(location).exists():
        raise UsageError(f"{location}: is a named set, and a file or folder here; write ./{location} for the latter")
    if location in sets:
        return sets[location].load()()
    source = _open_path(location, leave_out)
    if source is None:
        near = did_you_mean(location, sets) or f"; named sets: {', '.join(sets) or 'none'}"
        raise UsageError(f"{location}: no such folder, archive or named set{near}")
    return source
