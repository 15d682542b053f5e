"""Mistakes that are found before anything is set up: missing data, and scripts without a `__main__` guard.

Imports nothing heavy: the command line calls it first.
"""

import ast
import multiprocessing
import re
import sys
from pathlib import Path
from types import FrameType

from hdit_core.errors import DataError, UsageError
from hdit_core.recipe.run import Recipe

GUARD = 'if __name__ == "__main__":'
COMMAND = re.compile(r"^#.*?(hdit prepare-data .+)$", re.MULTILINE)


def check_data_folder(recipe: Recipe, header: str = "") -> None:
    """Check that the data set of a recipe exists, unless it is remote.

    Args:
        header: text of the recipe file, whose comments may have the command that prepares the data.

    Raises:
        DataError: it does not; names the directory and the command that makes it.
    """
    path = recipe.data.path
    if "://" in path or (Path(path) / "manifest.json").exists():
        return
    relative = "" if Path(path).is_absolute() else f" in {Path.cwd()}"
    what = "is not a prepared data set (no manifest.json)" if Path(path).exists() else "no such directory"
    height, width = recipe.model.image_size
    size = f"{height}" if height == width else f"{height}x{width}"
    match = COMMAND.search(header)
    command = match[1].strip() if match else f"hdit prepare-data SOURCE --size {size} --out {path}"
    raise DataError(f"{path}: {what}{relative}; prepare it with: {command}, or use --set data.path=DIRECTORY")


def check_main_guard(workers: int) -> None:
    """Check that a script which trains with reader processes can be imported by them.

    Processes started by spawn or forkserver import the main script again; without a guard each of them would train.

    Raises:
        UsageError: the script calls outside of `if __name__ == "__main__":`.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError(f"this process reads images for a run, and imports its script; put the call under {GUARD}")
    if not workers or multiprocessing.get_start_method() == "fork":
        return
    for frame in _frames(sys._getframe()):
        is_script = frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__"
        if is_script and not _is_guarded(Path(frame.f_code.co_filename), frame.f_lineno):
            raise UsageError(
                f"{frame.f_code.co_filename}:{frame.f_lineno}: with data.workers = {workers} and the start method "
                f"{multiprocessing.get_start_method()!r} of multiprocessing, reader processes import this script "
                f"again; put the call under {GUARD}, or set data.workers to 0"
            )


def _frames(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _is_guarded(script: Path, line: int) -> bool:
    """Return whether a line of a script lies in an `if` about `__name__`; True if there is no such file."""
    try:
        body = ast.parse(script.read_text()).body
    except (OSError, ValueError, SyntaxError):
        return True
    return any(
        isinstance(statement, ast.If)
        and "__name__" in ast.dump(statement.test)
        and statement.lineno <= line <= (statement.end_lineno or line)
        for statement in body
    )
