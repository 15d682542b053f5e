"""The resources of the kernels on GPUs, compiled without one by the command that prints docs/performance.md's table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

ROOT = Path(__file__).parents[2]
SHARED_LIMIT_BYTES = 99 * 1024  # per program on compute capability 8.6, 8.9 and 12.0; 8.0, 9.0 and 10.0 have more
MATRIX_INSTRUCTION = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}


def compiled(cache, *arguments):
    """Return the rows of the command; in a process of its own, since this one's Triton interprets."""
    command = [sys.executable, "benchmarks/triton_resources.py", "--json", *arguments]
    environment = os.environ | {"TRITON_CACHE_DIR": str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def assert_fits(rows):
    """Hold each row to the shared memory of consumer parts, no spills, and matrix instructions for 16-bit numbers."""
    assert rows
    for row in rows:
        assert row["shared_bytes"] <= SHARED_LIMIT_BYTES, row
        assert row["spilled_bytes"] == 0, row
        if row["dtype"] != "float32":
            assert row["matrix_instructions"].get(MATRIX_INSTRUCTION[row["capability"]], 0) > 0, row


def test_the_forward_kernel_fits_an_h100(tmp_path):
    """The one compilation that is quick enough for every run of the tests."""
    rows = compiled(tmp_path, "--kernels", "forward", "--capabilities", "90")
    assert {row["kernel"] for row in rows} == {"forward"} and {row["capability"] for row in rows} == {90}
    assert_fits(rows)


@pytest.mark.slow
def test_every_configuration_for_the_recipes_heads_fits_gpus_of_three_generations(tmp_path):
    """In bfloat16 and with 64 features, as in all recipes for GPUs; tests/endurance has the others."""
    rows = compiled(tmp_path, "--dtypes", "bfloat16", "--head-dims", "64")
    assert {row["capability"] for row in rows} == {80, 90, 100}
    assert_fits(rows)


@pytest.mark.slow
def test_sizes_of_one_compile_although_triton_specializes_on_them(tmp_path):
    shape = ("--grid", "1", "1", "--heads", "1", "--kernel-size", "1", "--head-dims", "72")
    assert_fits(compiled(tmp_path, *shape, "--capabilities", "90"))
