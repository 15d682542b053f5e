"""Two and three ranks are bit-identical to one process; killed ranks resume in any number."""

import time

import numpy as np
import pytest
from PIL import Image

from hdit_core.distributed import World
from hdit_core.errors import UsageError
from hdit_core.evaluate.score import score
from hdit_core.evaluate.settings import ScoreSettings
from tests.evaluate.scoring_rank import start


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two folders of 10 x 12 pictures: 77 light ones, in ten pieces of which the last is not whole, and 30 dark."""
    made = []
    for seed, (name, count) in enumerate({"light": 77, "dark": 30}.items()):
        folder, numbers = tmp_path_factory.mktemp(name), np.random.default_rng(seed)
        for index in range(count):
            pixels = numbers.integers(0, 256 - 90 * seed, (10, 12, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:03}.png")
        made.append(folder)
    return made


@pytest.fixture(scope="module")
def alone(sets, tmp_path_factory):
    """The score by one process."""
    ranks = start(tmp_path_factory.mktemp("alone"), 1, images=str(sets[0]), reference=str(sets[1]))
    return ranks.results()[0]


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_ranks_gives_the_same_result_bit_for_bit(sets, alone, tmp_path, count):
    found = start(tmp_path, count, images=str(sets[0]), reference=str(sets[1])).results()
    assert found == [alone, *[None] * (count - 1)]
    assert alone["kd-toy"]["value"] and alone["estimates"]["recall"] and alone["estimates"]["inception_score"]


def test_ranks_share_the_sampling_of_a_checkpoint_and_the_set_equals_that_of_one(sets, checkpoint, tmp_path):
    options = {"images": None, "reference": str(sets[1]), "checkpoint": str(checkpoint), "n": 21, "labels": "uniform"}
    one, two = (start(tmp_path / str(count), count, **options).results()[0] for count in (1, 2))
    assert one == two and one["n"] == 21


def test_saved_statistics_are_the_same_for_any_number_of_ranks(sets, tmp_path):
    for count in (1, 2):
        path = tmp_path / f"{count}.npz"
        start(tmp_path / str(count), count, images=str(sets[1]), reference=None, save_stats=path).results()
    with np.load(tmp_path / "1.npz") as one, np.load(tmp_path / "2.npz") as two:
        assert set(one.files) == set(two.files)
        assert all(np.array_equal(one[name], two[name]) for name in one.files)


def test_killed_ranks_resume_in_any_number(sets, alone, tmp_path):
    """SIGKILL to one of two ranks: the other ends by itself; then three ranks do what is missing, and then one."""
    options = {"images": str(sets[0]), "reference": str(sets[1]), "keep_features": tmp_path / "kept"}
    ranks = start(tmp_path / "killed", 2, stuck=(1, 3), **options)
    while len(kept := list((tmp_path / "kept").glob("*/features-*"))) < 3:
        assert all(process.is_alive() for process in ranks.processes), ranks.said()
        time.sleep(0.01)
    ranks.processes[1].kill()
    assert "another rank is gone" in ranks.said()[0] and ranks.processes[0].exitcode == 1
    written_at = {path: path.stat().st_mtime_ns for path in kept}
    assert len(list((tmp_path / "kept").glob("*/features-*"))) < 14
    for count in (3, 1):
        assert start(tmp_path / str(count), count, **options).results()[0] == alone
    assert {path: path.stat().st_mtime_ns for path in kept} == written_at, "existing features are not computed again"


def test_if_a_rank_cannot_read_an_image_all_end_and_it_reports_the_reason(sets, tmp_path):
    (tmp_path / "broken").mkdir()
    for path in sets[0].iterdir():
        (tmp_path / "broken" / path.name).write_bytes(path.read_bytes() if path.stem != "009" else b"text")
    said = start(tmp_path, 2, images=str(tmp_path / "broken"), reference=str(sets[1])).said()
    assert said[0] == "RankFailed: rank 1 failed; it reports the reason"
    assert "DataError" in said[1] and "009.png: cannot be scored" in said[1]


def test_if_the_main_rank_is_killed_the_others_end_and_report_it(sets, tmp_path):
    options = {"images": str(sets[0]), "reference": str(sets[1]), "keep_features": tmp_path / "kept"}
    ranks = start(tmp_path, 2, stuck=(0, 3), **options)
    while not list((tmp_path / "kept").glob("*/features-*")):
        assert all(process.is_alive() for process in ranks.processes), ranks.said()
        time.sleep(0.01)
    ranks.processes[0].kill()
    assert "HditError: another rank is gone" in ranks.said()[1]


def test_a_stream_is_refused_on_several_ranks(sets):
    with pytest.raises(
        UsageError, match="-: a stream can be read by one process only, got 2 ranks; start one, or pass a file"
    ):
        score(ScoreSettings("-", str(sets[1])), world=World(0, 2, 0))
