"""The script that tests several installations of hdit."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "matrix.sh"


def test_environments_are_made_with_the_python_that_is_named_and_the_first_failure_ends_a_row(tmp_path):
    python = tmp_path / "python3.x"
    python.write_text('#!/bin/sh\necho "asked: $*"\nexit 1\n')
    python.chmod(0o755)
    command = ["sh", SCRIPT, tmp_path / "rows", "pinned-cpu"]
    environment = os.environ | {"PYTHON": str(python)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    lines = ["== {row}", "asked: -m venv --clear {folder}/{row}", "== {row}: FAILED", "failed: {row}", ""]
    assert ended.stdout == "\n".join(lines).format(row="pinned-cpu", folder=tmp_path / "rows")
    assert ended.returncode == 1
