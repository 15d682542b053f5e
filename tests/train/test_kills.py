"""A run killed repeatedly at random moments is bit-identical to an uninterrupted one.

The long form, also with several ranks and with readers, is tests/endurance/test_checkpoint_kills.py.
"""

import random
import time

import pytest

from hdit_core.recipe.write import recipe_toml
from tests.train.killing_runs import final_hash, kill_in_a_save, train_under_fire
from tests.train.nursery import Nursery


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery") / "stderr")
    yield nursery
    nursery.close()


@pytest.fixture
def recipe_file(tmp_path, trained):
    """Return a recipe of 12 steps, each of two pieces, with a save every other step."""
    values = {"train.checkpoint_every_images": 16, "train.micro_batch_size": 4}
    (tmp_path / "tiny.toml").write_text(recipe_toml(trained(values)))
    return tmp_path / "tiny.toml"


@pytest.mark.slow
def test_a_run_killed_in_saves_and_at_random_is_bit_identical_to_an_uninterrupted_one(tmp_path, recipe_file, nursery):
    began_at = time.monotonic()
    nursery.begin(recipe_file, tmp_path / "alone")
    assert nursery.wait() == 0
    longest_s, kills = (time.monotonic() - began_at) / 2, 0
    kill_in_a_save(nursery, recipe_file, tmp_path / "run-0")
    for trial in range(20):
        run = tmp_path / f"run-{trial}"
        killed, code = train_under_fire(nursery, recipe_file, run, random.Random(trial), longest_s)
        kills += killed
        longest_s /= 1 if killed else 2  # the machine is faster than it was
        assert code == 0
        assert final_hash(run) == final_hash(tmp_path / "alone")
        assert not list((run / "checkpoints").glob(".tmp-*"))
        if kills >= 3:
            return
    raise AssertionError(f"{kills} kills in 20 runs are no test")


@pytest.mark.slow
def test_the_same_kills_break_a_run_whose_checkpoints_are_written_in_place(tmp_path, recipe_file, nursery):
    """A check of the test: it fails for a writer that is not atomic."""
    for trial in range(10):
        run = tmp_path / str(trial)
        kill_in_a_save(nursery, recipe_file, run, writer="in place")
        nursery.begin(recipe_file, run, "in place")
        code = nursery.wait()
        if code == 1:
            break
    assert code == 1, "no kill of ten fell into a save: the kills are no test"
    assert "no checkpoint is intact" in nursery.stderr.read_text()
