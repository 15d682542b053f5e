"""A rank of several, as a child process, that sends features to the main one and counts the chunks it holds."""

import json
import os
import time
import weakref
from pathlib import Path

import numpy as np
import torch

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.distributed import init_ranks
from hdit_core.evaluate import feature_batch as chunks
from hdit_core.evaluate.extractors.extractor import Extractor
from hdit_core.evaluate.features import gather as gathering
from hdit_core.evaluate.features.measure import measure

IMAGES_PER_CHUNK = 8


class Living:
    """Counts the chunks and packed chunks that exist, and their maximum."""

    def __init__(self) -> None:
        self.now = self.most = 0
        pack, init = gathering._pack, chunks.FeatureBatch.__init__
        gathering._pack = lambda chunk: self._note(pack(chunk))
        chunks.FeatureBatch.__init__ = lambda chunk, *content: init(self._note(chunk), *content)

    def _note(self, held):
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(held, self._gone)
        return held

    def _gone(self) -> None:
        self.now -= 1


def pictures(count: int) -> ImageSet:
    """Return a set of small pictures that cost nothing."""

    def read(place):
        return np.random.default_rng(place).integers(0, 256, (6, 9, 3)).astype(np.uint8)

    return ImageSet({"path": "x"}, count, lambda places: ((lambda p=p: read(p)) for p in places), "x")


def work(environment: dict[str, str], out: str, num_chunks: int) -> None:
    """Take part in measuring so many chunks, and write the maximum number of chunks that existed to `out`."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    chunks.IMAGES_PER_CHUNK = IMAGES_PER_CHUNK
    living, world = Living(), init_ranks("cpu")

    def network(levels):
        time.sleep(0.005 if world.is_main else 0)  # the others could run ahead of it
        return levels.flatten(1)[:, :5]

    toy = Extractor("toy", "fd-toy", "kd-toy", 5, 8, IMAGES_PER_CHUNK, "0" * 64, network, torch.device("cpu"))
    n = num_chunks * IMAGES_PER_CHUNK
    measured = measure(pictures(n), toy, gather=gathering.FeatureGather(world, toy.num_features))
    assert measured.statistics.n == n if world.is_main else measured is None
    Path(out).write_text(json.dumps(living.most))
    world.destroy_ranks()
