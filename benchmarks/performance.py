"""Run the commands in a Markdown document and replace their output there, so that no figure is typed by hand.

    python benchmarks/performance.py docs/performance.md            all commands
    python benchmarks/performance.py docs/performance.md 2 3        commands 2 and 3, counted from 0

A command is the first line of a ```console block and begins with `$ `. Its stdout replaces the rest of the block.
The environment variable `PEER` is the interpreter that `peer.py` needs.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"(```console\n\$ )(.+)\n(?:.*\n)*?(```)")


def refresh(document: Path, chosen: list[int]) -> None:
    """Run the chosen commands in turn, and update the document after each."""
    count = len(BLOCK.findall(document.read_text()))
    for number in chosen or range(count):
        block = list(BLOCK.finditer(document.read_text()))[number]
        print(f"{number}: {block[2]}", file=sys.stderr)
        run = subprocess.run(["bash", "-c", block[2]], stdout=subprocess.PIPE, text=True, check=True, env=environment())
        lines = "".join(f"{line.rstrip()}\n" for line in run.stdout.splitlines())
        text = document.read_text()  # read again: it may have changed meanwhile
        old = list(BLOCK.finditer(text))[number]
        document.write_text(f"{text[: old.start()]}{block[1]}{block[2]}\n{lines}{block[3]}{text[old.end() :]}")


def environment() -> dict[str, str]:
    """Return the environment for the commands, with this interpreter's folder first in PATH."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


if __name__ == "__main__":
    refresh(Path(sys.argv[1]), [int(argument) for argument in sys.argv[2:]])
