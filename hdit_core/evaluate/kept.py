"""Statistics of a prepared data set, kept in its folder as a reference."""

from pathlib import Path

from hdit_core.data.manifest import read_manifest
from hdit_core.errors import DataError
from hdit_core.evaluate.extractor import Say
from hdit_core.evaluate.measure import OnProgress
from hdit_core.evaluate.reference import load_statistics
from hdit_core.evaluate.score import score
from hdit_core.evaluate.settings import ScoreSettings


def kept_statistics(data: Path, extractor: str, on_progress: OnProgress, say: Say) -> Path:
    """Return the file of a data set's statistics, made now if it is not there or is of other images.

    Args:
        data: a prepared data set.
        extractor: name of the feature network; also part of the file's name.
        on_progress: told how many images are done, of how many.
        say: told of what takes long.

    Raises:
        UsageError: there is no such extractor.
        HditError: its weights cannot be had.
    """
    path = data / f"statistics-{extractor}.npz"
    if path.exists() and _is_of(path, data):
        return path
    settings = ScoreSettings(str(data), None, extractor=extractor, save_stats=path, allow_small_n=True)
    result = score(settings, on_progress, say)
    for remark in result.remarks if result else ():
        say(remark)
    return path


def _is_of(path: Path, data: Path) -> bool:
    try:
        return bool(load_statistics(path).source.get("root") == read_manifest(data).root)
    except DataError:
        return False
