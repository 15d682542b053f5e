"""The weights that a sweep tries: those of one checkpoint, and averages made of the run's snapshots."""

from collections.abc import Iterable
from pathlib import Path

import torch

from hdit_core.checkpoint.averages import made_average, part_name, post_hoc_file, read_length
from hdit_core.checkpoint.denoiser import load_denoiser
from hdit_core.checkpoint.load import Checkpoint
from hdit_core.checkpoint.posthoc import build_average
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import CheckpointError
from hdit_core.evaluate.extractor import Say


class SweepWeights:
    """Finds the weights of a name, always of the same checkpoint, though the run may go on meanwhile."""

    def __init__(self, run: Path, checkpoint: Checkpoint, device: torch.device) -> None:
        self._run, self._checkpoint, self._device = run, checkpoint, device

    def prepare(self, names: Iterable[str], say: Say) -> None:
        """Make the averages that are missing; the main rank does, before any is loaded.

        Raises:
            UsageError: a name is neither of a checkpoint's weights nor a length, or the snapshots cannot give it.
            CheckpointError: the run has no snapshots to make one of.
        """
        for name in sorted(names):
            if self._is_part(name):
                continue
            try:
                made_average(self._run, length := read_length(name))
            except CheckpointError:
                say(f"making the average of length {name} of the run's snapshots")
                build_average(self._run, length)

    def place(self, name: str) -> tuple[Path, str]:
        """Return the path and the name by which `load_denoiser` finds the weights."""
        if self._is_part(name):
            return self._checkpoint.folder, name
        return post_hoc_file(self._run, read_length(name)), "ema"

    def load(self, name: str) -> tuple[Denoiser, str]:
        """Return the denoiser with the weights of a name, and where they lie."""
        path, weights = self.place(name)
        return load_denoiser(path, weights, self._device), str(path)

    def _is_part(self, name: str) -> bool:
        return (self._checkpoint.folder / f"{part_name(name)}.safetensors").exists() or name in ("ema", "model")
