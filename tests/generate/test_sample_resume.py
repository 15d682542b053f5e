"""A sampling job that dies anywhere resumes to the same bytes; nothing leaves its folder; streams need little memory.

The long form is tests/endurance/test_sample_kills.py.
"""

import json
import os
import random
import stat
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.checkpoint import load_denoiser
from hdit_core.distributed import World
from hdit_core.errors import UsageError
from hdit_core.generate.job import SamplingJob, fill_folder
from hdit_core.generate.output.archives import SampleTar
from hdit_core.generate.output.sample_folder import SampleFolder
from hdit_core.generate.pipeline import Samples, SamplingPipeline
from tests.generate.sampling_ranks import TINIEST, begin, command, contents, end, survive, write_network

COUNT = 40


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("network") / "tiniest.safetensors")


def undisturbed(network, folder, size=1, batch_size=16):
    assert not end(
        begin(command(network, COUNT, folder / "out", batch_size), size, folder / "log"), 60, random.Random(0)
    )
    return contents(folder / "out")


@pytest.mark.parametrize(("size", "kills"), [(1, 6), (2, 3)])
def test_a_job_killed_at_random_moments_gives_the_same_folder(network, tmp_path, size, kills):
    (tmp_path / "alone").mkdir()
    expected = undisturbed(network, tmp_path / "alone")
    assert len(expected) == COUNT + 1  # and the record
    found = survive(network, COUNT, tmp_path, size, (1, 7, 16), kills, longest_s=0.4)
    assert all(made == expected for made in found["contents"]) and found["kills"] == kills


def die_at(step, run):
    """Run in a child that dies before its n-th operation that changes files; did it?"""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(real):
            def call(*args, **options):
                nonlocal count
                count += 1
                if count == step:
                    os._exit(9)
                return real(*args, **options)

            return call

        os.fsync, os.open, os.sync = counted(os.fsync), counted(os.open), counted(os.sync)
        Path.replace, Path.unlink, Path.mkdir = counted(Path.replace), counted(Path.unlink), counted(Path.mkdir)
        Path.write_bytes = counted(Path.write_bytes)
        try:
            run()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.slow
def test_a_job_killed_before_any_file_operation_gives_the_same_folder(network, tmp_path):
    denoiser = load_denoiser(network)

    def run(out):
        settings = denoiser.recipe.sample.model_copy(update={"batch_size": 2})
        job = SamplingJob(SamplingPipeline(denoiser, settings, 11, (8, 12)), range(4))
        folder = SampleFolder(out, job.provenance(), job.shape)
        folder.begin()
        folder.finish(fill_folder(job, folder, World(), lambda done: None), job.class_of)

    run(tmp_path / "alone")
    expected, steps = contents(tmp_path / "alone"), 0
    assert len(expected) == 5  # four images and samples.json; the grid is next to the folder
    while die_at(steps + 1, partial(run, tmp_path / f"out{steps}")):
        run(tmp_path / f"out{steps}")
        assert contents(tmp_path / f"out{steps}") == expected, steps
        steps += 1
    assert steps > 20


def members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_the_tars_of_all_ranks_contain_the_images_of_one_process(network, tmp_path):
    numbers = random.Random(0)
    assert not end(begin(command(network, 7, tmp_path / "x.tar", 2), 1, tmp_path / "log"), 60, numbers)
    assert not end(begin(command(network, 7, tmp_path / "x.tar", 2), 2, tmp_path / "log"), 60, numbers)
    parts = [members(tmp_path / f"x-0000{rank}-of-00002.tar") for rank in (0, 1)]
    assert parts[0] | parts[1] == members(tmp_path / "x.tar") and not parts[0].keys() & parts[1].keys()
    assert [name for name in parts[1] if name.endswith(".png")] == ["000000001.png", "000000003.png", "000000005.png"]
    assert "num_images  7" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.npz", "several ranks write into a folder, or one .tar each"),
        ("x.tar", "x-00001-of-00002.tar: already exists and is never replaced"),
    ],
)
def test_if_a_rank_cannot_write_all_end_and_leave_nothing(network, tmp_path, name, message):
    (tmp_path / "x-00001-of-00002.tar").touch()
    with pytest.raises(AssertionError, match=r"\{[0-9]+: [12], [0-9]+: [12]\}"):
        end(begin(command(network, 7, tmp_path / name, 2), 2, tmp_path / "log"), 60, random.Random(0))
    assert message in (tmp_path / "log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "x-00001-of-00002.tar"]


def folder_of(path):
    samples = SampleFolder(path, {"seed": 3, "settings": {}}, (8, 12, 3))
    samples.begin()
    return samples


def batch(numbers):
    return Samples(list(numbers), None, torch.zeros(len(numbers), 3, 8, 12))


def test_links_in_the_folder_are_replaced_and_never_written_through(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("years of work")
    samples = folder_of(tmp_path / "out")
    for name in ("00000000.png", f".tmp-00000001.png-{os.getpid()}", f".tmp-samples.json-{os.getpid()}"):
        (tmp_path / "out" / name).symlink_to(precious)
    for path in (tmp_path / "out" / "grid.png", tmp_path / "out-grid.png"):
        path.symlink_to(precious)
    samples.write(batch([0, 1]))
    samples.finish([0, 1], lambda number: None)
    assert precious.read_text() == "years of work"
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if not path.is_symlink()) == [
        "00000000.png",
        "00000001.png",
        "samples.json",
    ]


def test_links_pipes_and_oversized_files_are_no_images(tmp_path):
    samples = folder_of(tmp_path / "out")
    samples.write(batch(range(4)))
    good = samples.path(0).rename(tmp_path / "good.png")
    samples.path(0).symlink_to(good)
    samples.path(1).unlink()
    os.mkfifo(samples.path(1))
    with samples.path(2).open("ab") as file:
        file.truncate(1 << 40)  # a terabyte of nothing, which takes no room
    assert samples.missing(range(4)) == [0, 1, 2]
    assert not samples.holds(0) and samples.holds(3)


def test_the_folder_may_be_a_link_to_a_folder_and_a_broken_link_is_refused(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "scratch")
    folder_of(tmp_path / "out").write(batch([0]))
    assert stat.S_ISREG((tmp_path / "scratch" / "00000000.png").lstat().st_mode)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="File exists"):
        folder_of(tmp_path / "broken")
    assert not (tmp_path / "nowhere").exists()


def test_a_stream_replaces_no_link(tmp_path):
    (tmp_path / "x.tar").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"x.tar: already exists and is never replaced"):
        SampleTar(tmp_path / "x.tar")


def test_a_job_killed_at_its_start_is_restarted(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".tmp-samples.json-77").write_text("{")
    folder_of(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["status"] == "unfinished"


def held_bytes(process):
    """Return the memory that a process has for itself; how much of its programs is loaded is the system's affair."""
    (line,) = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_stream_of_a_thousand_images_takes_no_more_memory_than_one_of_a_hundred(tmp_path):
    model = TINIEST["model"] | {"image_size": [96, 128], "patch_size": 32}
    network = write_network(tmp_path / "large.safetensors", TINIEST | {"model": model, "sample": {"steps": 1}})
    arguments = ["sample", "--ckpt", network, "--n", "1000", "--sampler", "euler", "--out", "-", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hdit_cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    sizes, last = {"early": [], "late": []}, 0
    with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
        for member in tar:
            if member.name.endswith(".png"):
                last = int(member.name[:9])
                if last // 40 in (2, 24):  # the smallest of many: freed memory is not returned at once
                    sizes["early" if last < 500 else "late"].append(held_bytes(process.pid))
                    assert np.asarray(Image.open(tar.extractfile(member))).shape == (96, 128, 3)
    process.stdout.close()
    assert process.wait() == 0 and last == 999
    held = 840 * 96 * 128 * 3  # bytes that it would take to keep what is drawn
    assert min(sizes["late"]) - min(sizes["early"]) < held / 4, sizes
