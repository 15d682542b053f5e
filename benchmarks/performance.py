"""Runs the commands that stand in a document and writes what they print under them: no figure is typed by hand.

    python benchmarks/performance.py docs/performance.md            all of them
    python benchmarks/performance.py docs/performance.md 2 3        the third and the fourth; they count from 0

A command stands in a block that begins with ```console, in a line that begins with `$ `; what it prints on stdout
replaces the rest of the block. `PEER` in the environment is the interpreter that `peer.py` needs.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"(```console\n\$ )(.+)\n(?:.*\n)*?(```)")


def refresh(document: Path, chosen: list[int]) -> None:
    """Run the chosen commands one after the other, and write the document after each."""
    count = len(BLOCK.findall(document.read_text()))
    for number in chosen or range(count):
        block = list(BLOCK.finditer(document.read_text()))[number]
        print(f"{number}: {block[2]}", file=sys.stderr)
        run = subprocess.run(["bash", "-c", block[2]], stdout=subprocess.PIPE, text=True, check=True, env=environment())
        lines = "".join(f"{line.rstrip()}\n" for line in run.stdout.splitlines())
        text = document.read_text()  # again: minutes have gone by
        old = list(BLOCK.finditer(text))[number]
        document.write_text(f"{text[: old.start()]}{block[1]}{block[2]}\n{lines}{block[3]}{text[old.end() :]}")


def environment() -> dict[str, str]:
    """Return the environment of the commands: those of this interpreter come first."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


if __name__ == "__main__":
    refresh(Path(sys.argv[1]), [int(argument) for argument in sys.argv[2:]])
