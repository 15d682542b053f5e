"""The share of a preparation that a task has, by option or from Slurm."""

import pytest

from hdit_core.data.prepare.array_task import WHOLE_JOB, ArrayTask, parse_array_task, slurm_array_task
from hdit_core.errors import UsageError


def array(number, count, first, last, step=1, **more):
    """Return what Slurm 22.05 sets in a task of an array."""
    names = {"ID": number, "COUNT": count, "MIN": first, "MAX": last, "STEP": step}
    return {**{f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}, **more}


@pytest.mark.parametrize("count", [1, 2, 3, 8, 40])
@pytest.mark.parametrize("num_pieces", [1, 7, 25])
def test_the_shares_contain_every_shard_once(count, num_pieces):
    pieces = [piece for index in range(count) for piece in ArrayTask(index, count).chunks(num_pieces)]
    assert sorted(pieces) == list(range(num_pieces))


def test_a_share_is_read_as_it_is_written():
    assert parse_array_task("3/8") == ArrayTask(3, 8)
    assert parse_array_task(str(ArrayTask(11, 12))) == ArrayTask(11, 12)
    assert parse_array_task("0/1") == WHOLE_JOB


@pytest.mark.parametrize("text", ["8/8", "-1/8", "3", "3/0", "3/", "a/b", "1/2/3", "", "1.0/2"])
def test_an_invalid_task_is_refused(text):
    with pytest.raises(UsageError, match=r"--task .*: expected I/N with I from 0 to N-1, for example 3/8"):
        parse_array_task(text)


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, WHOLE_JOB),
        (array(0, 4, 0, 3), ArrayTask(0, 4)),
        (array(4, 4, 1, 4), ArrayTask(3, 4)),
        (array(8, 4, 0, 12, 4), ArrayTask(2, 4)),
        (array(5, 1, 5, 5), WHOLE_JOB),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "6"}, ArrayTask(2, 6)),
        (array(4, 4, 1, 4, SLURM_PROCID="1", SLURM_STEP_NUM_TASKS="2"), ArrayTask(7, 8)),
    ],
)
def test_the_task_comes_from_the_slurm_environment(environment, share):
    assert slurm_array_task(environment) == share


def test_a_batch_script_is_a_single_task_despite_the_slurm_task_count():
    assert slurm_array_task({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}) == WHOLE_JOB


@pytest.mark.parametrize("numbers", [(1, 3, 1, 7), (3, 3, 1, 7), (7, 3, 1, 7), (3, 2, 3, 5)])
def test_a_list_of_array_ids_defines_no_task(numbers):
    with pytest.raises(UsageError, match=r"not a range, so the part of task \d+ is ambiguous; set it with --task I/N"):
        slurm_array_task(array(*numbers))


def test_slurm_variables_must_be_numbers():
    with pytest.raises(UsageError, match="SLURM_STEP_NUM_TASKS is 'x', expected a number"):
        slurm_array_task({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "x"})
    with pytest.raises(UsageError, match="SLURM_ARRAY_TASK_COUNT is not set"):
        slurm_array_task({"SLURM_ARRAY_TASK_ID": "0"})
