"""Detects the kind of a source: of a file by its first bytes, of a folder by its contents."""

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from io import BufferedIOBase
from pathlib import Path
from typing import cast
from zipfile import is_zipfile

from hdit_core.data.format.manifest import MANIFEST
from hdit_core.data.image.decode import is_image_file
from hdit_core.data.sources.file_filter import is_hidden
from hdit_core.data.sources.files.directory import FolderSource
from hdit_core.data.sources.files.path_list import LIST_ENDINGS, PathListSource, open_list, open_stdin
from hdit_core.data.sources.files.tar import TAR_DAMAGE, TarFile, TarSource, damaged
from hdit_core.data.sources.files.zip import ZipSource, is_zip
from hdit_core.data.sources.parquet import MAGIC, PARQUET_ENDING, ParquetSource
from hdit_core.data.sources.prepared import PreparedSource
from hdit_core.data.sources.shard_samples import is_note, is_sharded
from hdit_core.data.sources.source import IMAGE_SUFFIX, Source
from hdit_core.data.sources.webdataset import SHARD_ENDINGS, ShardedSource
from hdit_core.errors import DataError, UsageError, did_you_mean
from hdit_core.files import STDIN, naming

_WILD = frozenset("*?[")
_ARROW = (".arrow", (b"ARROW1", b"\xff\xff\xff\xff"))


def _open_several(name: str, paths: Sequence[Path]) -> Source | None:
    """Open shards, or Parquet files; None if there are neither."""
    shards = [path for path in paths if path.name.lower().endswith(SHARD_ENDINGS)]
    tables = [path for path in paths if path.name.lower().endswith(PARQUET_ENDING)]
    if shards:  # img2dataset writes a table of addresses next to each shard
        return ShardedSource(name, shards)
    return ParquetSource(name, tables) if tables else None


def _arrow_error(path: Path) -> DataError:
    return DataError(
        f"{path}: contains Arrow files of Hugging Face's save_to_disk; write Parquet instead: "
        f"datasets.load_from_disk({str(path)!r}).to_parquet('images.parquet'), for each split"
    )


def _open_folder(path: Path, leave_out: Path | None, read_labels: bool) -> Source:
    if (path / MANIFEST).is_file():
        return PreparedSource(path)
    folder = FolderSource(path, leave_out, read_labels)
    if any(IMAGE_SUFFIX.search(entry.name) for entry in folder.entries):
        return folder
    usable = [entry.name for entry in folder.entries if entry.problem is None and not is_hidden(entry.name)]
    source = _open_several(folder.name, [path / name for name in usable])
    if source is None and any(name.endswith(_ARROW[0]) for name in usable):
        raise _arrow_error(path)
    return source or folder


def _open_tar(path: Path, read_labels: bool) -> Source:
    """Open a tar: a webdataset shard if it has labels of its images, else a folder of files."""
    tar = TarFile(path)
    try:
        listing = tar.listing(is_note)
    except TAR_DAMAGE as problem:
        if is_zipfile(path) and not tar.has_header():  # after other bytes, which unpackers skip
            return ZipSource(path, read_labels)
        raise damaged(path, problem) from None
    return ShardedSource(path.name, [path], [listing]) if is_sharded(listing) else TarSource(path, listing, read_labels)


def _open_file(path: Path, read_labels: bool) -> Source:
    if is_zip(path):
        return ZipSource(path, read_labels)
    with naming(path), path.open("rb") as file:
        head = file.read(8)
    if head.startswith(MAGIC):
        return ParquetSource(path.name, [path])
    if not head:
        raise DataError(f"{path}: is empty; copy or download it again")
    if path.suffix.lower() == PARQUET_ENDING:
        raise DataError(f"{path}: is not a Parquet file, in spite of its name; download it again")
    if head.startswith(_ARROW[1]) and (path.suffix == _ARROW[0] or head.startswith(_ARROW[1][0])):
        raise _arrow_error(path)
    if path.suffix.lower() in LIST_ENDINGS:
        return open_list(path, read_labels)
    if is_image_file(path):
        return PathListSource(path.name, [path.name], path.parent, read_labels)
    return _open_tar(path, read_labels)


def _open_pattern(pattern: Path) -> Source | None:
    """Open the shards or Parquet files that match a pattern such as `train-*.parquet`."""
    try:
        found = list(pattern.parent.glob(pattern.name))
    except ValueError as problem:
        raise UsageError(f"{pattern}: not a pattern ({problem}); expected one such as 'train-*.tar'") from None
    paths = sorted(path for path in found if path.is_file() and not is_hidden(path.name))
    source = _open_several(pattern.name, paths)
    if paths and source is None:
        raise UsageError(f"{pattern}: matches {paths[0].name}; a pattern can match shards (.tar) or .parquet files")
    return source


NAMED_SETS = "hdit.sources"


def _named_sets() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=NAMED_SETS)}


def _open_location(location: str, leave_out: Path | None, read_labels: bool) -> Source | None:
    """Open a path, the files of a pattern, or the list on stdin; None if there is nothing."""
    if location == STDIN:
        is_piped = sys.stdin is not None and not sys.stdin.isatty()
        return open_stdin(cast(BufferedIOBase, sys.stdin.buffer) if is_piped else None, read_labels)
    path = Path(location)
    try:
        if path.is_dir():
            return _open_folder(path, leave_out, read_labels)
        if path.is_file():
            return _open_file(path, read_labels)
        if path.exists():
            raise UsageError(f"{path}: is a device or a pipe; expected a folder, an archive or a built-in data set")
        return _open_pattern(path) if _WILD & set(path.name) else None
    except OSError as problem:
        raise DataError(f"{problem.filename or location}: cannot be read ({problem.strerror or problem})") from None


def open_source(location: str, leave_out: Path | None = None, read_labels: bool = True) -> Source:
    """Open a set of images of any kind.

    Args:
        location: a folder (of images, of webdataset shards, of Parquet files, or a prepared data set), a zip, a tar
            (plain, gz, bz2, xz), a shard, a Parquet file, a pattern for some of the last two, a text file of paths,
            `-` for such a text on stdin, one image, or the name of a set.
        leave_out: a file in the folder that is not an input, such as the labels.
        read_labels: take the classes from label files among the images, such as dataset.json.

    Raises:
        UsageError: there is nothing of this name, or it is ambiguous.
        DataError: it cannot be read, or a package for it is missing.
    """
    sets = _named_sets()
    if location in sets and Path(location).exists():
        raise UsageError(
            f"{location}: is a built-in data set, and a file or folder here; write ./{location} for the latter"
        )
    if location in sets:
        return sets[location].load()()
    source = _open_location(location, leave_out, read_labels)
    if source is None:
        near = did_you_mean(location, sets) or f"; built-in data sets: {', '.join(sets) or 'none'}"
        raise UsageError(f"{location}: no such folder, archive or built-in data set{near}")
    return source
