"""The choice of a configuration: the fastest, timed once per machine; the first if timing is meaningless."""

from typing import get_args

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import torch

from benchmarks.triton_resources import example
from hdit_core.model.triton import autotune
from hdit_core.model.triton.autotune import Autotuner, select
from hdit_core.model.triton.configuration import LARGE, SMALL, SMALL_LONG, Kernel, block_dim, configurations
from hdit_core.model.triton.launch import Launch

SECONDS = {SMALL: 3.0, SMALL_LONG: 1.0, LARGE: 2.0}


def unasked(*_):
    raise AssertionError("nothing is to be timed")


def test_the_fastest_configuration_is_taken_and_reused_by_later_runs(tmp_path):
    asked = []

    def seconds(configuration):
        asked.append(configuration)
        return SECONDS[configuration]

    path = tmp_path / "new" / "times.json"
    tuner = Autotuner(path)
    for _ in range(2):
        assert tuner.fastest("key", (SMALL, SMALL_LONG, LARGE), seconds) == SMALL_LONG
    assert Autotuner(path).fastest("key", (SMALL, SMALL_LONG, LARGE), seconds) == SMALL_LONG
    assert asked == [SMALL, SMALL_LONG, LARGE]
    assert Autotuner(path).fastest("another", (SMALL, LARGE), seconds) == LARGE


def test_a_failing_configuration_is_skipped(tmp_path):
    def seconds(configuration):
        if configuration == SMALL_LONG:
            raise RuntimeError("out of resource: shared memory")
        return SECONDS[configuration]

    assert Autotuner(tmp_path / "times.json").fastest("key", (SMALL, SMALL_LONG, LARGE), seconds) == LARGE


@pytest.mark.parametrize("content", ["", "[]", '{"key": "8x8 by hand"}', '{"key": 7}'])
def test_a_file_without_usable_content_is_replaced(tmp_path, content):
    path = tmp_path / "times.json"
    path.write_text(content)
    assert Autotuner(path).fastest("key", (SMALL, LARGE), SECONDS.__getitem__) == LARGE
    assert Autotuner(path).fastest("key", (SMALL, LARGE), unasked) == LARGE


def test_without_a_writable_cache_the_choice_is_the_same(tmp_path):
    (tmp_path / "file").write_text("")
    assert Autotuner(tmp_path / "file" / "times.json").fastest("key", (SMALL, LARGE), SECONDS.__getitem__) == LARGE


def test_concurrent_writers_keep_each_others_results(tmp_path):
    path = tmp_path / "times.json"
    first, second = Autotuner(path), Autotuner(path)
    first.fastest("a", (SMALL, LARGE), SECONDS.__getitem__)
    second.fastest("b", (SMALL, LARGE), SECONDS.__getitem__)
    assert Autotuner(path).fastest("a", (SMALL, LARGE), unasked) == LARGE


@pytest.fixture
def on_a_gpu(monkeypatch, tmp_path):
    """Let tensors without memory be a GPU's, on which the last configuration is the fastest."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(autotune, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(autotune, "_time_s", lambda launch, configuration: -SECONDS[configuration])
    autotune._autotuner.cache_clear()
    yield monkeypatch
    autotune._autotuner.cache_clear()


def large():
    q = torch.empty(2, 128, 64, 2, 64, dtype=torch.bfloat16, device="meta")
    return Launch("forward", (q, q, q, q), 7)


def test_large_tensors_on_a_gpu_are_timed(on_a_gpu):
    on_a_gpu.setattr(autotune, "_time_s", lambda launch, configuration: SECONDS[configuration])
    assert select(large()) == SMALL_LONG


def test_small_tensors_deterministic_runs_and_captured_graphs_take_the_first_configuration(on_a_gpu):
    on_a_gpu.setattr(autotune, "_time_s", unasked)
    assert select(example("forward", torch.bfloat16, 64, 7)) == SMALL
    torch.use_deterministic_algorithms(True)
    try:
        assert select(large()) == SMALL
    finally:
        torch.use_deterministic_algorithms(False)
    on_a_gpu.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert select(large()) == SMALL


def test_tensors_outside_a_gpu_take_the_first_configuration():
    assert select(large()) == SMALL


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_head_dim_has_valid_triton_configurations(dtype):
    for head_dim in range(1, 129):
        assert block_dim(head_dim) >= max(head_dim, 16)
        for kernel in get_args(Kernel):
            for configuration in configurations(kernel, dtype, head_dim):
                for rows, columns in (configuration.tile, configuration.chunk):
                    assert rows * columns >= 16 and (rows * columns).bit_count() == 1  # as its products need them
