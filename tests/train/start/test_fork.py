"""A fork continues another run exactly, with the changes that its state allows, and records its origin."""

import pytest
import torch

from hdit_cli.main import main
from hdit_core.checkpoint.layout import checkpoint_folders
from hdit_core.checkpoint.lineage import read_lineage
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.log import read_log
from hdit_core.checkpoint.status import read_status
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.generate.export.lineage import run_parts
from hdit_core.generate.export.training_record import training_record
from hdit_core.recipe.write import recipe_toml
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.run import train
from hdit_core.train.start.fork import ForkSource, open_parent, parse_source

PARTS = ("model", "ema", "optimizer")


@pytest.fixture(scope="module")
def parent(tmp_path_factory, tiny_data):
    """A finished run of twelve steps, with checkpoints of steps 4, 8 and 12."""
    from hdit_core.recipe.read import check_recipe
    from tests.conftest import TINY

    run = tmp_path_factory.mktemp("parent") / "run"
    train(check_recipe(TINY | {"data": TINY["data"] | {"path": str(tiny_data)}}, "tiny"), run)
    return run


def tensors(run):
    checkpoint, problems = newest_checkpoint(run)
    assert checkpoint is not None and not problems
    return {f"{part}/{key}": tensor for part in PARTS for key, tensor in checkpoint.tensors(part).items()}


def first(run):
    """Return the state and the weights of the oldest checkpoint of a run."""
    from hdit_core.checkpoint.load import open_checkpoint

    checkpoint = open_checkpoint(checkpoint_folders(run)[-1])
    return checkpoint.state, checkpoint.tensors("model"), checkpoint.tensors("ema"), checkpoint.tensors("optimizer")


def test_a_fork_without_a_change_equals_the_resumed_run_bit_for_bit(tmp_path, trained, parent):
    train(trained({}), tmp_path / "run", fork=ForkSource(parent, 4))
    ours, theirs = tensors(tmp_path / "run"), tensors(parent)
    assert ours.keys() == theirs.keys() and len(ours) > 100
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    assert newest_checkpoint(tmp_path / "run")[0].state.num_images == 96
    losses = [
        [(line["step"], line["loss"]) for line in read_log(run) if line["step"] > 4]
        for run in (tmp_path / "run", parent)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    (fork,) = read_lineage(tmp_path / "run")
    assert (fork.run, fork.step, fork.num_images, fork.reset, fork.changes) == (str(parent), 4, 32, (), {})


def test_forks_of_forks_take_over_the_state_and_record_every_change(tmp_path, trained, parent):
    changes = {"train.lr": 1e-4, "train.batch_size": 16, "train.num_images": 160, "train.cooldown_images": 32}
    train(trained(changes), tmp_path / "a", fork=ForkSource(parent))
    state, *_ = first(tmp_path / "a")
    assert (state.step, state.num_images) == (12, 96)
    assert newest_checkpoint(tmp_path / "a")[0].state.step == 16  # four steps of 16 images
    train(
        trained(changes | {"train.lr": 1e-5, "train.num_images": 176}),
        tmp_path / "b",
        fork=ForkSource(tmp_path / "a", 12),
    )
    lineage = read_lineage(tmp_path / "b")
    assert [fork.run for fork in lineage] == [str(parent), str(tmp_path / "a")]
    assert lineage[0].changes["train.lr"] == (5e-4, 1e-4) and lineage[0].changes["train.batch_size"] == (8, 16)
    assert set(lineage[1].changes) == {"train.lr", "train.num_images"}
    assert 0 < lineage[0].elapsed_s == lineage[1].elapsed_s  # the second fork is of the first one's first checkpoint
    record = training_record(tmp_path / "b", trained(changes))
    parts = run_parts(record.lineage, trained(changes), record.state, "b")
    assert [(part.run, part.images, part.batch_size) for part in parts] == [
        ("run", 96, "8"),
        ("a", 0, "16"),
        ("b", 80, "16"),
    ]


def test_reset_reinitializes_the_named_parts(tmp_path, trained, parent):
    ours = first(parent)
    source = parse_source(f"{parent}@4", ["ema", "counter", "optimizer"])
    train(trained({"train.num_images": 16}), tmp_path / "run", fork=source)
    state, model, ema, optimizer = first(tmp_path / "run")
    assert (state.step, state.num_images, state.memory.losses) == (0, 0, ()) and not optimizer
    assert all(torch.equal(model[key], ours[1][key]) and torch.equal(ema[key], ours[1][key]) for key in model)
    assert any(not torch.equal(ours[1][key], ours[2][key]) for key in model)
    assert read_lineage(tmp_path / "run")[0].reset == ("optimizer", "ema", "counter")


def test_a_fork_may_train_on_other_data(tmp_path, trained, parent, other_tiny_data):
    recipe = trained({"data.path": str(other_tiny_data), "train.num_images": 112})
    assert train(recipe, tmp_path / "run", fork=ForkSource(parent)).num_images == 112
    assert "data set" in read_lineage(tmp_path / "run")[0].changes


@pytest.mark.parametrize(
    ("changes", "reset", "message"),
    [
        (
            {"model.mapping_width": 48},
            [],
            r"the network is another one \(model.mapping_width\): the tensor",
        ),
        ({"train.optimizer": "muon"}, [], r"train.optimizer is 'adamw' there and 'muon' here, .* --reset optimizer"),
        (
            {"train.ema_profiles": [0.1]},
            [],
            r"train.ema_profiles has 0.1, an EMA that the parent did not track; .* ema",
        ),
        ({"train.num_images": 96}, [], r"trained on 96 images, train.num_images is 96: nothing is left .* counter"),
        ({"train.init_from": "x"}, [], r"train.init_from also gives initial weights"),
    ],
)
def test_changes_that_the_state_does_not_allow_are_refused_with_the_reason_and_leave_no_files(
    tmp_path, trained, parent, changes, reset, message
):
    recipe = trained({"train.num_images": 192} | changes)
    with pytest.raises(UsageError, match=rf"--from {parent}@12: .*{message}"):
        train(recipe, tmp_path / "run", fork=ForkSource(parent))
    assert not (tmp_path / "run").exists()


def test_a_reset_allows_another_optimizer_and_another_ema(tmp_path, trained, parent):
    recipe = trained({"train.num_images": 112, "train.optimizer": "muon", "train.ema_profiles": [0.1]})
    state = train(recipe, tmp_path / "run", fork=parse_source(str(parent), ["optimizer", "ema"]))
    assert state.num_images == 112


def test_a_source_without_such_a_checkpoint_is_refused(tmp_path, trained, parent):
    with pytest.raises(CheckpointError, match=r"@7: no checkpoint of this step; there are 12, 8, 4"):
        train(trained({}), tmp_path / "run", fork=ForkSource(parent, 7))
    with pytest.raises(CheckpointError, match=r"nowhere: does not exist; expected RUN or RUN@STEP"):
        train(trained({}), tmp_path / "run", fork=ForkSource(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"--reset weights: expected optimizer, ema, counter"):
        parse_source("x", ["weights"])


def test_a_killed_fork_is_resumed_by_the_same_command_or_without_from(tmp_path, trained, parent, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*args, **options):
        raise Killed

    recipe, run = trained({"train.lr": 1e-4}), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("hdit_core.train.run.build_learner", die)
        train(recipe, run, fork=ForkSource(parent, 4))
    assert not checkpoint_folders(run) and read_status(run) == {}

    def die_at_step_6(now):
        if now.step == 6:
            raise Killed

    with pytest.raises(Killed):
        train(recipe, run, callbacks=Callbacks(on_step=die_at_step_6))
    assert [folder.name for folder in checkpoint_folders(run)] == ["step-000000004"]
    train(recipe, run, fork=ForkSource(parent))
    train(recipe, tmp_path / "unbroken", fork=ForkSource(parent, 4))
    ours, theirs = tensors(run), tensors(tmp_path / "unbroken")
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    with pytest.raises(UsageError, match=r"is a run already, and was forked from .* at step 4 .*; to resume it"):
        train(recipe, run, fork=ForkSource(parent, 8))
    with pytest.raises(UsageError, match="is a run already, and was not forked"):
        train(trained({}), parent, fork=ForkSource(run))


def test_a_run_in_its_cool_down_is_extended_by_a_fork_from_before_it_and_not_in_place(tmp_path, trained, notes):
    run, cooling = tmp_path / "run", {"train.cooldown_images": 48}
    train(trained(cooling), run)
    longer = trained(cooling | {"train.num_images": 144})
    message = r"its cool-down began after 48 images and the run is at 96; .* would jump from 0 to 0.0005. Fork .*@4$"
    with pytest.raises(UsageError, match=message):
        train(longer, run)
    assert train(trained(cooling), run).num_images == 96  # unchanged, it has nothing left to do
    train(longer, tmp_path / "late", fork=ForkSource(run, 8))
    assert any("cool-down had begun: the learning rate jumps from 0.000333 to 0.0005" in note for note in notes)
    notes.clear()
    train(longer, tmp_path / "longer", fork=ForkSource(run, 4))
    assert not any("jumps" in note for note in notes)


def test_the_command_forks_and_resumes_and_explains_a_run_given_as_a_recipe(tmp_path, trained, parent, capsys):
    (tmp_path / "tiny.toml").write_text(recipe_toml(trained({})))
    new = tmp_path / "new"
    command = ["train", str(tmp_path / "tiny.toml"), "--out", str(new), "--from", f"{parent}@8", "--json"]
    assert main([*command, "--set", "train.lr=1e-4", "--set", "train.num_images=112"]) == 0
    assert main(["train", "--resume", str(new), "--set", "train.num_images=120", "--json"]) == 0
    assert newest_checkpoint(new)[0].state.num_images == 120
    capsys.readouterr()
    for path in (new, new / "recipe.toml"):
        assert main(["train", str(path)]) == 2
        said = capsys.readouterr().err
        assert f"hdit train --resume {new}." in said and "--out NEW --from" in said and "from the beginning" in said
    assert main(["train", str(new), "--dry-run"]) == 2
    assert f"{new}: is a run; for a dry run of its recipe: hdit train {new}/recipe.toml" in capsys.readouterr().err
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", str(new / "recipe.toml"), "--dry-run", "--json"]) == 0
    assert '"images_left": 120' in capsys.readouterr().out and sorted(tmp_path.rglob("*")) == before
    for arguments, message in (
        (["train"], "give either RECIPE, or --resume RUN"),
        (
            ["train", "--out", "x", "--from", f"{new}@8"],
            f"needs the RECIPE of the new run, too, such as {new}/recipe.toml",
        ),
        (["train", "--resume", str(tmp_path / "none")], "no such directory"),
        (["train", "--resume", str(new), "--out", "x"], "leave out --out and --from"),
        (["train", "mnist32", "--from", str(new)], "name its directory with --out NEW"),
        (["train", "mnist32", "--reset", "ema"], "name the parent run with --from RUN"),
        ([*command, "--dry-run"], "--from is for training"),
        (["train", str(tmp_path / "tiny.toml"), "--out", str(new)], "To continue it with these settings as a new run"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("step", "found"), [("@abc", "does not exist"), ("/checkpoints", "has no checkpoint")])
def test_a_step_that_is_no_number_is_refused_with_the_expected_form(parent, step, found):
    with pytest.raises(CheckpointError, match=f"{step}: {found}; expected RUN or RUN@STEP"):
        open_parent(parse_source(f"{parent}{step}"))


def test_keys_that_may_change_in_place_are_in_the_docs():
    from pathlib import Path

    from hdit_core.train.start.run_folder import MAY_CHANGE

    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    listed = text[text.index("## Changing a run") :]
    assert [key for key in MAY_CHANGE if f"`{key}{'*' * key.endswith(('_', '.'))}`" not in listed] == []
