"""Runs that are killed at random moments until they are finished, and a hash of their results."""

import contextlib
import hashlib
import json
import os
import signal

from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.log import read_log
from hdit_core.checkpoint.safetensors_file import bytes_of

KILLED = -signal.SIGKILL


def final_hash(run):
    """Return one sha256 over weights, average, optimizer, place in the data, and losses and rates in the log."""
    checkpoint, complaints = newest_checkpoint(run)
    assert checkpoint is not None and not complaints
    sha256 = hashlib.sha256(repr((checkpoint.state.step, checkpoint.state.num_images)).encode())
    for part in ("model", "ema", "optimizer"):
        for name, tensor in sorted(checkpoint.tensors(part).items()):
            sha256.update(f"{part} {name} {tensor.dtype} {tuple(tensor.shape)}".encode() + bytes_of(tensor))
    for line in read_log(run):
        sha256.update(json.dumps([line[key] for key in ("step", "num_images", "loss", "grad_norm", "lr")]).encode())
    return sha256.hexdigest()


def kill(pid, *, group):
    """Kill a process, or its process group, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL) if group else os.kill(pid, signal.SIGKILL)


def train_under_fire(nursery, recipe_file, run, random, longest_s, writer="ours"):
    """Train a run, killing it after random times and beginning again, until it ends by itself.

    With every kill the longest time grows, so that a machine that has become slow comes to an end too.

    Returns:
        How often it was killed, and its last exit code: 0, or 1 where it could not go on.
    """
    kills = 0
    while True:
        pid = nursery.begin(recipe_file, run, writer)
        code = nursery.wait(random.uniform(0.05, longest_s * 1.1**kills))
        if code is None:
            kill(pid, group=random.random() < 0.5)
            code = nursery.wait()
            kill(pid, group=True)  # its readers
        if code != KILLED:
            return kills, code
        kills += 1


def kill_in_a_save(nursery, recipe_file, run, writer="ours"):
    """Begin a run and kill it when it has begun to write a checkpoint; a busy machine may be late."""
    pid, code = nursery.begin(recipe_file, run, writer), None
    while code is None and not list((run / "checkpoints").glob(".tmp-*")):
        code = nursery.wait(0.001)
    if code is None:
        kill(pid, group=True)
        nursery.wait()
