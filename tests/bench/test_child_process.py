import logging
import os
import sys

import pytest
import torch

from hdit_core.bench.child_process import (
    BenchSettings,
    OutOfMemory,
    in_child_process,
    measure_in_child_process,
)
from hdit_core.errors import DataError, is_out_of_memory

MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def describe(number):
    logging.getLogger("hdit").info("told %d", number)
    return number + 1, os.getpid(), torch.get_num_threads()


def fill(mebibytes):
    """Allocate memory, free it, and allocate a little."""
    torch.ones(mebibytes, MIB // 4).sum()
    return torch.ones(4).sum().item()


def fill_what_is_not_there():
    torch.ones(1 << 44)


def find_damage():
    raise DataError("a shard is damaged")


def die(code):
    os._exit(code)


def blunder():
    raise KeyError("a bug")


def test_a_function_runs_in_another_process_with_its_own_threads_and_its_log_messages_come_back(caplog):
    caplog.set_level("INFO", logger="hdit")
    (number, process, threads), _ = in_child_process(describe, 4, threads=2)
    assert (number, threads, caplog.messages) == (5, 2, ["told 4"])
    assert process != os.getpid()


@linux
def test_each_task_reports_its_own_peak_memory():
    (_, large), (_, small) = in_child_process(fill, 200, threads=1), in_child_process(fill, 20, threads=1)
    assert large == pytest.approx(200 * MIB, abs=20 * MIB)
    assert small == pytest.approx(20 * MIB, abs=20 * MIB)


def test_a_task_that_does_not_fit_is_an_error_with_the_free_memory():
    with pytest.raises(OutOfMemory, match=r"does not fit into the ([\d.]+ GiB of )?free memory"):
        in_child_process(fill_what_is_not_there, threads=1)


def test_a_process_killed_by_the_system_is_an_error_at_once():
    with pytest.raises(OutOfMemory, match=r"was killed by the system \(code 9\): not enough memory"):
        in_child_process(die, 9, threads=1)


def test_user_errors_are_passed_on_and_bugs_point_to_the_traceback_above():
    with pytest.raises(DataError, match=r"^a shard is damaged$"):
        in_child_process(find_damage, threads=1)
    with pytest.raises(RuntimeError, match="its traceback is printed above"):
        in_child_process(blunder, threads=1)


def fail_on_the_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_full_gpu_is_reported_and_other_errors_are_passed_through(monkeypatch):
    calls = []
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *args, name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 110)
    gpu = BenchSettings(torch.device("cuda"), 1)

    (number, process, _), memory = measure_in_child_process(describe, 4, settings=gpu)
    assert (number, process, memory) == (5, os.getpid(), 100)
    assert calls == ["empty_cache", "reset_peak_memory_stats"]
    with pytest.raises(OutOfMemory, match="does not fit into the memory of cuda"):
        measure_in_child_process(fail_on_the_gpu, settings=gpu)
    assert not is_out_of_memory(RuntimeError("shapes differ"))
