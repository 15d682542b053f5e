"""The models of a page: those that its command names, with their checkpoints and weights, opened when they are used."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hdit_core.checkpoint.ema.snapshots import parse_ema_std
from hdit_core.checkpoint.layout import checkpoint_folders, checkpoint_step, ema_folder, local_model, recipe_file
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import UsageError
from hdit_core.generate.export.training_record import class_names
from hdit_core.generate.settings import open_denoiser
from hdit_core.recipe.run import Recipe

MOST_OPEN = 2  # models in memory at once: those of a comparison
EMA_FILE = re.compile(r"(?:ema|post-hoc)-(0\.[0-9]{3})\.safetensors")


@dataclass(frozen=True)
class PlayModel:
    """A model that visitors can choose.

    Attributes:
        name: shown to visitors.
        path: as `load_denoiser` takes it.
    """

    name: str
    path: str

    @property
    def folder(self) -> Path:
        """The run, checkpoint, exported folder or file on this machine."""
        return local_model(Path(self.path))


def weights_of(path: Path) -> list[str]:
    """Return the kinds of weights of a run or a checkpoint; empty for exports and files, which have one kind."""
    is_checkpoint = (path / "manifest.json").is_file()
    newest = [path] if is_checkpoint else checkpoint_folders(path)[:1]
    if not newest:
        return []
    folders = newest if is_checkpoint else [*newest, ema_folder(path)]
    names = [file.name for folder in folders if folder.is_dir() for file in folder.iterdir()]
    lengths = {match[1] for name in names if (match := EMA_FILE.fullmatch(name))}
    return ["ema", "model", *sorted(lengths)]


def check_unconditional(recipe: Recipe, path: str) -> None:
    """Refuse a network that takes condition images or vectors.

    Raises:
        UsageError: naming the commands that have them.
    """
    wanted = [("condition images", recipe.condition_image_channels), ("vectors", recipe.model.mapping_cond_dim)]
    if taken := [what for what, length in wanted if length]:
        raise UsageError(
            f"{path}: the network takes {' and '.join(taken)}, which the page cannot give; use hdit restore, or "
            "hdit sample with --condition and --vectors"
        )


class Models:
    """The models of a page; at most two are in memory.

    Args:
        paths: as `load_denoiser` takes them; the first one is the page's main model.
        weights: of the main model by default; None for the run's.
        device: of all networks.
    """

    def __init__(self, paths: Sequence[str], weights: str | None, device: torch.device) -> None:
        self._paths, self._device = list(dict.fromkeys(paths)), device
        self._open: OrderedDict[tuple[str, str | None, str], Denoiser] = OrderedDict()
        self._class_names: dict[str, tuple[str, ...]] = {}
        self.main = self.open_main(weights)
        self.main_weights = weights or self.main.source.weights or "ema"

    @property
    def main_path(self) -> str:
        """The path of the main model."""
        return self._paths[0]

    @property
    def run(self) -> Path | None:
        """The folder of the main model if it is a run."""
        folder = local_model(Path(self._paths[0]))
        return folder if recipe_file(folder).is_file() and (folder / "checkpoints").is_dir() else None

    def listed(self) -> list[PlayModel]:
        """Return the models that visitors can choose now: those of the command, and the checkpoints of runs."""
        models = []
        for path, name in zip(self._paths, _short_names(self._paths), strict=True):
            models.append(PlayModel(name, path))
            for folder in checkpoint_folders(local_model(Path(path)))[1:]:  # the newest is that of the run
                models.append(PlayModel(f"{name}, step {checkpoint_step(folder):,}", str(folder)))
        return models

    def open_main(self, weights: str | None) -> Denoiser:
        """Return the main model, as `open` does."""
        return self.open(self.names()[0], weights)

    def names(self) -> list[str]:
        """Return the names of the models, the main one first."""
        return [model.name for model in self.listed()]

    def weights(self, name: str) -> list[str]:
        """Return the kinds of weights that a model has; empty if it has one kind only."""
        return weights_of(self.named(name).folder)

    def class_names(self, name: str | None = None) -> tuple[str, ...]:
        """Return the names of the classes of a model that was opened, in index order; empty if they are unknown.

        Args:
            name: of the model; None for the main one.
        """
        return self._class_names.get(self.main_path if name is None else self.named(name).path, ())

    def named(self, name: str) -> PlayModel:
        """Return the model of a name.

        Raises:
            UsageError: there is none, such as a checkpoint that the run removed meanwhile.
        """
        for model in self.listed():
            if model.name == name:
                return model
        raise UsageError(f"model {name}: there is no such model now; reload the page to see those that there are")

    def open(self, name: str, weights: str | None) -> Denoiser:
        """Return a model; of a run, its newest checkpoint.

        Raises:
            UsageError: there is no such model, it has no such weights, or it takes conditions.
            CheckpointError: it cannot be read.
        """
        model = self.named(name)
        if weights not in (None, "ema", "model"):
            parse_ema_std(str(weights))
        newest = checkpoint_folders(model.folder)[:1]
        key = (model.path, weights, newest[0].name if newest else "")
        if key not in self._open:
            denoiser, _ = open_denoiser(model.path, weights, self._device)
            check_unconditional(denoiser.recipe, model.path)
            self._open[key] = denoiser
            self._class_names[model.path] = class_names(Path(model.path), denoiser.recipe)
        self._open.move_to_end(key)
        while len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)
        return self._open[key]


def _short_names(paths: Sequence[str]) -> list[str]:
    """Return the last component of each path, or the whole path where that would be ambiguous."""
    short = [Path(path).resolve().name if "://" not in path else path for path in paths]
    return [path if short.count(name) > 1 else name for path, name in zip(paths, short, strict=True)]
