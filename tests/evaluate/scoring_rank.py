"""One rank that scores, as a process of its own, forked from a server that has imported everything before."""

import itertools
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from hdit_core.distributed import init_ranks
from hdit_core.errors import HditError
from hdit_core.evaluate import feature_batch as pieces
from hdit_core.evaluate import score
from hdit_core.evaluate.extractors.extractor import Extractor
from hdit_core.evaluate.paired import score_pairs
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.evaluate.sweep import run as sweep
from hdit_core.evaluate.sweep.search_space import SweepSettings
from tests.forking import CONTEXT
from tests.ports import take_port

WEIGHTS = torch.randn(5, 192, generator=torch.Generator().manual_seed(1)) / 100


def toy(stuck_at: int | None) -> Extractor:
    """An extractor with a classifier, for batches of 4 images, which does not come back from its n-th batch."""
    batches = itertools.count(1)

    def network(levels):
        if next(batches) == stuck_at:
            time.sleep(600)  # and is killed meanwhile
            raise AssertionError("nobody has killed this rank")
        return levels.flatten(1) @ WEIGHTS.T

    device = torch.device("cpu")
    return Extractor(
        "toy", "fd-toy", "kd-toy", 5, 8, 4, "0" * 64, network, device, class_logits=lambda features: features[:, :3]
    )


def work(place: dict[str, str], out: str, stuck_at: int | None, options: dict) -> None:
    """Score, and write what came of it to `out`; with an exit code of 1 a refusal."""
    os.environ.update(place)
    os.environ.pop("MKL_CBWR", None)  # which the tests have set, and users have not
    torch.set_num_threads(1)
    pieces.IMAGES_PER_CHUNK = 8
    sweep.IMAGES_PER_CHUNK = 8
    score.open_extractor = score_pairs.open_extractor = sweep.open_extractor = lambda *_: toy(stuck_at)
    world = init_ranks("cpu")
    try:
        grid = options.pop("sweep", None)
        settings = ScoreSettings(device="cpu", **options)
        if grid is None:
            compute = score_pairs.score_pairs if settings.paired else score.score
            result = compute(settings, world=world)
        else:
            result = sweep.sweep(SweepSettings(scoring=settings, **grid), world=world)
        Path(out).write_text(json.dumps(result and result.to_json()))
    except HditError as error:
        Path(out).write_text(f"{type(error).__name__}: {error}")
        sys.exit(1)
    finally:
        world.destroy_ranks()


@dataclass(frozen=True)
class Ranks:
    """Running ranks."""

    processes: list
    files: list[Path]

    def results(self) -> list:
        """Wait, see that none failed, and return what each gave."""
        said = self.said()
        assert [process.exitcode for process in self.processes] == [0] * len(said), said
        return [json.loads(text) for text in said]

    def said(self) -> list[str]:
        """Wait, and return what each wrote."""
        for process in self.processes:
            process.join(120)
            process.kill()  # one that hangs, so that pytest can end
            process.join()
        return [file.read_text() if file.exists() else "" for file in self.files]


def start(folder: Path, count: int, stuck: tuple[int, int] | None = None, **options: object) -> Ranks:
    """Start ranks that score with these settings, one of them stuck in so many-th of its batches until it is killed."""
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(take_port())}
    folder.mkdir(exist_ok=True)
    files = [folder / f"{rank}.json" for rank in range(count)]
    processes = []
    for rank, file in enumerate(files):
        file.unlink(missing_ok=True)
        place = world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        stuck_at = stuck[1] if stuck and stuck[0] == rank else None
        processes.append(CONTEXT.Process(target=work, args=(place, str(file), stuck_at, options)))
        processes[-1].start()
    return Ranks(processes, files)
