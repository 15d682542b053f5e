"""The bytes that two optimizations for GPUs could save are counted without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_rooflines import (
    GRID,
    IMAGES,
    PARTS,
    Traffic,
    batch_bytes,
    copies,
    eager_bytes,
    features_per_image,
)
from hdit_core.recipe.read import read_recipe

ROOT = Path(__file__).parents[2]


def per_feature(part, counts):
    return [count / (IMAGES * GRID**2 * part.features) for count in counts]


def test_operations_move_their_inputs_and_results_and_views_nothing():
    x = torch.zeros(4, 8)
    with Traffic() as traffic:
        x[:2].add_(1)
    assert traffic.bytes == 2 * 2 * 8 * 4  # half of the tensor is read and written
    with Traffic() as traffic:
        x.view(8, 4).T.unsqueeze(0)
        torch.empty(100)
    assert traffic.bytes == 0


def test_every_part_moves_several_times_the_least_without_compilation():
    for part in PARTS:
        for count, least in zip(per_feature(part, eager_bytes(part)), part.least, strict=True):
            assert count > 2 * least * 2


@pytest.mark.slow
def test_kernels_of_inductor_move_the_gates_once_and_no_part_less_than_the_least():
    """In a process of its own, where no shapes are checked: the checks cannot be compiled."""
    command = [sys.executable, "benchmarks/gpu_rooflines.py", "fusion"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [line.rsplit(maxsplit=5) for line in done.stdout.splitlines()[2:-2]]
    assert [row[0] for row in rows[::2]] == [part.name for part in PARTS]
    assert all(1 <= float(over_least) < 3 for *_, over_least in rows)
    assert [row[-1] for row in rows[-2:]] == ["1.00", "1.00"]


def test_features_of_all_layers_are_counted():
    model = read_recipe("ffhq1024").model
    levels = [(256, 128, 4), (128, 256, 4), (64, 384, 4), (32, 768, 4), (16, 1024, 2)]  # grid, width, layers
    tokens_times_width = sum(layers * grid**2 * width for grid, width, layers in levels)
    assert [features_per_image(model, part) for part in PARTS] == [
        2 * tokens_times_width,
        tokens_times_width,
        3 * tokens_times_width,
    ]


def test_copies_are_compared_with_the_expected_time_of_training():
    assert batch_bytes("ffhq1024") == 2 * 3 * 1024 * 1024 * 4
    rows = [line.split() for line in copies()][1:]
    assert [row[:2] for row in rows] == [
        [name, gpu] for name in ("ffhq1024", "imagenet256") for gpu in ("a100", "h100")
    ]
    assert float(rows[0][4]) == pytest.approx(25.165824 / 25, abs=1e-3)  # MB over GB/s are ms
