"""Two steps of a recipe, with their cost, without leaving files."""

from dataclasses import replace

import pytest

from hdit_core.checkpoint.status import read_status, write_status
from hdit_core.distributed import World
from hdit_core.errors import DataError, HditError, UsageError
from hdit_core.flops.count import count
from hdit_core.train.dry_run import dry_run
from hdit_core.train.monitor import memory as memory_module
from hdit_core.train.monitor.memory import memory_need
from hdit_core.train.run import train
from hdit_core.train.step.train_step import Learner


def test_a_dry_run_takes_two_steps_and_estimates_from_the_second(tmp_path, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clock, taken, update = iter(range(10**6)), [], Learner.train_step
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(Learner, "train_step", lambda learner, *step: taken.append(step[0]) or update(learner, *step))
    recipe = trained({"train.num_images": 8_640_000})
    (tmp_path / "run").mkdir()
    write_status(tmp_path / "run", "running", 540_000, 4_320_000)
    found = dry_run(recipe, tmp_path / "run")
    assert [step.number for step in taken] == [0, 1]
    assert (found.step_s, found.images_per_s, found.batch_size, found.ranks) == (3.0, 8 / 3, 8, 1)  # a tick a look
    assert found.waiting == pytest.approx(1 / 3)
    assert found.flops_per_s == pytest.approx(8 * 6 * count(recipe.model).macs / 3)
    assert (found.images_left, found.days) == (4_320_000, pytest.approx(4_320_000 * 3 / 8 / 86_400))
    assert found.parameters == count(recipe.model).parameters and found.utilisation is None
    assert found.peak_bytes > 100e6 and found.to_json()["loss"] > 0
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "status.json"]


def test_a_step_that_does_not_fit_is_refused_with_the_plan_and_a_micro_batch(trained, monkeypatch):
    recipe = trained({"train.batch_size": 64})
    monkeypatch.setattr(memory_module, "PROCESS_BYTES", 0)
    need = memory_need(recipe, World())
    assert need.fits and need.images == need.largest == 64 and need.needed_bytes > 1e6
    monkeypatch.setattr(memory_module, "machine_bytes", lambda device: need.needed_bytes // 2)
    less = memory_need(recipe, World())
    assert not less.fits and 8 < less.largest < 32
    message = rf"memory: 64 images at a time need up to .* GiB, this machine has .*micro_batch_size={less.largest}$"
    with pytest.raises(HditError, match=message):
        dry_run(recipe)
    for images, fits in ((less.largest, True), (less.largest + 1, False)):
        smaller = trained({"train.batch_size": 64, "train.micro_batch_size": images})
        assert memory_need(smaller, World()).fits == fits


def test_a_memory_limit_counts_as_the_memory_of_the_machine(trained, monkeypatch):
    monkeypatch.setattr(memory_module, "memory_limit", lambda: 1 << 29)
    need = memory_need(trained({"train.batch_size": 1 << 16}), World())
    assert need.machine_bytes == 1 << 29 and not need.fits and "GiB, the memory limit is 0.5 GiB" in str(need)
    assert " need up to 1,280 GiB" in str(replace(need, needed_bytes=1280 << 30))
    monkeypatch.setattr(memory_module, "memory_limit", lambda: None)
    assert ", this machine has " in str(memory_need(trained({"train.batch_size": 8}), World()))


def test_running_out_of_memory_names_the_keys_and_the_plan(tmp_path, trained, monkeypatch):
    def fail(learner, *step):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(Learner, "train_step", fail)
    message = r"the training step on cpu ran out of memory: by the plan 8 images .* --set train.micro_batch_size=4"
    for act in (lambda recipe: dry_run(recipe), lambda recipe: train(recipe, tmp_path / "run")):
        with pytest.raises(HditError, match=message + r" or fewer than data.workers = 2$"):
            act(trained({"data.workers": 2}))


def test_a_dry_run_refuses_what_training_would_refuse(tmp_path, trained):
    with pytest.raises(DataError, match="nowhere"):
        dry_run(trained({"data.path": str(tmp_path / "nowhere")}))
    with pytest.raises(UsageError, match="this machine has no such device"):
        dry_run(trained({}), device="cuda:9")
    assert read_status(tmp_path) == {} and list(tmp_path.iterdir()) == []
