"""A folder of restored images resumes, names its inputs, and is the same for any number of ranks."""

import io
import json
import sys
import tarfile
import types

import numpy as np
import pytest

from hdit_core.distributed import World
from hdit_core.errors import UsageError
from hdit_core.generate.condition.inputs import open_inputs
from hdit_core.generate.restore.job import RestoreJob
from hdit_core.generate.restore.restore import restore_inputs, share_of
from hdit_core.generate.restore.restored_folder import RestoredFolder
from tests.generate.restore.restoring import ALONE, COLOR, all_pixels, job_of, restore


def test_an_interrupted_job_resumes_and_restores_changed_inputs_again(network, pictures, tmp_path, monkeypatch):
    pictures("in", ["a.png", "b.png", "c.png", "d.png", "e.png"])
    path, out = network(), tmp_path / "out"
    restore(job_of(path), tmp_path / "in", out)
    before = all_pixels(out)
    (out / "a.png").unlink()
    (out / "b.png").write_bytes((out / "b.png").read_bytes()[:-20])
    pictures("in", ["c.png"], seed=9)
    drawn = []
    monkeypatch.setattr(RestoreJob, "restore", _counting(RestoreJob.restore, drawn))
    record = restore(job_of(path), tmp_path / "in", out)
    after = all_pixels(out)
    assert sorted(drawn) == ["a.png", "b.png", "c.png"] and record["num_images"] == 5
    assert [name for name in before if not np.array_equal(before[name], after[name])] == ["c.png"]


def _counting(draw, drawn):
    def counted(job, batch):
        drawn.extend(each.name for each in batch)
        return draw(job, batch)

    return counted


def test_a_folder_of_other_settings_or_other_files_is_refused(network, pictures, tmp_path):
    pictures("in", ["a.png"])
    restore(job_of(network()), tmp_path / "in", tmp_path / "out")
    with pytest.raises(
        UsageError, match=r"/out: contains images with other settings .*: steps 3 -> 2\. Choose another"
    ):
        restore(job_of(network(), steps=2), tmp_path / "in", tmp_path / "out")
    with pytest.raises(UsageError, match="/in: exists and is not a folder of restored images"):
        restore(job_of(network()), tmp_path / "in", tmp_path / "in")


def test_the_record_names_the_inputs_with_a_hash_that_follows_their_content(network, pictures, tmp_path):
    pictures("in", ["a.png", "b.png"])
    first = restore(job_of(network()), tmp_path / "in", tmp_path / "1")["inputs"]
    again = restore(job_of(network()), tmp_path / "in", tmp_path / "2")["inputs"]
    pictures("in", ["b.png"], seed=5)
    other = restore(job_of(network()), tmp_path / "in", tmp_path / "3")["inputs"]
    assert first == again and first["sha256"] != other["sha256"] and first["path"] == str(tmp_path / "in")
    assert json.loads((tmp_path / "1" / "samples.json").read_text())["status"] == "complete"


def test_ranks_share_the_inputs_and_give_the_same_images(network, pictures, tmp_path):
    names = [f"{number}.png" for number in range(5)]
    pictures("in", names)
    path = network()
    restore(job_of(path), tmp_path / "in", tmp_path / "one")
    job = job_of(path)
    for rank in (0, 1):
        folder = RestoredFolder(tmp_path / "two", job.provenance(), COLOR, rank)
        folder.begin()
        folder.load_logs()
        done = restore_inputs(
            job, share_of(open_inputs(str(tmp_path / "in")), World(rank, 2)), folder, lambda count: None
        )
        assert done.num_images == (3, 2)[rank]
    one, two = all_pixels(tmp_path / "one"), all_pixels(tmp_path / "two")
    assert list(two) == names and all(np.array_equal(one[name], two[name]) for name in names)


def test_a_tar_on_stdin_gives_the_same_result_as_its_folder(network, pictures, tmp_path, monkeypatch):
    pictures("in", ["a.png", "deep/b.png"])
    restore(job_of(network()), tmp_path / "in", tmp_path / "folder")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("a.png", "deep/b.png"):
            archive.add(tmp_path / "in" / name, arcname=name)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    restore(job_of(network()), "-", tmp_path / "stream")
    one, two = all_pixels(tmp_path / "folder"), all_pixels(tmp_path / "stream")
    assert list(one) == list(two) and all(np.array_equal(one[name], two[name]) for name in one)


def test_images_of_other_channel_counts_are_read_from_and_written_to_arrays(network, tmp_path):
    path = network(channels=2, condition_channels=5)
    (tmp_path / "in").mkdir()
    array = np.random.default_rng(0).uniform(-1, 1, (18, 24, 5)).astype(np.float32)
    np.save(tmp_path / "in" / "a.npy", array)
    restore(job_of(path), tmp_path / "in", tmp_path / "out")
    found = np.load(tmp_path / "out" / "a.npy")
    assert found.shape == (18, 24, 2) and found.dtype == np.uint8


def test_two_inputs_of_one_name_are_found_even_on_different_ranks(network, pictures, tmp_path):
    pictures("in", ["a.bmp", "a.png", "b.png"])
    inputs = open_inputs(str(tmp_path / "in"))
    shares = [list(share_of(inputs, World(rank, 2))) for rank in (0, 1)]
    refused = [each for share in shares for each in share if isinstance(each, tuple)]
    assert refused == [("a.png", "its image would have the same name as that of a.bmp; rename one")]


def test_the_rows_of_the_grid_are_spread_over_the_inputs(network, pictures, tmp_path, monkeypatch):
    pictures("in", [f"{number:02}.png" for number in range(12)])
    job = job_of(network())
    folder = RestoredFolder(tmp_path / "out", job.provenance(), COLOR)
    folder.begin()
    share = share_of(open_inputs(str(tmp_path / "in")), ALONE)
    done = restore_inputs(job, share, folder, lambda count: None, row_every=5)
    assert [file for _, file in done.rows] == ["00.png", "05.png", "10.png"]


def test_a_folder_in_which_an_image_was_made_again_is_that_of_an_uninterrupted_job(network, pictures, tmp_path):
    pictures("in", ["a.png", "deep/b.png"])
    first = restore(job_of(network()), tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "a.png").unlink()
    (tmp_path / "out" / "deep" / ".tmp-b.png-77").write_bytes(b"of a killed job")
    assert restore(job_of(network()), tmp_path / "in", tmp_path / "out") == first
    assert [path.name for path in (tmp_path / "out" / "deep").iterdir()] == ["b.png"]


@pytest.mark.parametrize("order", [["a.png", "a.png/b.png"], ["a.png/b.png", "a.png"]])
def test_inputs_whose_outputs_no_folder_can_hold_are_skipped_and_listed(
    network, pictures, tmp_path, monkeypatch, order
):
    pictures("in", ["x.png"])
    long, content = "/".join(["d" * 150] * 22) + "/c.png", io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in (*order, long, "e.png"):
            archive.add(tmp_path / "in" / "x.png", arcname=name)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    record = restore(job_of(network()), "-", tmp_path / "out")
    assert record["num_images"] == 2 and list(record["unusable"].values()) == [
        f"its image and that of {order[0]} would need a file and a folder of one name",
        "its name has 3328 bytes; the most are 3000",
    ]
    files = [path for path in (tmp_path / "out").rglob("*.png") if path.is_file()]
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in files) == [order[0], "e.png"]
