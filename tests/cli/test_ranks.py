"""If all ranks of a run end with the same error, only the main one reports it."""

import pytest
import typer

from hdit_cli import ranks as speaking
from hdit_cli.main import main
from hdit_core.errors import DataError, HditError, OtherRankFailed, StoppedEarly


@pytest.fixture
def waits(monkeypatch):
    """Return the list of all waits, none of which takes any time."""
    waited = []
    monkeypatch.setattr(speaking.time, "sleep", waited.append)
    return waited


def be_rank(monkeypatch, number):
    for name, value in {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_an_error_is_reported_by_the_main_rank_first(monkeypatch, capsys, waits, rank):
    if rank is not None:
        be_rank(monkeypatch, rank)
    assert main(["train", "mnist32", "--set", "train.lr=high"]) == 2
    assert "train.lr" in capsys.readouterr().err
    assert waits == ([speaking.MAIN_RANK_WAIT_S] if rank else [])


def fail(error):
    with speaking.main_rank_reports_first():
        raise error


def test_a_request_to_stop_is_reported_by_the_main_rank_only(monkeypatch, waits):
    be_rank(monkeypatch, 1)
    with pytest.raises(typer.Exit) as found:
        fail(StoppedEarly("saved"))
    assert found.value.exit_code == 75 and waits
    be_rank(monkeypatch, 0)
    with pytest.raises(StoppedEarly, match="saved"):
        fail(StoppedEarly("saved"))


def test_the_failure_of_another_rank_is_not_reported_again(monkeypatch, waits):
    be_rank(monkeypatch, 1)
    with pytest.raises(typer.Exit) as found:
        fail(OtherRankFailed("rank 1 ends, because the main rank failed"))
    assert found.value.exit_code == 1 and waits


def test_a_rank_reports_the_loss_of_another_at_once_and_its_own_error_after_a_wait(monkeypatch, waits):
    be_rank(monkeypatch, 1)
    with pytest.raises(HditError, match="lost rank 0"):
        fail(HditError("rank 1 ends, because it lost rank 0"))
    assert not waits
    with pytest.raises(DataError, match="a cut shard"):
        fail(DataError("a cut shard"))
    assert waits


def test_no_command_prints_that_another_rank_failed(install_body, capsys, waits):
    install_body("""
        from hdit_core.errors import OtherRankFailed
        raise OtherRankFailed("rank 1 ends, because the main rank failed")
    """)
    assert main(["act"]) == 1
    assert capsys.readouterr().err == "" and waits == [speaking.MAIN_RANK_WAIT_S]
