"""Any number of ranks with any parallelism: the same weights, images and losses."""

from io import BytesIO
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed.device_mesh import DeviceMesh

from hdit_core.distributed import World, init_ranks
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.plan.sharding import state_bytes
from hdit_core.train.parallel import parallelize as parallel_module
from hdit_core.train.parallel.parallelize import Parallelism, choose_parallelism, mean_in_rank_order
from hdit_core.train.run import train
from tests.train.ranks import on_ranks
from tests.train.shared_runs import (
    LAYOUTS,
    draw_and_learn,
    initial_weights,
    learn,
    learn_compiled,
    losses,
    tensors_left,
)

CPU = torch.device("cpu")
STEPS = 6  # of 8 images: twice through the data set, and more
CLIP = 0.002  # far below any gradient's norm: all are clipped


def means_of_two_orders():
    """Return a rank's mean of gradients that lie in a bucket in two orders; a rank's work."""
    rank = init_ranks("cpu").rank
    gradients = torch.randn(1_001, generator=torch.Generator().manual_seed(rank))
    buckets = [SimpleNamespace(buffer=mock.Mock(return_value=part.clone())) for part in (gradients, gradients.flip(0))]
    first, second = (mean_in_rank_order(None, bucket).wait() for bucket in buckets)
    return torch.equal(first, second.flip(0)), first.tolist()


def test_the_mean_over_four_ranks_does_not_depend_on_the_place_in_a_bucket():
    answers = on_ranks(4, means_of_two_orders)
    assert answers == [(True, answers[0][1])] * 4
    expected = sum(torch.randn(1_001, generator=torch.Generator().manual_seed(rank)) for rank in range(4)) / 4
    assert answers[0][1] == expected.tolist()


class Replicas(torch.nn.Module):
    """Stands for DistributedDataParallel, and keeps its hooks."""

    def __init__(self, network, **_):
        super().__init__()
        self.hooks = []

    def register_comm_hook(self, state, hook):
        self.hooks.append(hook)


@pytest.mark.parametrize(
    ("device", "deterministic", "hooks"),
    [("cpu", False, [mean_in_rank_order]), ("meta", False, []), ("meta", True, [mean_in_rank_order])],
)
def test_gradients_are_added_in_rank_order_on_cpus_and_if_asked(monkeypatch, device, deterministic, hooks):
    monkeypatch.setattr(parallel_module, "DistributedDataParallel", Replicas)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    assert Parallelism(ranks=4).trained(torch.nn.Linear(2, 2, device=device)).hooks == hooks


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a function: the folder of a finished run of a layout, and the inputs and messages of its ranks."""
    done = {}

    def run_of(layout, recipe):
        if layout not in done:
            run = tmp_path_factory.mktemp(layout) / "run"
            done[layout] = run, on_ranks(LAYOUTS[layout][0], learn, recipe, run)
        return done[layout]

    return run_of


@pytest.fixture
def shared(trained):
    """Return a function: the tiny recipe for a layout, without dropout, which differs between ranks."""
    levels = [level | {"dropout": 0.0} for level in trained({}).model_dump(mode="json")["model"]["levels"]]
    plain = {"model.levels": levels, "train.log_every_images": 8, "train.checkpoint_every_images": 1_000}
    plain |= {"train.grad_clip": CLIP, "train.num_images": 8 * STEPS}
    return lambda layout, **more: trained(plain | LAYOUTS[layout][1] | {f"train.{key}": more[key] for key in more})


@pytest.mark.parametrize("layout", ["ddp-2", "fsdp-2", "hsdp-2x2"])
def test_initial_weights_are_bit_identical_for_any_sharding(layout, shared):
    first, *others = on_ranks(LAYOUTS[layout][0], initial_weights, shared(layout))
    expected = initial_weights(shared("one"))
    assert first == expected and len(expected) > 50
    assert not any(others)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "one"])
def test_ranks_see_the_same_images_and_noise_and_learn_the_same(layout, runs, shared):
    (alone, [(inputs, _)]), (run, answers) = runs("one", shared("one")), runs(layout, shared(layout))
    seen = {}
    for mine, _ in answers:
        assert not seen.keys() & mine.keys()  # every image has one rank
        seen |= mine
    assert seen == inputs and sum(map(len, seen.values())) == 8 * STEPS
    assert len(losses(run)) == STEPS and losses(run) == pytest.approx(losses(alone), rel=1e-5)
    norms = losses(alone, "grad_norm")
    assert losses(run, "grad_norm") == pytest.approx(norms, rel=1e-3) and min(norms) > 2 * CLIP
    ours, theirs = tensors_left(run), tensors_left(alone)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape and ours[name].dtype == tensor.dtype
        if not name.startswith("optimizer"):
            torch.testing.assert_close(
                ours[name], tensor, rtol=1e-3, atol=2e-4, msg=lambda text, name=name: name + text
            )


@pytest.mark.parametrize("layout", ["ddp-2", "fsdp-2"])
def test_on_as_many_ranks_an_interrupted_sharded_run_is_bit_identical_to_an_uninterrupted_one(
    layout, runs, shared, tmp_path
):
    """In other layouts too: tests/endurance/test_ranks_agree.py."""
    unbroken, _ = runs(layout, shared(layout))
    for num_images in (24, 8 * STEPS):
        on_ranks(LAYOUTS[layout][0], learn, shared(layout, num_images=num_images), tmp_path / "run")
    ours, theirs = tensors_left(tmp_path / "run"), tensors_left(unbroken)
    assert ours.keys() == theirs.keys() and len(ours) > 100
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize(
    "layouts",
    [pytest.param(("fsdp-2", "one", "hsdp-2x2"), marks=pytest.mark.slow), ("one", "fsdp-2", "ddp-2")],
)
def test_any_number_of_ranks_resumes_any_checkpoint(layouts, runs, shared, tmp_path):
    alone, [(inputs, _)] = runs("one", shared("one"))
    seen = {}
    for third, layout in enumerate(layouts):
        recipe = shared(layout, num_images=8 * STEPS * (third + 1) // 3)
        for mine, _ in on_ranks(LAYOUTS[layout][0], learn, recipe, tmp_path / "run"):
            for place, digests in mine.items():
                seen.setdefault(place, []).extend(digests)
    assert seen == inputs
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["ddp-2", "fsdp-2"])
def test_compilation_activation_checkpointing_and_micro_batches_work_with_either_parallelism(layout, trained, tmp_path):
    level = {"depth": 1, "width": 32, "head_dim": 16, "attention": "global"}  # one layer: less to compile
    plain = {"model.levels": [level], "train.log_every_images": 8, "train.num_images": 24}
    train(trained(plain), tmp_path / "alone")
    more = {"train.compile": True, "train.activation_checkpointing": True, "train.micro_batch_size": 2}
    on_ranks(2, learn_compiled, trained(plain | LAYOUTS[layout][1] | more), tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)


@pytest.mark.slow
def test_a_sharded_ema_gives_the_same_samples_as_a_whole_one(runs, shared, tmp_path):
    source, _ = runs("one", shared("one"))
    alone = draw_and_learn(shared("one", num_images=200), source, tmp_path / "alone")
    (first, second), _ = on_ranks(2, draw_and_learn, shared("fsdp-2", num_images=200), source, tmp_path / "shared")
    assert first == alone[0] and second != first
    ours, theirs = (np.asarray(Image.open(BytesIO(png)), dtype=int) for png in (second, alone[1]))
    assert np.abs(ours - theirs).max() <= 1


def test_the_ranks_use_the_recipes_parallelism_and_report_it(runs, shared):
    said = {layout: runs(layout, shared(layout))[1][0][1] for layout in LAYOUTS}
    assert not [note for note in said["one"] if "rank" in note]
    assert "2 ranks, weights replicated (DDP): train.parallel = 'ddp'" in said["ddp-2"]
    assert "weights sharded over 2 ranks (FSDP): train.parallel = 'fsdp'" in said["fsdp-2"]
    assert "weights sharded over 2 ranks, in 2 replicas (HSDP): train.parallel = 'fsdp'" in said["hsdp-2x2"]


def test_with_one_rank_a_parallel_setting_is_reported_as_ineffective(shared):
    assert choose_parallelism(shared("one"), World()) == Parallelism()
    assert choose_parallelism(shared("fsdp-2"), World()) == Parallelism(
        note="train.parallel = 'fsdp' has no effect with one rank"
    )


def test_weights_are_sharded_automatically_if_they_would_fill_half_of_a_gpu(shared, monkeypatch):
    recipe, gpu = shared("one"), torch.device("cuda", 0)
    needed = state_bytes(recipe)
    assert needed == 4 * 5 * sum(weight.numel() for weight in HourglassTransformer(recipe.model).parameters())
    monkeypatch.setattr(World, "any", lambda world, flag: flag)
    monkeypatch.setattr(parallel_module, "_mesh", lambda *arguments: mock.Mock(DeviceMesh, shape=(2,)))
    for memory, way in ((2 * needed, "DDP"), (2 * needed - 2, "FSDP")):
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda device, m=memory: SimpleNamespace(total_memory=m)
        )
        note = choose_parallelism(recipe, World(0, 2, device=gpu)).note
        assert f"({way}): weights, gradients, optimizer state and EMAs take 0.00" in note and "GB of a GPU's" in note
    assert "(DDP): ranks on a CPU share its memory" in choose_parallelism(recipe, World(0, 2)).note


def test_further_emas_count_as_memory(shared):
    assert state_bytes(shared("one", ema_profiles=[0.05, 0.1])) * 5 == state_bytes(shared("one")) * 7
