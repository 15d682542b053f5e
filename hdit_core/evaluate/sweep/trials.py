"""The weights that a sweep tries: those of one checkpoint, and averages made of the run's snapshots."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch

from hdit_core.checkpoint.denoiser import load_denoiser
from hdit_core.checkpoint.ema.post_hoc import build_post_hoc_ema
from hdit_core.checkpoint.ema.snapshots import find_post_hoc_ema, parse_ema_std, part_name, post_hoc_file
from hdit_core.checkpoint.load import Checkpoint
from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import CheckpointError
from hdit_core.evaluate.extractors.extractor import Extractor, Say
from hdit_core.evaluate.features.cache import FeatureCache
from hdit_core.evaluate.features.gather import FeatureGather
from hdit_core.evaluate.features.measure import Measurement, assist, measure
from hdit_core.evaluate.generated import Labels, generated_images
from hdit_core.evaluate.metrics.frechet_distance import FrechetTarget
from hdit_core.evaluate.metrics.jackknife import NUM_BLOCKS, without_each_block
from hdit_core.evaluate.metrics.statistics import Statistics
from hdit_core.evaluate.sweep.journal import Trial
from hdit_core.evaluate.sweep.search_space import Point
from hdit_core.generate.settings import sample_settings, with_sample


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
                find_post_hoc_ema(self._run, length := parse_ema_std(name))
            except CheckpointError:
                say(f"making the average of length {name} of the run's snapshots")
                build_post_hoc_ema(self._run, length)

    def place(self, name: str) -> tuple[Path, str]:
        """Return the path and the name by which `load_denoiser` finds the weights."""
        if self._is_part(name):
            return self._checkpoint.folder, name
        return post_hoc_file(self._run, parse_ema_std(name)), "ema"

    def load(self, name: str) -> tuple[Denoiser, str]:
        """Return the denoiser with the weights of a name, and where they lie."""
        path, weights = self.place(name)
        return load_denoiser(path, weights, self._device), str(path)

    def _is_part(self, name: str) -> bool:
        return (self._checkpoint.folder / f"{part_name(name)}.safetensors").exists() or name in ("ema", "model")


OnImages = Callable[[Point, int, int], None]
"""Told of a point, how many of its images are done, and of how many."""


class Trials:
    """Scores points against one reference; all ranks call the same methods, the main one gets the numbers."""

    def __init__(
        self,
        load: Callable[[str], tuple[Denoiser, str]],
        reference: Measurement,
        extractor: Extractor,
        features: Path,
        *,
        seed: int,
        labels: Labels,
        batch_size: int | None,
        gather: FeatureGather,
        on_images: OnImages,
    ) -> None:
        """Prepare.

        Args:
            load: returns the denoiser with the weights of a name, and where it was loaded from.
            reference: what the images are compared with.
            extractor: the feature network.
            features: folder in which features are kept, for the next round and after a kill.
            seed: of the images, the same for every point: image i begins with the same noise in all of them.
            labels: classes of the images.
            batch_size: images at once in the feature network; None: what suits it.
            gather: between the ranks.
            on_images: told how far a point is.
        """
        self._load, self._extractor, self._features = load, extractor, features
        self._seed, self._labels, self._batch_size, self._on_images = seed, labels, batch_size, on_images
        self._relay = gather
        self._counts = reference.source.get("class_counts")
        self._target = FrechetTarget(reference.statistics) if gather.world.is_main else None
        self._loaded: tuple[str, Denoiser, str] | None = None

    def run(self, point: Point, n: int) -> Trial | None:
        """Return the distance of a point's first n images; None on all ranks but the main one."""
        images = self._images(point, n)
        store = FeatureCache(self._features, images, self._extractor, leads=self._relay.world.is_main)
        if not self._relay.world.is_main:
            assist(images, self._extractor, self._batch_size, store=store, gather=self._relay)
            return None
        measured = measure(
            images,
            self._extractor,
            self._batch_size,
            partial(_tell, self._on_images, point, n),
            num_blocks=NUM_BLOCKS,
            store=store,
            gather=self._relay,
        )
        return self._judge(point, measured.statistics)

    def _images(self, point: Point, n: int) -> ImageSet:
        denoiser, path = self._denoiser(point.weights)
        drawn = with_sample(denoiser, sample_settings(denoiser.recipe, **point.sample))
        return generated_images(drawn, path, n, self._seed, self._labels, self._counts)

    def _denoiser(self, weights: str) -> tuple[Denoiser, str]:
        if self._loaded is None or self._loaded[0] != weights:
            self._loaded = None  # the one goes before the other comes
            self._loaded = weights, *self._load(weights)
        return self._loaded[1:]

    def _judge(self, point: Point, statistics: Statistics) -> Trial:
        """Return the distance with its standard error by the jackknife over blocks of images."""
        assert self._target is not None and statistics.n is not None  # this is the main rank, and it has counted
        value = self._target.distance(statistics).value
        found = without_each_block(value, statistics, self._target.quick_distance)
        return Trial(point, statistics.n, value, found.standard_error)


def _tell(on_images: OnImages, point: Point, n: int, done: int, _: int | None) -> None:
    on_images(point, done, n)
