"""One rank of several, as a process of its own, that sends features to the main one and counts what it holds."""

import json
import os
import time
import weakref
from pathlib import Path

import numpy as np
import torch

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.distributed import init_ranks
from hdit_core.evaluate import feature_batch as pieces
from hdit_core.evaluate.extractors.extractor import Extractor
from hdit_core.evaluate.features import gather as relay
from hdit_core.evaluate.features.measure import assist, measure

PIECE = 8


class Living:
    """Counts pieces and packed pieces that somebody holds, and the most that there ever were."""

    def __init__(self) -> None:
        self.now = self.most = 0
        pack, begin = relay._pack, pieces.FeatureBatch.__init__
        relay._pack = lambda piece: self._note(pack(piece))
        pieces.FeatureBatch.__init__ = lambda piece, *content: begin(self._note(piece), *content)

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


def work(place: dict[str, str], out: str, num_pieces: int) -> None:
    """Take part in the measuring of so many pieces, and write the most pieces that were held at once to `out`."""
    os.environ.update(place)
    torch.set_num_threads(1)
    pieces.IMAGES_PER_CHUNK = PIECE
    living, world = Living(), init_ranks("cpu")

    def network(levels):
        time.sleep(0.005 if world.is_main else 0)  # the others have time to run ahead of it, if they may
        return levels.flatten(1)[:, :5]

    toy = Extractor("toy", "fd-toy", "kd-toy", 5, 8, PIECE, "0" * 64, network, torch.device("cpu"))
    way, images = relay.FeatureGather(world, toy.num_features), pictures(num_pieces * PIECE)
    if world.is_main:
        assert measure(images, toy, gather=way).statistics.n == num_pieces * PIECE
    else:
        assist(images, toy, gather=way)
    Path(out).write_text(json.dumps(living.most))
    world.destroy_ranks()
