"""While the network works on one chunk, the next is read and resized: checked by synchronization, not by time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.evaluate import feature_batch as pieces
from hdit_core.evaluate.extractors.extractor import Extractor
from hdit_core.evaluate.features.extract import prefetched
from hdit_core.evaluate.features.measure import measure

PIECE, NUM_PIECES = 4, 5
PATIENCE_S = 60.0  # far beyond what reading four tiny images takes on any machine


class Overseen:
    """A set whose reading is noted, and a network that does not end before the piece after its own is being read."""

    def __init__(self, until: str) -> None:
        self.until = until  # what the network waits for: that an image of the next piece is "read" or "resized"
        self.reached = {stage: [threading.Event() for _ in range(NUM_PIECES + 1)] for stage in ("read", "resized")}
        for events in self.reached.values():
            events[NUM_PIECES].set()  # nothing comes after the last piece
        self.in_vain: list[int] = []

    def images(self) -> ImageSet:
        def read(place):
            self.reached["read"][place // PIECE].set()
            return np.full((6, 9, 3), place, np.uint8)

        return ImageSet({"path": "x"}, PIECE * NUM_PIECES, lambda places: ((lambda p=p: read(p)) for p in places), "x")

    def network(self, levels):
        piece = int(levels[0, 0, 0, 0]) // PIECE
        if not self.reached[self.until][piece + 1].wait(PATIENCE_S):
            self.in_vain.append(piece)
            for event in self.reached[self.until]:
                event.set()  # once is enough to know
        return levels.flatten(1)[:, :5]


@dataclass(frozen=True, kw_only=True)
class Watched(Extractor):
    """An extractor that notes what it resizes, and never moves anything to its device."""

    overseen: Overseen

    def prepare(self, image_u8):
        self.overseen.reached["resized"][int(image_u8[0, 0, 0]) // PIECE].set()
        return super().prepare(image_u8)

    def features(self, prepared):
        return Extractor.features(replace(self, device=torch.device("cpu")), prepared)


@pytest.fixture
def two_cores():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_a_finished_result_is_yielded_before_the_next_batches_are_read():
    passed_on: list[int] = []
    with ThreadPoolExecutor(1) as pool:

        def batches():
            yield 0
            pool.submit(int).result()  # the only thread is free again: the first result is ready
            yield 1
            assert passed_on == [0]

        for result in prefetched(abs, batches(), pool, workers=4):
            passed_on.append(result)
    assert passed_on == [0, 1]


@pytest.mark.parametrize("until", ["read", "resized"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_next_chunk_is_read_and_resized_while_the_network_computes(monkeypatch, two_cores, device, until):
    monkeypatch.setattr(pieces, "IMAGES_PER_CHUNK", PIECE)
    overseen = Overseen(until)
    names, how = ("toy", "fd-toy", "kd-toy"), (5, 8, PIECE, "0" * 64, overseen.network, torch.device(device))
    extractor = Watched(*names, *how, overseen=overseen)
    found = measure(overseen.images(), extractor)
    assert overseen.in_vain == [] and found.statistics.n == PIECE * NUM_PIECES
