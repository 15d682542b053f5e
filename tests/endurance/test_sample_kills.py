"""Sampling killed at random moments, in one process and in several, with any batch size: folders with the same bytes.

The short form is tests/generate/test_sample_resume.py.
"""

import random
import time

import pytest

from tests.generate.sampling_ranks import begin, command, contents, end, survive, write_network

COUNT = 2000
BATCH_SIZES = (1, 7, 16)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("network") / "tiniest.safetensors")


@pytest.fixture(scope="module")
def undisturbed(network, tmp_path_factory):
    """What is made when it is left alone, and how long that takes."""
    folder, started_at = tmp_path_factory.mktemp("alone"), time.monotonic()
    assert not end(begin(command(network, COUNT, folder / "out", 16), 1, folder / "log"), 600, random.Random(0))
    return contents(folder / "out"), time.monotonic() - started_at


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_job_killed_at_random_moments_gives_the_same_folder(network, undisturbed, tmp_path, kills, size):
    expected, elapsed_s = undisturbed
    assert len(expected) == COUNT + 1  # and the record
    found = survive(network, COUNT, tmp_path, size, BATCH_SIZES, kills, elapsed_s / 3)
    assert all(made == expected for made in found["contents"])
    print(f"{found['kills']} kills, {size} processes, batches of 1, 7 and 16: {found['jobs']} folders, the same bytes")
