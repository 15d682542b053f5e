"""EMA and initial weights of a sharded network equal those of an unsharded one."""

import pytest
import torch

from hdit_core.checkpoint.ema.snapshots import snapshots, stream_tensors
from hdit_core.checkpoint.layout import checkpoint_folder
from hdit_core.checkpoint.load import newest_checkpoint, open_checkpoint
from tests.train.ranks import on_ranks
from tests.train.shared_runs import LAYOUTS, learn

PROFILES = {"train.ema_profiles": [0.1], "train.ema_snapshot_every_images": 24, "train.num_images": 48}


@pytest.fixture
def shared(trained):
    """Return a function: the tiny recipe for a layout, without dropout, which differs between ranks."""
    levels = [level | {"dropout": 0.0} for level in trained({}).model_dump(mode="json")["model"]["levels"]]
    return lambda layout, **more: trained({"model.levels": levels} | PROFILES | LAYOUTS[layout][1] | more)


@pytest.mark.parametrize("layout", ["fsdp-2"])
def test_ranks_track_profiles_as_one_does_and_any_number_resumes_with_them(tmp_path, shared, layout):
    ranks, runs = LAYOUTS[layout][0], (tmp_path / "one", tmp_path / layout)
    on_ranks(1, learn, shared("one"), runs[0])
    on_ranks(ranks, learn, shared(layout, **{"train.num_images": 24}), runs[1])
    on_ranks(1, learn, shared("one", **{"train.num_images": 32}), runs[1])
    on_ranks(ranks, learn, shared(layout), runs[1])
    alone, together = (newest_checkpoint(run)[0].tensors("ema-0.100") for run in runs)
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        assert together[name].shape == tensor.shape
        torch.testing.assert_close(together[name], tensor, rtol=1e-3, atol=2e-4)
    names = [[snapshot.path.name for snapshot in snapshots(run)] for run in runs]
    assert names[0] == ["000000024-ema-0.100.safetensors", "000000048-ema-0.100.safetensors"]
    assert set(names[1]) == {*names[0], "000000032-ema-0.100.safetensors"}
    for name in names[0]:
        ours, theirs = (dict(stream_tensors(run / "averages" / name)) for run in runs)
        assert all(torch.allclose(ours[key].float(), t.float(), rtol=2e-3, atol=3e-4) for key, t in theirs.items())


@pytest.mark.parametrize("layout", ["fsdp-2"])
def test_ranks_start_with_the_exact_weights_of_another_run(tmp_path, shared, layout):
    on_ranks(1, learn, shared("one", **{"train.num_images": 16}), tmp_path / "source")
    recipe = shared(layout, **{"train.init_from": str(tmp_path / "source"), "train.num_images": 8})
    on_ranks(LAYOUTS[layout][0], learn, recipe, tmp_path / "run")
    begin = open_checkpoint(checkpoint_folder(tmp_path / "run", 0))
    average = newest_checkpoint(tmp_path / "source")[0].tensors("ema")
    for part in ("model", "ema", "ema-0.100"):
        assert all(torch.equal(tensor, average[name]) for name, tensor in begin.tensors(part).items())
