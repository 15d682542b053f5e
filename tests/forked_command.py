"""The command hdit in a process of its own that has torch imported from the start: a tenth of a second, not three."""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.forking import CONTEXT


@dataclass
class Ended:
    """A process that has ended."""

    returncode: int
    stdout: bytes
    stderr: bytes


def run_hdit(*arguments: object, environment: dict[str, str] | None = None) -> Ended:
    """Run the command in the current folder, with an environment of its own, and return how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        begun = CONTEXT.Process(
            target=_run,
            args=([*map(str, arguments)], dict(environment or os.environ), Path.cwd(), Path(folder)),
        )
        begun.start()
        begun.join(300)
        begun.kill()  # in vain, unless it has taken too long
        begun.join()
        return Ended(begun.exitcode, *((Path(folder) / name).read_bytes() for name in ("stdout", "stderr")))


def _run(arguments: list[str], environment: dict[str, str], current: Path, folder: Path) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600), number)
    os.chdir(current)
    os.environ.clear()
    os.environ.update(environment)
    from hdit_cli.main import main

    sys.exit(main(arguments))
