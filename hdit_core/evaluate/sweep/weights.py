"""The weights that a sweep tries: those of one checkpoint, and EMA weights reconstructed from the run's snapshots."""

import logging
from collections.abc import Iterable
from pathlib import Path

import torch

from hdit_core.checkpoint.denoiser import load_denoiser
from hdit_core.checkpoint.ema.post_hoc import build_post_hoc_ema, plan_post_hoc_ema
from hdit_core.checkpoint.ema.snapshots import find_post_hoc_ema, parse_ema_std, part_name, post_hoc_file
from hdit_core.checkpoint.load import Checkpoint
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import CheckpointError

logger = logging.getLogger("hdit")


class SweepWeights:
    """Finds weights by name, always of the same checkpoint, even if the run continues meanwhile."""

    def __init__(self, run: Path, checkpoint: Checkpoint, device: torch.device) -> None:
        self._run, self._checkpoint, self._device = run, checkpoint, device
        self._loaded: tuple[str, Denoiser] | None = None

    def prepare(self, names: Iterable[str]) -> None:
        """Reconstruct the EMA weights that do not exist yet; the main rank does this before any are loaded.

        Raises:
            UsageError: a name is neither of a checkpoint's weights nor an EMA length, or the snapshots do not allow it.
            CheckpointError: the run has no snapshots.
        """
        missing = [name for name in sorted(names) if not self._is_part(name) and not self._is_reconstructed(name)]
        for name in missing:
            plan_post_hoc_ema(self._run, parse_ema_std(name))  # refuse all of them before writing any
        for name in missing:
            logger.info(f"reconstructing EMA weights of length {name} from the run's snapshots")
            build_post_hoc_ema(self._run, parse_ema_std(name))

    def locate(self, name: str) -> tuple[Path, str]:
        """Return the path and the name by which `load_denoiser` finds the weights."""
        if self._is_part(name):
            return self._checkpoint.folder, name
        return post_hoc_file(self._run, parse_ema_std(name)), name

    def load(self, name: str) -> Denoiser:
        """Return the denoiser with these weights; the last one is kept."""
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # frees its memory before the next one is loaded
            path, weights = self.locate(name)
            self._loaded = name, load_denoiser(path, weights, self._device)
        return self._loaded[1]

    def _is_reconstructed(self, name: str) -> bool:
        try:
            find_post_hoc_ema(self._run, parse_ema_std(name))
        except CheckpointError:
            return False
        return True

    def _is_part(self, name: str) -> bool:
        return (self._checkpoint.folder / f"{part_name(name)}.safetensors").exists() or name in ("ema", "model")
