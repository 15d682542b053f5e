"""A sweep continues after a kill, on any number of ranks, and reuses trials and images."""

import json
import time
from dataclasses import replace

import pytest

from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate import generated
from hdit_core.evaluate.sweep.journal import read_winner
from hdit_core.evaluate.sweep.run import sweep
from hdit_core.evaluate.sweep.search_space import Point
from tests.evaluate.scoring_rank import start
from tests.evaluate.sweep.wanted import wanted

pytestmark = pytest.mark.usefixtures("small")


@pytest.mark.parametrize("share_done", [0.3, 0.8, 1.0])
def test_a_killed_sweep_resumes_to_the_same_result_without_repeating_work(run, reference, tmp_path, share_done):
    heard: list[int] = []
    whole = sweep(wanted(run, reference, out=tmp_path / "whole"), lambda point, done, total: heard.append(done))
    left = round(share_done * len(heard))

    def kill(point, done, total):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(wanted(run, reference, out=tmp_path / "killed"), kill)
    journal = tmp_path / "killed" / "journal.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines) + '\n{"point": {"wei')  # a line that the kill cut short
    resumed = sweep(wanted(run, reference, out=tmp_path / "killed"))
    assert (resumed.winner, resumed.trials) == (whole.winner, whole.trials)
    assert resumed.score["value"] == whole.score["value"]
    assert journal.read_text().splitlines()[: len(lines)] == lines
    points = [json.dumps(json.loads(line)["point"]) + str(json.loads(line)["n"]) for line in lines[1:]]
    assert len(points) == len(set(points))


def test_two_ranks_find_the_same_winner_as_one_even_after_a_kill(run, reference, tmp_path):
    asked = {"run": run, "guidance": "1:3:1", "n": 16, "confirm": 24}
    options = {"images": None, "reference": str(reference), "labels": "uniform"}
    one = start(tmp_path / "a", 1, **options, sweep=asked | {"out": tmp_path / "one"}).results()[0]
    killed = start(tmp_path / "b", 2, stuck=(1, 3), **options, sweep=asked | {"out": tmp_path / "two"})
    journal = tmp_path / "two" / "journal.jsonl"
    while not journal.exists() or len(journal.read_text().splitlines()) < 3:
        assert all(process.is_alive() for process in killed.processes), killed.said()
        time.sleep(0.01)
    killed.processes[1].kill()
    assert "gone" in killed.said()[0]
    two = start(tmp_path / "b", 2, **options, sweep=asked | {"out": tmp_path / "two"}).results()
    assert two[1] is None
    assert two[0]["trials"] == one["trials"], "bit for bit"
    assert two[0]["score"]["estimates"] == one["score"]["estimates"]
    assert two[0]["winner"] == one["winner"]
    passports = [found["score"]["passport"]["images"] for found in (two[0], one)]
    assert passports[0]["fingerprint"] == passports[1]["fingerprint"], "the very same images"


def test_a_finished_sweep_is_reported_again_without_sampling(run, reference):
    first = sweep(wanted(run, reference))
    drawn = []
    assert sweep(wanted(run, reference), lambda *about: drawn.append(about)).to_json() == first.to_json()
    assert drawn == []


@pytest.mark.parametrize(
    "content", ["", "garbage", "[]", '{"value": 1.0}', '{"value": 1.0, "name": "n", "estimates": {}}']
)
def test_a_damaged_winner_is_named_with_the_fix(tmp_path, content):
    (tmp_path / "winner.json").write_text(content)
    with pytest.raises(
        DataError, match=r"winner\.json: not the score of a sweep's winner; remove it to score the winner again"
    ):
        read_winner(tmp_path / "winner.json", Point("ema"), 24)


def test_a_round_reuses_the_images_of_the_previous_one(run, reference, monkeypatch):
    drawn = []
    original = generated.generate
    monkeypatch.setattr(
        generated, "generate", lambda denoiser, places, **how: drawn.extend(places) or original(denoiser, places, **how)
    )
    sweep(wanted(run, reference, interval=None, guidance="1,2,3,4"))
    rounds = drawn[: 4 * 8 + 2 * 8 + 8]  # and then those that the report shows
    assert sorted(rounds) == sorted([*range(8)] * 4 + [*range(8, 16)] * 2 + [*range(16, 24)])


def test_another_grid_reuses_the_trials_of_the_previous_one(run, reference):
    first = sweep(wanted(run, reference, guidance="1,2,3,4", interval=None))
    sampled = set()
    second = sweep(
        wanted(run, reference, guidance="1,2,3,5", interval=None), lambda task, done, n: sampled.add((task, n))
    )
    assert {task for task, n in sampled if n == 8} == {"4/4 weights ema, guidance 5"}
    assert len({trial for trial in first.trials if trial.n == 8} & set(second.trials)) == 3


def test_a_sweep_with_other_settings_in_the_folder_is_refused(run, reference):
    sweep(wanted(run, reference, n=8))
    other = wanted(run, reference, n=8)
    with pytest.raises(UsageError, match=r"has a sweep with other settings: seed 3 .there. vs 4 .now."):
        sweep(replace(other, scoring=replace(other.scoring, seed=4)))


def test_the_scores_of_another_run_with_the_same_settings_are_not_reused(made, run, reference, tmp_path):
    sweep(wanted(run, reference, n=8, out=tmp_path / "sweep"))
    with pytest.raises(
        UsageError, match=r"has a sweep with other settings: checkpoint '\w{16}' .there. vs '\w{16}' .now."
    ):
        sweep(wanted(made / "guide", reference, n=8, out=tmp_path / "sweep"))
