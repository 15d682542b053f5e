"""The network under `torch.compile`: each layer is one graph, and its numbers are unchanged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def report():
    """What a process without the tests' type checker found."""
    child = Path(__file__).with_name("compiled_child.py")
    root = child.parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, runpy; sys.path[:0] = [{str(root)!r}, {str(child.parent)!r}]; "
         f"runpy.run_path({str(child)!r}, run_name='__main__')"],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Graph break" not in done.stderr and "lru_cache" not in done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_every_layer_compiles_without_graph_breaks_to_the_same_outputs_and_gradients(report):
    assert report["float32, the outermost level computed again"] < 2e-3


def test_layers_with_the_ablation_options_compile_without_graph_breaks(report):
    assert report["options"] < 2e-3


def test_autocast_works_with_compiled_layers(report):
    assert report["autocast"] < 0.1


def test_equal_layers_share_a_graph(report):
    assert report["graphs"] == 4  # of neighborhoods, of windows down and shifted windows up, of global attention
