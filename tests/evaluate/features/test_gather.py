"""Features sent between ranks: bounded memory, and a clear error when a rank is gone."""

import json

import pytest
import torch

from hdit_core import distributed
from hdit_core.errors import HditError
from hdit_core.evaluate import score as score_module
from hdit_core.evaluate.features.gather import translating_rank_errors
from hdit_core.evaluate.settings import ScoreSettings
from tests.evaluate.relay_rank import work
from tests.forking import CONTEXT
from tests.ports import take_port

FEW = 12  # a chunk per rank, packed and unpacked, and those being computed


@pytest.mark.parametrize("num_chunks", [40, 160])
def test_no_rank_holds_more_than_a_few_chunks_of_a_set_of_any_size(tmp_path, num_chunks):
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(take_port())}
    ranks = []
    for rank in (0, 1):
        place = world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(CONTEXT.Process(target=work, args=(place, str(tmp_path / f"{rank}"), num_chunks)))
        ranks[-1].start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
    most = [json.loads((tmp_path / str(rank)).read_text()) for rank in (0, 1)]
    assert max(most) <= FEW


CLOSED = "[/x/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:5. This is typically caused by"
REFUSED = "Gloo connectFullMesh failed with [/x/gloo/tcp/pair.cc:152] timed out connecting: Connection refused"


@pytest.mark.parametrize(
    "problem, reason",
    [
        (RuntimeError(CLOSED), r"Connection closed by peer \[127.0.0.1\]:5"),
        (RuntimeError(REFUSED), "Gloo connectFullMesh failed with timed out connecting: Connection refused"),
        (torch.distributed.DistNetworkError("Connection reset by peer\nframe #0"), "Connection reset by peer"),
    ],
)
def test_a_broken_connection_is_reported_in_one_line_without_locations_in_torchs_source(problem, reason):
    with (
        pytest.raises(HditError, match=rf"^another rank is gone \({reason}\); start all ranks again$"),
        translating_rank_errors(),
    ):
        raise problem


def test_errors_that_are_not_about_connections_pass_unchanged():
    with pytest.raises(RuntimeError, match="shapes do not fit"), translating_rank_errors():
        raise RuntimeError("shapes do not fit")


def test_a_rank_that_is_lost_before_the_first_image_is_reported_too(picture_folder, toy_extractor, monkeypatch):
    def broken(*_):
        raise RuntimeError(CLOSED)

    monkeypatch.setattr(distributed.distributed, "all_reduce", broken)
    monkeypatch.setattr(score_module, "open_extractor", lambda *_: toy_extractor)
    folder = str(picture_folder("a"))
    with pytest.raises(HditError, match=r"another rank is gone .*; start all ranks again"):
        score_module.score(ScoreSettings(folder, folder, device="cpu"), world=distributed.World(0, 2))
