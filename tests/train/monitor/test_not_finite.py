"""A nonfinite number reaches no weights, EMA, optimizer or checkpoint, wherever it occurs."""

import json
import math

import numpy as np
import pytest
import torch

from hdit_core.checkpoint.layout import incident_file
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.status import read_status
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.diffusion.noise_density import training_sigmas
from hdit_core.distributed import World
from hdit_core.errors import NumericalError
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.read import check_recipe
from hdit_core.train.optim.grad_norm import part_of
from hdit_core.train.optim.optimizer import optimizer_tensors
from hdit_core.train.run import train
from hdit_core.train.step.batch_plan import steps
from hdit_core.train.step.build import build_learner
from hdit_core.train.step.dataloader import build_dataloader, build_run_order
from hdit_core.train.step.result import NotFinite
from tests.conftest import TINY
from tests.train.poison import Poison, poisoned
from tests.train.ranks import on_ranks

PARAMETERS = [name for name, _ in HourglassTransformer(check_recipe(TINY, "tiny").model).named_parameters()]


def everything(learner):
    """Return copies of all that a step may change."""
    tensors = {f"model/{key}": value for key, value in learner.ema.source.state_dict().items()}
    tensors |= {f"ema/{key}": value for key, value in learner.ema.network.state_dict().items()}
    tensors |= {
        f"optimizer/{key}": value for key, value in optimizer_tensors(learner.optimizer, learner.ema.source).items()
    }
    for name, part in learner.profiles.parts().items():
        tensors |= {f"{name}/{key}": value for key, value in part.items()}
    return {key: tensor.detach().clone() for key, tensor in tensors.items()}


def assert_untouched(learner, before):
    after = everything(learner)
    assert after.keys() == before.keys() and len(before) > 100
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


@pytest.fixture
def begun(trained):
    """Return a function: a learner that took one step, the next step, and a function that reads its batches."""

    def begin(values=None):
        recipe = trained({"train.micro_batch_size": 3, "train.ema_profiles": [0.05, 0.1]} | (values or {}))
        learner, reader = build_learner(recipe, None, World()), ImageReader(recipe.data.path)
        first, second = list(steps(recipe.train, 0, 0))[:2]
        learner.train_step(first, build_dataloader(recipe, reader, [first], learner.micro_batches))
        return learner, second, lambda: build_dataloader(recipe, reader, [second], learner.micro_batches)

    return begin


def test_a_gradient_that_is_not_finite_is_refused_in_whichever_parameter_it_is(begun, monkeypatch):
    learner, step, batches = begun({"train.micro_batch_size": 8})
    before = everything(learner)
    for place, name in enumerate(PARAMETERS):
        with monkeypatch.context() as patch:
            met = poisoned(patch, Poison(step.number, [math.nan, math.inf, -math.inf][place % 3], parameter=name))
            with pytest.raises(NotFinite, match=r"step 1: the loss is .* norm (nan|inf), on images 8 to 15") as refused:
                learner.train_step(step, batches())
        assert met == [1]
        unsound = [part for part, norm in refused.value.result.grad_norms.items() if not math.isfinite(norm)]
        assert unsound == [part_of(name, len(TINY["model"]["levels"]))]
        assert_untouched(learner, before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused_in_whichever_image_and_micro_batch_it_is(begun, monkeypatch, value):
    learner, step, batches = begun()
    before = everything(learner)
    for image in range(8):
        with monkeypatch.context() as patch:
            poisoned(patch, Poison(step.number, value, image))
            with pytest.raises(NotFinite) as refused:
                learner.train_step(step, batches())
        assert [math.isfinite(loss) for loss in refused.value.result.losses] == [place != image for place in range(8)]
        assert_untouched(learner, before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_whose_products_overflow_are_refused_before_the_update(begun, precision):
    learner, step, batches = begun({"train.precision": precision})
    with torch.no_grad():
        learner.ema.source.patch_out.proj.weight.fill_(3e38)
    before = everything(learner)
    with pytest.raises(NotFinite, match=r"the loss is (nan|inf)"):
        learner.train_step(step, batches())
    assert_untouched(learner, before)


def act_on_rank(recipe, rank_of_the_bad_one, part):
    """Take two steps, the second one with a bad number on one rank; return the refusal, and whether nothing changed."""
    from hdit_core.distributed import init_ranks

    world = init_ranks("cpu")
    learner = build_learner(recipe, None, world)
    plan = list(steps(recipe.train, 0, 0))[:2]
    batches = build_dataloader(recipe, ImageReader(recipe.data.path), plan, learner.micro_batches)
    learner.train_step(plan[0], batches)
    before = everything(learner)
    with pytest.MonkeyPatch.context() as patch:
        if world.rank == rank_of_the_bad_one and part == "loss":
            poisoned(patch, Poison(1, math.nan, image=5))
        if world.rank == rank_of_the_bad_one and part == "gradient":
            poisoned(patch, Poison(1, math.inf))
        try:
            learner.train_step(plan[1], batches)
            refused = None
        except NotFinite as problem:
            refused = [math.isfinite(loss) for loss in problem.result.losses]
    assert_untouched(learner, before)
    world.destroy_ranks()
    return refused


@pytest.mark.parametrize(("part", "finite"), [("loss", [place != 5 for place in range(8)]), ("gradient", [True] * 8)])
def test_a_nonfinite_value_on_one_rank_of_two_is_refused_on_both(trained, part, finite):
    answers = on_ranks(2, act_on_rank, trained({"train.parallel": "ddp"}), 1, part)
    assert answers == [finite, finite]


@pytest.mark.parametrize(
    "poison", [Poison(5, math.nan, image=6), Poison(5, math.inf, parameter="middle.0.attention.qkv.weight")]
)
def test_a_run_with_a_refused_step_is_bit_identical_after_resuming(tmp_path, trained, monkeypatch, poison):
    recipe = trained({"train.num_images": 64, "train.log_every_images": 24})
    train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        met = poisoned(patch, poison)
        with pytest.raises(NumericalError, match="to re-execute it, add --repro 5"):
            train(recipe, tmp_path / "run")
        assert met == [5]
    status = read_status(tmp_path / "run")
    assert (status["state"], status["step"]) == ("failed", 4) and "incidents/step-000000005.json" in status["reason"]
    train(recipe, tmp_path / "run")
    ours, theirs = (newest_checkpoint(tmp_path / name)[0] for name in ("run", "whole"))
    for part in ("model", "ema", "optimizer"):
        expected = theirs.tensors(part)
        assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.tensors(part).items())


def test_the_incident_file_names_the_images_and_random_numbers_of_the_step(tmp_path, trained, monkeypatch):
    recipe = trained({"train.seed": 3})
    poisoned(monkeypatch, Poison(2, math.nan, image=6))
    with pytest.raises(NumericalError, match=r"on images 16 to 23 .* Recorded in .*step-000000002.json"):
        train(recipe, tmp_path)
    record = json.loads(incident_file(tmp_path, 2).read_text())
    assert (record["kind"], record["step"], record["seed"], record["ranks"]) == ("not finite", 2, 3, [0])
    assert record["loss"] == "nan" and record["images"][6]["loss"] == "nan"
    assert [image["number"] for image in record["images"]] == list(range(16, 24))
    reader = ImageReader(recipe.data.path)
    batch = next(build_dataloader(recipe, reader, list(steps(recipe.train, 2, 16))[:1], lambda step: [range(16, 24)]))
    u = (torch.arange(8) + batch.uniform) / 8
    sigmas = training_sigmas(recipe.diffusion, recipe.model.image_size, u).tolist()
    assert [image["sigma"] for image in record["images"]] == pytest.approx(sigmas)
    expected = build_run_order(recipe, reader, ()).images_at(np.arange(16, 24)).tolist()
    assert [image["index"] for image in record["images"]] == expected
    assert all(image["where"] == reader.where(image["index"]) for image in record["images"])


def test_an_unwritable_incident_file_does_not_hide_the_error(tmp_path, trained, monkeypatch):
    (tmp_path / "run").mkdir()
    train(trained({"train.num_images": 8}), tmp_path / "run")
    (tmp_path / "run" / "incidents").write_text("in the way")
    poisoned(monkeypatch, Poison(2, math.nan, image=6))
    with pytest.raises(
        NumericalError, match=r"step 2: the loss is nan.*no file, since .*step-000000002.json cannot be"
    ):
        train(trained({}), tmp_path / "run")
