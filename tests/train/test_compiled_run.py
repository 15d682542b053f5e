"""A run with torch.compile: its cache, and its messages. The network itself: tests/model."""

import os
from pathlib import Path

import pytest
import torch

from hdit_core.checkpoint.log import read_log
from hdit_core.distributed import World
from hdit_core.files import cache_folder
from hdit_core.model import compile as compile_module
from hdit_core.model.blocks import TransformerLayer
from hdit_core.model.compile import reason_to_compile
from hdit_core.train.run import train
from hdit_core.train.step import train_step as step_module
from hdit_core.train.step.build import build_learner


def compiled(network):
    return [layer._compiled_call_impl is not None for layer in network.modules() if isinstance(layer, TransformerLayer)]


@pytest.mark.parametrize("wanted", [False, True])
def test_the_recipe_compiles_every_layer_or_none_and_never_the_ema(trained, wanted):
    learner = build_learner(trained({"train.compile": wanted}), None, World())
    assert compiled(learner.ema.source) == [wanted] * 3
    assert compiled(learner.ema.network) == [False] * 3


@pytest.fixture
def with_triton(monkeypatch):
    monkeypatch.setattr(compile_module, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("wanted", "device", "num_images", "compiles"),
    [
        ("auto", "cuda", 8 * 2_000, True),
        ("auto", "cuda", 8 * 1_999, False),
        ("auto", "cpu", 8 * 2_000, False),
        ("auto", "mps", 8 * 2_000, False),
        (True, "cpu", 8, True),
        (False, "cuda", 8 * 2_000, False),
    ],
)
def test_auto_compiles_long_runs_on_gpus(trained, with_triton, wanted, device, num_images, compiles):
    recipe = trained({"train.compile": wanted, "train.num_images": num_images, "train.batch_size": 8})
    assert (reason_to_compile(recipe.train, torch.device(device)) is not None) == compiles


def test_auto_does_not_compile_without_triton_or_if_deterministic_results_would_vary(trained, with_triton, monkeypatch):
    recipe, gpu = trained({"train.num_images": 8 * 2_000, "train.batch_size": 8}), torch.device("cuda")
    assert reason_to_compile(recipe.train, gpu)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        assert reason_to_compile(recipe.train, gpu)
        patch.setattr(compile_module, "compiles_deterministically", lambda: False)
        assert reason_to_compile(recipe.train, gpu) is None
    monkeypatch.setattr(compile_module, "find_spec", lambda name: None)
    assert reason_to_compile(recipe.train, gpu) is None


def test_compiled_code_is_stored_in_the_cache_of_the_user_or_a_chosen_folder(trained, monkeypatch):
    recipe = trained({"train.compile": True})
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    build_learner(recipe, None, World())
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    build_learner(recipe, None, World())
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == cache_folder() / "inductor"


def test_compilation_time_is_logged_and_excluded_from_the_speed(tmp_path, trained, monkeypatch, notes):
    spent_s = iter([0.0, 1e6, *[1e6] * 100])
    monkeypatch.setattr(step_module, "compile_seconds", lambda: next(spent_s))
    monkeypatch.setattr("time.perf_counter", lambda clock=iter(range(0, 10**10, 2_000_000)): float(next(clock)))
    recipe = trained({"train.num_images": 32, "train.log_every_images": 16})
    train(recipe, tmp_path / "run")
    assert [note for note in notes if "compiled" in note] == ["compiled in 1000000 s"]
    first, second = read_log(tmp_path / "run")
    assert first["compile_s"] == 1e6 and "compile_s" not in second
    assert first["elapsed_s"] == 11e6 and second["elapsed_s"] == 23e6
