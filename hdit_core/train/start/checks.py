"""Mistakes that are found before anything is set up: missing data, and scripts without a `__main__` guard.

Imports nothing heavy: the command line calls it first.
"""

import ast
import multiprocessing
import re
import shlex
import sys
from pathlib import Path
from types import FrameType

from hdit_core.errors import DataError, UsageError
from hdit_core.recipe.run import Recipe

GUARD = 'if __name__ == "__main__":'
NO_WORKERS = {"data.workers": 0, "workers": 1}
COMMAND = re.compile(r"^#.*?(hdit prepare-data .+)$", re.MULTILINE)


def check_data_folder(recipe: Recipe, header: str = "") -> None:
    """Check that the data set of a recipe exists, unless it is remote.

    Args:
        header: text of the recipe file, whose comments may have the command that prepares the data.

    Raises:
        DataError: it does not; the message names the directory and the command that makes it.
    """
    path = recipe.data.path
    if "://" in path or (Path(path) / "manifest.json").exists():
        return
    relative = "" if Path(path).is_absolute() else f" in {Path.cwd()}"
    what = "is not a prepared data set (no manifest.json)" if Path(path).exists() else "no such directory"
    height, width = recipe.model.image_size
    size = f"{height}" if height == width else f"{height}x{width}"
    match = COMMAND.search(header)
    if Path(path).exists():  # perhaps a folder of images, into which nothing must be written
        command = f"hdit prepare-data {shlex.quote(path)} --size {size} --out NEW_DIRECTORY"
    else:
        command = match[1].strip() if match else f"hdit prepare-data SOURCE --size {size} --out {path}"
    raise DataError(f"{path}: {what}{relative}; prepare it with: {command}, or use --set data.path=DIRECTORY")


def check_main_guard(workers: int, setting: str = "data.workers", method: str | None = None) -> None:
    """Check that a script which starts worker processes can be imported by them.

    Processes started by spawn or forkserver import the main script again; without a guard each would start over.

    Args:
        workers: number of worker processes; 0: none.
        setting: its name, for the error.
        method: how they are started; default: as multiprocessing starts processes.

    Raises:
        UsageError: the script calls outside of `if __name__ == "__main__":`.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError(f"a worker process imports this script again; put the call under {GUARD}")
    method = method or multiprocessing.get_start_method()
    if not workers or method == "fork":
        return
    for frame in _frames(sys._getframe()):
        is_script = frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__"
        if is_script and not _is_guarded(Path(frame.f_code.co_filename), frame.f_lineno):
            raise UsageError(
                f"{frame.f_code.co_filename}:{frame.f_lineno}: with {setting} = {workers} and the start method "
                f"{method!r} of multiprocessing, worker processes import this script again; put the call under "
                f"{GUARD}, or use no worker processes ({setting} = {NO_WORKERS[setting]})"
            )


def _frames(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _is_guarded(script: Path, line: int) -> bool:
    """Return whether a line of a script is inside an `if` about `__name__`; True if the file cannot be read."""
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
