"""However many ranks share a network, and however they do: the same weights, the same images, the same losses."""


import pytest
import torch
from ranks import on_ranks
from shared_runs import LAYOUTS, initial_weights, learn, losses, tensors_left

CPU = torch.device("cpu")
STEPS = 12  # of 8 images


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a function: the folder of a finished run of a layout, and what its ranks saw and said; trained once."""
    done = {}

    def run_of(layout, recipe):
        if layout not in done:
            run = tmp_path_factory.mktemp(layout) / "run"
            done[layout] = run, on_ranks(LAYOUTS[layout][0], learn, recipe, run)
        return done[layout]

    return run_of


@pytest.fixture
def shared(trained):
    """Return a function: the tiny recipe as a layout has it, without dropout, which is drawn for each rank."""
    levels = [level | {"dropout": 0.0} for level in trained({}).model_dump(mode="json")["model"]["levels"]]
    plain = {"model.levels": levels, "train.log_every_images": 8, "train.checkpoint_every_images": 1_000}
    return lambda layout, **more: trained(plain | LAYOUTS[layout][1] | {f"train.{key}": more[key] for key in more})


@pytest.mark.parametrize("layout", ["ddp-2", "fsdp-2", "hsdp-2x2"])
def test_weights_begin_as_the_same_bits_in_whichever_parts_they_are_held(layout, shared):
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
    ours, theirs = tensors_left(run), tensors_left(alone)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape and ours[name].dtype == tensor.dtype
        if not name.startswith("optimizer"):
            torch.testing.assert_close(
                ours[name], tensor, rtol=1e-3, atol=2e-4, msg=lambda text, name=name: name + text
            )
