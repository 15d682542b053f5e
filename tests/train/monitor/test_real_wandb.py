"""The files that the real wandb package writes offline: one run with every line of the log, however often resumed."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from hdit_core.checkpoint.log import read_log
from hdit_core.errors import StoppedEarly
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.run import train

BLOCK_BYTES, FILE_HEADER_BYTES, RECORD_HEADER = 1 << 15, 7, struct.Struct("<IHB")  # the log format of LevelDB
LAST_PARTS = (1, 4)  # a whole record, and the end of one


def records(path: Path) -> Iterator[bytes]:
    """Yield the records of an offline run."""
    content, place, record = path.read_bytes(), FILE_HEADER_BYTES, b""
    while place < len(content):
        if BLOCK_BYTES - place % BLOCK_BYTES < RECORD_HEADER.size:
            place += BLOCK_BYTES - place % BLOCK_BYTES
            continue
        _, size_bytes, part = RECORD_HEADER.unpack_from(content, place)
        place += RECORD_HEADER.size
        record += content[place : place + size_bytes]
        place += size_bytes
        if part in LAST_PARTS:
            yield record
            record = b""


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    module = pytest.importorskip("wandb", reason="needs wandb, of the extra dev")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for kind in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{kind}_DIR", str(tmp_path / "wandb-own"))
    yield module
    module.teardown()


@pytest.mark.slow
def test_an_offline_wandb_run_keeps_its_id_when_resumed_and_has_every_line_of_the_log(tmp_path, trained, wandb):
    from wandb.proto.wandb_internal_pb2 import Record

    run = tmp_path / "run"
    recipe = trained({"train.num_images": 64, "train.log_every_images": 16, "train.sample_every_images": 64})
    stop = Callbacks(lambda now: (run / "STOP").touch() if now.step == 4 else None, trackers=("wandb",))
    with pytest.raises(StoppedEarly):
        train(recipe, run, callbacks=stop)
    train(recipe, run, callbacks=Callbacks(trackers=("wandb",)))
    files = sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1
    ids, losses, sheets = set(), [], 0
    for content in (content for file in files for content in records(file)):
        record = Record.FromString(content)
        ids |= {record.run.run_id} - {""}
        row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        sheets += "samples" in "".join(row)
        if "loss" in row:
            losses.append((row["num_images"], row["loss"]))
    assert len(ids) == 1 and files[0].name == f"run-{ids.pop()}.wandb"
    assert losses == [(line["num_images"], line["loss"]) for line in read_log(run)] and len(losses) == 4
    assert sheets == 1
    assert len(list((run / "wandb").glob("offline-run-*/files/media/images/samples_*.png"))) == 1
