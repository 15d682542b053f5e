"""The network under `torch.compile`: each layer is one graph, and its numbers are unchanged."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest


@functools.cache
def report(*names):
    """Return what a process without the tests' type checker found, by the names of `compiled_child.REPORTS`."""
    child = Path(__file__).with_name("compiled_child.py")
    root = child.parents[2]
    code = (
        f"import sys, runpy; sys.path[:0] = [{str(root)!r}, {str(child.parent)!r}]; "
        f"runpy.run_path({str(child)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Graph break" not in done.stderr and "lru_cache" not in done.stderr
    return json.loads(done.stdout)


def quick_report():
    return report("autocast", "graphs")


def long_report():
    return report("float32, the outermost level computed again", "options")


@pytest.mark.slow
def test_every_layer_compiles_without_graph_breaks_to_the_same_outputs_and_gradients():
    assert long_report()["float32, the outermost level computed again"] < 2e-3


@pytest.mark.slow
def test_layers_with_the_ablation_options_compile_without_graph_breaks():
    assert long_report()["options"] < 2e-3


@pytest.mark.slow
def test_autocast_works_with_compiled_layers():
    assert quick_report()["autocast"] < 0.1


def test_equal_layers_share_a_graph():
    assert (
        quick_report()["graphs"] == 4
    )  # of neighborhoods, of windows down and shifted windows up, of global attention
