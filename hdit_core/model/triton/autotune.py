"""The fastest configuration of a kernel on the GPU at hand, timed once and kept in hdit's cache between runs."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
import triton

from hdit_core.files import cache_folder, write_atomic
from hdit_core.model.triton.configuration import Configuration, configurations
from hdit_core.model.triton.launch import Launch

FEWEST_TOKENS = 1 << 14  # of all images and heads; less says little of a GPU's speed
RUNS = 5


class Autotuner:
    """Remembers what was fastest, in memory and in a file."""

    def __init__(self, path: Path) -> None:
        """Read what earlier runs found; a file that is not theirs counts as none."""
        self._path = path
        self._fastest: dict[str, str] = self._read()

    def fastest(
        self, key: str, candidates: Sequence[Configuration], seconds: Callable[[Configuration], float]
    ) -> Configuration:
        """Return the fastest candidate, timed where the key is new; one that fails is passed over."""
        by_name = {str(candidate): candidate for candidate in candidates}
        if self._fastest.get(key) not in by_name:
            self._fastest[key] = min(by_name, key=lambda name: _seconds(seconds, by_name[name]))
            self._write()
        return by_name[self._fastest[key]]

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return {key: str(name) for key, name in found.items()} if isinstance(found, dict) else {}

    def _write(self) -> None:
        """Add to the file what is new; without a place for it, each run times anew."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, json.dumps(self._read() | self._fastest, indent=1))
        except OSError:
            return


def _seconds(seconds: Callable[[Configuration], float], candidate: Configuration) -> float:
    try:
        return seconds(candidate)
    except Exception:  # too much shared memory for this GPU, for one
        return float("inf")


def select(launch: Launch) -> Configuration:
    """Return the configuration for a launch: the fastest known, or the first of them where nothing may be timed.

    Nothing is timed for small tensors, while a CUDA graph is recorded, and where torch is told to be deterministic:
    configurations add up in other orders.
    """
    q = launch.tensors[0]
    candidates = configurations(launch.kernel, q.dtype, q.shape[-1])
    few = q.numel() // max(q.shape[-1], 1) < FEWEST_TOKENS
    if not q.is_cuda or few or len(candidates) == 1 or torch.are_deterministic_algorithms_enabled():
        return candidates[0]
    if torch.cuda.is_current_stream_capturing():
        return candidates[0]
    key = f"{launch.kernel} {q.dtype} {tuple(q.shape[1:])} kernel {launch.kernel_size}"
    return _autotuner(torch.cuda.get_device_name(q.device)).fastest(key, candidates, lambda c: _time_s(launch, c))


@lru_cache
def _autotuner(device_name: str) -> Autotuner:
    kernels = Path(__file__).with_name("kernels.py").read_bytes()
    version = hashlib.sha256(kernels + f"{device_name} {triton.__version__}".encode()).hexdigest()[:16]
    return Autotuner(cache_folder() / "triton" / f"{version}.json")


def _time_s(launch: Launch, configuration: Configuration) -> float:
    """Return the seconds of one run, compiled and warm."""
    launch.run(configuration)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(RUNS):
        launch.run(configuration)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / RUNS
