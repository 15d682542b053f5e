"""Points of a sweep, scored one after the other: what they have in common is opened once."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from hdit_core.diffusion.precondition import Denoiser
from hdit_core.evaluate.distance import FrechetTarget
from hdit_core.evaluate.extractor import Extractor
from hdit_core.evaluate.featurestore import FeatureStore
from hdit_core.evaluate.generated import Labels, generated_images
from hdit_core.evaluate.imageset import ImageSet
from hdit_core.evaluate.interval import NUM_BLOCKS, without_each_block
from hdit_core.evaluate.measure import Measurement, assist, measure
from hdit_core.evaluate.relay import Relay
from hdit_core.evaluate.statistics import Statistics
from hdit_core.evaluate.sweepgrid import Point
from hdit_core.evaluate.sweepjournal import Trial
from hdit_core.generate.defaults import with_sample
from hdit_core.generate.settings import sample_settings

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
        relay: Relay,
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
            relay: between the ranks.
            on_images: told how far a point is.
        """
        self._load, self._extractor, self._features = load, extractor, features
        self._seed, self._labels, self._batch_size, self._on_images = seed, labels, batch_size, on_images
        self._relay = relay
        self._counts = reference.source.get("class_counts")
        self._target = FrechetTarget(reference.statistics) if relay.world.is_main else None
        self._loaded: tuple[str, Denoiser, str] | None = None

    def run(self, point: Point, n: int) -> Trial | None:
        """Return the distance of a point's first n images; None on all ranks but the main one."""
        images = self._images(point, n)
        store = FeatureStore(self._features, images, self._extractor, leads=self._relay.world.is_main)
        if not self._relay.world.is_main:
            assist(images, self._extractor, self._batch_size, store=store, relay=self._relay)
            return None
        measured = measure(
            images,
            self._extractor,
            self._batch_size,
            partial(_tell, self._on_images, point, n),
            num_blocks=NUM_BLOCKS,
            store=store,
            relay=self._relay,
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
