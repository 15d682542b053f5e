"""Selects the fastest configuration of a kernel on this GPU, timed once and stored in hdit's cache folder."""

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

MIN_TOKENS = 1 << 14  # of all images and heads; timings of smaller tensors are not representative
RUNS = 5


class Autotuner:
    """Stores the fastest configurations in memory and in a JSON file."""

    def __init__(self, path: Path) -> None:
        """Read the results of earlier runs; a missing or invalid file is treated as empty."""
        self._path = path
        self._fastest: dict[str, str] = self._read()

    def fastest(
        self, key: str, candidates: Sequence[Configuration], seconds: Callable[[Configuration], float]
    ) -> Configuration:
        """Return the fastest candidate for a key, timing all candidates if the key is new; those that fail are skipped.

        Args:
            key: identifies kernel, dtype and shapes.
            candidates: configurations to compare.
            seconds: times one candidate.
        """
        by_name = {str(candidate): candidate for candidate in candidates}
        if self._fastest.get(key) not in by_name:
            self._fastest[key] = min(by_name, key=lambda name: _seconds(seconds, by_name[name]))
            self._write()
        return by_name[self._fastest[key]]

    def _read(self) -> dict[str, str]:
        try:
            stored = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return {key: str(name) for key, name in stored.items()} if isinstance(stored, dict) else {}

    def _write(self) -> None:
        """Add new results to the file; if it cannot be written, every run times again."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, json.dumps(self._read() | self._fastest, indent=1))
        except OSError:
            return


def _seconds(seconds: Callable[[Configuration], float], candidate: Configuration) -> float:
    try:
        return seconds(candidate)
    except Exception:  # for example, too much shared memory for this GPU
        return float("inf")


def select(launch: Launch) -> Configuration:
    """Return the fastest known configuration for a launch, or the first candidate if nothing may be timed.

    Nothing is timed for small tensors, during CUDA graph capture, or with deterministic algorithms, since
    configurations differ in their order of summation.
    """
    q = launch.tensors[0]
    candidates = configurations(launch.kernel, q.dtype, q.shape[-1])
    is_small = q.numel() // max(q.shape[-1], 1) < MIN_TOKENS
    if not q.is_cuda or is_small or len(candidates) == 1 or torch.are_deterministic_algorithms_enabled():
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
    """Return the duration of one run in seconds, after compilation and warm-up."""
    launch.run(configuration)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(RUNS):
        launch.run(configuration)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / RUNS
