"""A run that starts with the weights of another: the same network, or one for smaller images that it grows from."""

import copy
import re
import shutil

import pytest
import torch

from hdit_core.checkpoint.denoiser import load_denoiser
from hdit_core.checkpoint.layout import checkpoint_folder, recipe_file
from hdit_core.checkpoint.load import newest_checkpoint, open_checkpoint
from hdit_core.checkpoint.log import read_log
from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.checkpoint.status import write_status
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.generate.provenance import weights_sha256
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.recipe.read import check_recipe
from hdit_core.train.dry_run import dry_run
from hdit_core.train.run import train
from hdit_core.train.start.init_from import load_initial_weights
from hdit_core.train.step.train_step import Learner
from tests.conftest import TINY

OUTER = {"depth": 1, "width": 16, "head_dim": 8, "attention": "neighborhood", "kernel_size": 3}


def recipe_of(data, /, **values):
    """The tiny recipe with other values: `recipe_of(data, model={...}, train={...})`."""
    tables = copy.deepcopy(TINY)
    tables["data"]["path"] = str(data)
    for table, changed in values.items():
        tables.setdefault(table, {}).update(changed)
    return check_recipe(tables, "changed")


@pytest.fixture(scope="module")
def source(tmp_path_factory, tiny_data):
    """A run on images of 16x24."""
    run = tmp_path_factory.mktemp("source") / "run"
    train(recipe_of(tiny_data, train={"num_images": 32, "lr": 5e-3}), run)
    return run


@pytest.fixture(scope="module")
def larger_data(tmp_path_factory, tiny_data):
    """The same pictures as images of 32x48."""
    folder = tmp_path_factory.mktemp("larger")
    prepare_data(PrepareSettings(str(tiny_data.parent / "pictures"), folder / "data", (32, 48), shard_size=8))
    return folder / "data"


@pytest.fixture
def grown(source, larger_data):
    """Return a function that gives the recipe of the network that the source grows to, with other values."""
    levels = [OUTER, *TINY["model"]["levels"]]

    def make(init_from=source, num_images=32, **values):
        model = {"image_size": [32, 48], "levels": levels} | values.pop("model", {})
        tables = {"init_from": str(init_from), "num_images": num_images} | values.pop("train", {})
        return recipe_of(larger_data, model=model, train=tables, **values)

    return make


def test_the_same_network_starts_with_the_same_outputs(tmp_path, source, tiny_data):
    recipe = recipe_of(tiny_data, train={"init_from": str(source), "num_images": 8, "seed": 5})
    train(recipe, tmp_path / "run")
    begin = open_checkpoint(checkpoint_folder(tmp_path / "run", 0))
    average = newest_checkpoint(source)[0].tensors("ema")
    for part in ("model", "ema"):
        assert all(torch.equal(tensor, average[name]) for name, tensor in begin.tensors(part).items())
    x, sigma, ids = torch.randn(2, 3, 16, 24), torch.tensor([0.3, 2.0]), torch.tensor([0, 3])
    outputs = [load_denoiser(path)(x, sigma, class_ids=ids) for path in (source, begin.folder)]
    assert torch.equal(*outputs) and outputs[0].std() > 0.05


def moved_in(name):
    """The name that a tensor of the source has in a network with one more outer level."""
    return re.sub(r"^(rotary|down|up|merges|splits)\.(\d+)", lambda m: f"{m[1]}.{int(m[2]) + 1}", name)


def test_a_grown_network_has_the_inner_levels_bit_for_bit_and_the_rest_initialized(tmp_path, source, grown):
    train(grown(), tmp_path / "run")
    begin = open_checkpoint(checkpoint_folder(tmp_path / "run", 0)).tensors("model")
    fresh = HourglassTransformer(grown().model)
    initialize(fresh, 0)
    outermost, taken = ("patch_in.", "out_norm.", "patch_out."), set()
    for name, tensor in newest_checkpoint(source)[0].tensors("ema").items():
        if not name.startswith(outermost):
            taken.add(moved_in(name))
            assert torch.equal(begin[moved_in(name)], tensor), name
    new = begin.keys() - taken
    assert all(torch.equal(begin[name], fresh.state_dict()[name]) for name in new)
    heads = {".".join(name.split(".")[:2]) for name in new}
    assert heads == {"patch_in.proj", "patch_out.proj", "out_norm.scale", "rotary.0"} | {
        f"{part}.0" for part in ("down", "up", "merges", "splits")
    }
    assert not begin["patch_out.proj.weight"].any()  # so that at first the answer is zero, as of a fresh network


def test_a_network_grows_by_two_levels_at_once(source, grown):
    levels = [OUTER, OUTER, *TINY["model"]["levels"]]
    tensors = load_initial_weights(grown(model={"image_size": [64, 96], "levels": levels})).tensors
    assert torch.equal(
        tensors["merges.2.proj.weight"], newest_checkpoint(source)[0].tensors("ema")["merges.0.proj.weight"]
    )
    assert {name.split(".")[1] for name in tensors if name.startswith("down.")} == {"2"}


def test_a_grown_network_learns_and_the_log_reports_it(tmp_path, grown):
    train(grown(num_images=128, train={"lr": 5e-3, "log_every_images": 32}), tmp_path / "run")
    losses = [line["loss"] for line in read_log(tmp_path / "run")]
    assert len(losses) == 4 and losses[-1] < 0.95 * losses[0]


def test_the_source_is_logged_and_its_hash_saved_in_every_checkpoint(tmp_path, source, grown, notes):
    train(grown(), tmp_path / "run")
    sha256 = weights_sha256(load_denoiser(source))
    said = rf"initial weights: 36 tensors of {source} \({sha256[:16]}\); new: 1 outer level, patch_in, out_norm"
    assert any(re.search(said, note) for note in notes), notes[2]
    states = [open_checkpoint(folder).state for folder in (tmp_path / "run" / "checkpoints").iterdir()]
    assert {state.init_from for state in states} == {sha256} and len(states) == 2
    assert newest_checkpoint(source)[0].state.init_from == ""


def test_a_run_that_has_started_does_not_need_its_source(tmp_path, source, grown, monkeypatch):
    moved = tmp_path / "moved"
    shutil.copytree(source, moved)
    train(grown(moved), tmp_path / "unbroken")
    update = Learner.train_step

    def killed(learner, step, batches):
        if step.number == 1:  # before the first checkpoint that is due
            raise KeyboardInterrupt
        return update(learner, step, batches)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Learner, "train_step", killed)
        train(grown(moved), tmp_path / "broken")
    shutil.rmtree(moved)
    train(grown(moved), tmp_path / "broken")
    ends = [newest_checkpoint(tmp_path / run)[0] for run in ("unbroken", "broken")]
    assert ends[0].state.init_from == ends[1].state.init_from
    for part in ("model", "ema", "optimizer"):
        tensors = ends[1].tensors(part)
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in ends[0].tensors(part).items())


def test_a_run_does_not_resume_with_another_source(tmp_path, source, grown):
    train(grown(), tmp_path / "run")
    with pytest.raises(UsageError, match=r"different settings: train.init_from .* \(run\) vs not set \(command\)"):
        train(grown(train={"init_from": None}), tmp_path / "run")


def test_fitting_weights_of_another_meaning_are_noted(source, tiny_data):
    levels = [TINY["model"]["levels"][0] | {"kernel_size": 5}, TINY["model"]["levels"][1]]
    recipe = recipe_of(
        tiny_data, train={"init_from": str(source)}, model={"levels": levels}, diffusion={"sigma_data": 0.6}
    )
    note = load_initial_weights(recipe).notes[1]
    assert "model.levels[0].kernel_size is 3 there and 5 in the recipe" in note
    assert "diffusion.sigma_data is 0.5 there and 0.6 in the recipe" in note
    assert len(load_initial_weights(recipe_of(tiny_data, train={"init_from": str(source)})).notes) == 1


LOCAL, GLOBAL = TINY["model"]["levels"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"levels": [GLOBAL]}, r"has 2 levels, model.levels has 1; levels can be added, not removed"),
        (
            {"image_size": [16, 24]},
            r"trained on images of 16x24; with 1 more level, model.image_size must be \[32, 48\], not \[16, 24\]",
        ),
        ({"patch_size": [4, 2]}, r"has patches of \[2, 2\], model.patch_size is \[4, 2\]; a grown network keeps"),
        (
            {"levels": [OUTER, LOCAL | {"width": 24}, GLOBAL]},
            r"rotary.0.frequencies has shape \(2, 1\), rotary.1.frequencies of the recipe's network has shape",
        ),
        ({"levels": [OUTER, LOCAL, GLOBAL | {"depth": 2}]}, r"no tensor for middle.1.attention.scale of"),
        ({"num_classes": 0}, r"has the tensor conditioning.classes.weight, which the recipe's network does not have"),
    ],
)
def test_a_network_that_the_source_cannot_grow_to_is_refused_with_the_first_tensor(grown, model, message):
    with pytest.raises(UsageError, match=rf"train.init_from = .*{message}"):
        load_initial_weights(grown(model=model))


def test_a_missing_or_unsuitable_source_leaves_no_folder(tmp_path, grown):
    with pytest.raises(CheckpointError, match=r"nowhere: no such run, checkpoint or file"):
        train(grown(tmp_path / "nowhere"), tmp_path / "run")
    with pytest.raises(UsageError, match=r"has no tensor for"):
        train(grown(model={"levels": [OUTER, LOCAL, GLOBAL | {"depth": 2}]}), tmp_path / "run")
    assert not recipe_file(tmp_path / "run").exists()


def test_a_dry_run_starts_with_the_weights_unless_the_run_has_started(source, grown, tmp_path, notes):
    dry_run(grown(), device="cpu")
    assert any(note.startswith("initial weights: 36 tensors") for note in notes)
    misfit = grown(model={"levels": [OUTER, LOCAL, GLOBAL | {"depth": 2}]})
    with pytest.raises(UsageError, match=r"has no tensor for middle.1"):
        dry_run(misfit, device="cpu")
    (tmp_path / "begun").mkdir()
    write_status(run := tmp_path / "begun", "running", 1, 8)
    dry_run(misfit, run, device="cpu")


# --- new inputs ------------------------------------------------------------------------------------------------------


CONDITIONED = {"condition_channels": 2, "condition_scale": [1.0, 3.0], "mapping_cond_dim": 5}
PLAIN_DATA = {"augment_prob": 0.0}


def given_to(model, batch=3):
    numbers = torch.Generator().manual_seed(1)
    given = {
        "x": torch.randn(batch, 3, 16, 24, generator=numbers),
        "sigma": torch.rand(batch, generator=numbers) * 5 + 0.01,
        "class_ids": torch.tensor([0, 3, 1]),
    }
    if model.condition_channels:
        given["condition"] = torch.randn(batch, model.condition_channels, 16, 24, generator=numbers)
    if model.mapping_cond_dim:
        given["mapping_cond"] = torch.randn(batch, model.mapping_cond_dim, generator=numbers)
    return given


def network_with(recipe, tensors):
    network = HourglassTransformer(recipe.model).eval()
    initialize(network, seed=9)
    network.load_state_dict(network.state_dict() | dict(tensors))
    return network


def test_new_conditions_change_no_bit_of_the_first_outputs(source, tiny_data):
    recipe = recipe_of(tiny_data, model=CONDITIONED, data=PLAIN_DATA, train={"init_from": str(source)})
    initial = load_initial_weights(recipe)
    grown, before = network_with(recipe, initial.tensors), load_denoiser(source).network
    given = given_to(before.recipe)
    with torch.no_grad():
        expected = before(**given)
        assert torch.equal(grown(**given_to(recipe.model) | given), expected)
    assert expected.std() > 0
    assert any(
        "zero weights for 2 more condition channels; zero weights for 5 more numbers" in n for n in initial.notes
    )
    assert not any("trained with other settings" in note for note in initial.notes)


def test_more_condition_channels_and_longer_vectors_change_no_bit_of_the_first_outputs(source, tiny_data, tmp_path):
    conditioned = recipe_of(tiny_data, model=CONDITIONED, data=PLAIN_DATA, train={"init_from": str(source)})
    network = network_with(conditioned, load_initial_weights(conditioned).tensors)
    numbers = torch.Generator().manual_seed(2)
    for name in ("patch_in.proj.weight", "conditioning.vector_in.weight"):
        network.get_parameter(name).data.normal_(0, 0.1, generator=numbers)
    write_tensors(tmp_path / "one.safetensors", dict(network.state_dict()), conditioned.model_dump_json())
    more = {"condition_channels": 3, "condition_scale": [1.0, 3.0, 0.5], "mapping_cond_dim": 8}
    recipe = recipe_of(tiny_data, model=more, data=PLAIN_DATA, train={"init_from": str(tmp_path / "one.safetensors")})
    grown = network_with(recipe, load_initial_weights(recipe).tensors)
    given, larger = given_to(conditioned.model), given_to(recipe.model)
    larger |= given | {
        "condition": torch.cat([given["condition"], larger["condition"][:, 2:]], dim=1),
        "mapping_cond": torch.cat([given["mapping_cond"], larger["mapping_cond"][:, 5:]], dim=1),
    }
    with torch.no_grad():
        assert torch.equal(grown(**larger), network(**given))
        assert not torch.equal(network(**given), network(**given | {"condition": given["condition"] + 1}))


def test_a_conditional_run_starts_from_an_unconditional_one_and_trains_its_new_weights(source, tiny_data, tmp_path):
    recipe = recipe_of(
        tiny_data,
        model={"condition_channels": 3},
        data=PLAIN_DATA,
        condition={"degrade": [{"kind": "blur", "sigma": 1.0}]},
        train={"init_from": str(source), "num_images": 16},
    )
    train(recipe, tmp_path / "run")
    trained = newest_checkpoint(tmp_path / "run")[0].tensors("model")["patch_in.proj.weight"]
    assert trained.view(16, 4, 6)[..., 3:].abs().max() > 0


def test_fewer_condition_channels_are_refused(source, tiny_data, tmp_path):
    run = tmp_path / "run"
    blurred = {"degrade": [{"kind": "blur", "sigma": 1.0}]}
    conditional = {"model": {"condition_channels": 3}, "data": PLAIN_DATA, "condition": blurred}
    train(recipe_of(tiny_data, **conditional, train={"num_images": 8}), run)
    with pytest.raises(UsageError, match=r"patch_in.proj.weight has shape \(16, 24\), .* has shape \(16, 12\)"):
        load_initial_weights(recipe_of(tiny_data, train={"init_from": str(run)}))
