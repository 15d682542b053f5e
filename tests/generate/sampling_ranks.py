"""`hdit sample` in processes that can be killed: forked from one that has imported everything, so that many can."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from hdit_cli.main import main
from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.recipe.read import check_recipe
from tests.ports import take_port

TINIEST = {
    "model": {
        "image_size": [8, 12],
        "patch_size": 4,
        "num_classes": 3,
        "mapping_width": 16,
        "mapping_depth": 1,
        "levels": [{"depth": 1, "width": 16, "head_dim": 8, "attention": "global"}],
    },
    "train": {"num_images": 8, "batch_size": 8},
    "sample": {"steps": 2, "sampler": "dpmpp_2m_sde", "sigma_max": 10.0},
}
"""A network that draws hundreds of images a second."""


def write_network(path: Path, tables=TINIEST) -> Path:
    """Write a network with random weights as a file that `hdit sample` takes."""
    recipe = check_recipe(tables, "tiniest")
    network = HourglassTransformer(recipe.model)
    initialize(network, 3)
    torch.nn.init.normal_(network.patch_out.proj.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    write_tensors(path, network.state_dict(), recipe.model_dump_json())
    return path


def _be_rank(rank: int, size: int, port: int, arguments: list[str], log: Path) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()} if size > 1 else {})
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os._exit(main(arguments))


def begin(arguments: list[str], size: int, log: Path) -> list[int]:
    """Start the ranks of a job and return their process ids."""
    port, ranks = take_port(), []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            try:
                _be_rank(rank, size, port, arguments, log)
            finally:
                os._exit(99)
        ranks.append(child)
    return ranks


def end(ranks: list[int], after_s: float, numbers: random.Random) -> bool:
    """Kill all ranks at one moment after a time, unless they have ended; return whether one was killed.

    Raises:
        AssertionError: one ended otherwise than well or by the kill.
    """
    deadline, codes = time.monotonic() + after_s, {}
    while len(codes) < len(ranks) and time.monotonic() < deadline:
        for rank in ranks:
            if rank not in codes and (found := os.waitpid(rank, os.WNOHANG))[0]:
                codes[rank] = os.waitstatus_to_exitcode(found[1])
        time.sleep(0.001)
    left = [rank for rank in ranks if rank not in codes]
    for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: none sees another die, and fails of that
        for rank in numbers.sample(left, len(left)):
            os.kill(rank, number)
    for rank in left:
        codes[rank] = os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1])
    assert all(code in (0, -signal.SIGKILL) for code in codes.values()), codes
    return any(code != 0 for code in codes.values())


def command(network: Path, images: int | str, out: Path, batch_size: int) -> list[str]:
    """Return the arguments that generate a number of images, or those of a list such as `0-4,9`."""
    which = ["--n" if isinstance(images, int) else "--seeds", images]
    options = ["--ckpt", network, *which, "--out", out, "--batch-size", batch_size, "--seed", 11]
    return ["sample", *map(str, options), "--device", "cpu"]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of a folder, including temporary files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def survive(
    network: Path, count: int, folder: Path, size: int, batch_sizes: tuple[int, ...], kills: int, longest_s: float
) -> dict[str, object]:
    """Kill jobs at random moments until so many were, each gone on with until it ends; return what became of them.

    Every life of a job has the next batch size. A job that has ended is followed by another, in a new folder.
    """
    numbers, killed, lives, made = random.Random(size), 0, 0, []
    while killed < kills:
        out = folder / f"job-{len(made)}"
        while True:
            batch_size = batch_sizes[lives % len(batch_sizes)]
            ranks = begin(command(network, count, out, batch_size), size, folder / "log")
            lives += 1
            # past the last kill that is wanted a job may end as it likes
            if not end(ranks, numbers.uniform(0.02, 1) * longest_s if killed < kills else 600, numbers):
                break
            killed += 1
        made.append(contents(out))
    return {"kills": killed, "jobs": len(made), "contents": made}
