"""Power-function EMAs: tracked in training, saved, resumed and stored in snapshots."""

import pytest
import torch

from hdit_core.checkpoint.denoiser import load_denoiser
from hdit_core.checkpoint.ema.post_hoc import build_post_hoc_ema
from hdit_core.checkpoint.ema.profile import gamma_of
from hdit_core.checkpoint.ema.snapshots import snapshots, stream_tensors
from hdit_core.checkpoint.layout import ema_folder
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.errors import CheckpointError, RecipeError, StoppedEarly, UsageError
from hdit_core.train.async_checkpoint import AsyncCheckpointer
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.optim.ema import PowerEmas
from hdit_core.train.run import train
from hdit_core.train.step.train_step import Learner
from tests.train.test_resume import assert_same_bits, stop_at

PROFILES = {"train.ema_profiles": [0.05, 0.2], "train.ema_snapshot_every_images": 24}
GROWTH = {"train.batch_growth": [{"after_images": 32, "batch_size": 16}]}


def test_tracked_profiles_equal_the_weighted_integrals_for_any_batch_sizes(tmp_path, trained, monkeypatch):
    weights, update = [], Learner.train_step

    def record(learner, step, batches):
        result = update(learner, step, batches)
        state = {name: tensor.double() for name, tensor in learner.ema.source.state_dict().items()}
        weights.append((step.num_images, step.num_images + step.batch_size, state))
        return result

    monkeypatch.setattr(Learner, "train_step", record)
    train(trained(PROFILES | GROWTH), tmp_path / "run")
    assert [after - before for before, after, _ in weights] == [8] * 4 + [16] * 4
    checkpoint = newest_checkpoint(tmp_path / "run")[0]
    for std in (0.05, 0.2):
        found, power = checkpoint.tensors(f"ema-{std:.3f}"), gamma_of(std) + 1
        assert found.keys() == checkpoint.tensors("model").keys()
        for name, tensor in found.items():
            shares = [((after / 96) ** power - (before / 96) ** power) for before, after, _ in weights]
            expected = sum(share * state[name] for share, (_, _, state) in zip(shares, weights, strict=True))
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-7)


def contents(run):
    return {path.name: path.read_bytes() for path in ema_folder(run).iterdir()}


def test_snapshots_are_saved_when_due_and_at_the_end_with_the_ema_in_16_bits(tmp_path, trained):
    train(trained(PROFILES | {"train.num_images": 64, "train.keep_checkpoints": 2}), tmp_path / "run")
    found = snapshots(tmp_path / "run")
    assert [(s.profile.num_images, s.profile.std) for s in found] == [
        (images, std) for images in (24, 48, 64) for std in (0.05, 0.2)
    ]
    checkpoint = newest_checkpoint(tmp_path / "run")[0]
    exact, kept = checkpoint.tensors("ema-0.200"), dict(stream_tensors(found[-1].path))
    for name, tensor in exact.items():
        if "frequencies" in name:
            assert torch.equal(kept[name], tensor)
        else:
            assert kept[name].dtype == torch.half
            torch.testing.assert_close(kept[name].float(), tensor, rtol=2**-11, atol=3e-8)


def test_without_profiles_there_are_no_snapshots_and_no_further_state(tmp_path, trained):
    run = tmp_path / "run"
    train(trained({"train.num_images": 16}), run)
    assert not ema_folder(run).exists()
    names = {path.name for path in newest_checkpoint(run)[0].folder.iterdir()}
    assert names == {f"{part}.safetensors" for part in ("model", "ema", "optimizer")} | {"state.json", "manifest.json"}


def test_the_weights_do_not_depend_on_tracked_profiles(tmp_path, trained):
    train(trained({}), tmp_path / "without")
    train(trained(PROFILES), tmp_path / "with")
    assert_same_bits(tmp_path / "without", tmp_path / "with")


def test_a_stopped_and_resumed_run_has_the_same_profiles_and_snapshots(tmp_path, trained):
    recipe, runs = trained(PROFILES), [tmp_path / "unbroken", tmp_path / "broken"]
    train(recipe, runs[0])
    with pytest.raises(StoppedEarly):
        train(recipe, runs[1], callbacks=stop_at(runs[1], [4]))
    train(recipe, runs[1])
    first, second = (newest_checkpoint(run)[0] for run in runs)
    for part in ("ema-0.050", "ema-0.200"):
        assert all(torch.equal(tensor, second.tensors(part)[name]) for name, tensor in first.tensors(part).items())
    assert contents(runs[0]) == contents(runs[1]) and len(contents(runs[0])) == 8


class Killed(Exception):
    pass


def test_a_resumed_run_removes_snapshots_of_later_steps(tmp_path, trained, monkeypatch):
    recipe, runs = trained(PROFILES), [tmp_path / "unbroken", tmp_path / "broken"]
    train(recipe, runs[0])
    update, left = Learner.train_step, []

    def killed(learner, step, batches):
        if step.number == 7:  # the newest checkpoint is of 32 images, the newest snapshots are of 48
            raise Killed
        return update(learner, step, batches)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Learner, "train_step", killed)
        train(recipe, runs[1])
    assert [s.profile.num_images for s in snapshots(runs[1])] == [24, 24, 48, 48]
    (ema_folder(runs[1]) / ".tmp-000000056-ema-0.050.safetensors-1").write_bytes(b"cut short")

    def look(learner, step, batches):
        left.append([s.profile.num_images for s in snapshots(runs[1])])
        return update(learner, step, batches)

    monkeypatch.setattr(Learner, "train_step", look)
    train(recipe, runs[1])
    assert left[0] == [24, 24] and contents(runs[0]) == contents(runs[1])


def test_a_kill_between_a_snapshot_and_the_checkpoint_of_the_same_step_loses_none(tmp_path, trained, monkeypatch):
    recipe = trained(PROFILES | {"train.ema_snapshot_every_images": 32})
    train(recipe, tmp_path / "unbroken")
    snapshot, save = PowerEmas.write_snapshots, AsyncCheckpointer.save
    for name, part, act in (("before", PowerEmas, snapshot), ("between", AsyncCheckpointer, save)):

        def killed(self, *arguments, act=act):
            act(self, *arguments)
            raise Killed

        attribute = "write_snapshots" if part is PowerEmas else "save"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(part, attribute, killed)
            train(recipe, tmp_path / name)
        train(recipe, tmp_path / name)
        assert contents(tmp_path / name) == contents(tmp_path / "unbroken")


def test_the_snapshot_interval_may_change_and_the_profiles_may_not(tmp_path, trained):
    run = tmp_path / "run"
    train(trained(PROFILES | {"train.num_images": 24}), run)
    train(trained(PROFILES | {"train.num_images": 48, "train.ema_snapshot_every_images": 8}), run)
    assert [s.profile.num_images for s in snapshots(run)][::2] == [24, 32, 40, 48]
    with pytest.raises(UsageError, match=r"train.ema_profiles \[0.05, 0.2\] \(run\) vs \[0.05, 0.1\]"):
        train(trained(PROFILES | {"train.ema_profiles": [0.05, 0.1]}), run)


def test_by_default_there_are_64_snapshots_and_0_means_none(changed):
    profiles = {"train.num_images": 6400, "train.ema_profiles": [0.05]}
    assert changed(profiles).train.snapshot_every_images == 100
    assert changed(profiles | {"train.ema_snapshot_every_images": 0}).train.snapshot_every_images == 0
    assert changed({"train.num_images": 6400}).train.snapshot_every_images == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train.ema_profiles": [0.3]}, r"train.ema_profiles\[0\]"),
        ({"train.ema_profiles": [0.0]}, r"train.ema_profiles\[0\]"),
        ({"train.ema_profiles": [0.0505]}, r"has more than three decimals, which file names do not have"),
        ({"train.ema_profiles": [0.05, 0.05]}, r"lists a width twice"),
        ({"train.ema_snapshot_every_images": 8}, r"needs ema_profiles, for example \[0.05, 0.10\]"),
    ],
)
def test_invalid_lengths_are_refused(changed, values, message):
    with pytest.raises(RecipeError, match=message):
        changed(values)


@pytest.fixture(scope="module")
def followed(tmp_path_factory, tiny_data):
    """A run with 12 snapshots of two profiles."""
    from hdit_core.recipe.read import check_recipe
    from tests.conftest import TINY

    train_table = TINY["train"] | {"ema_profiles": [0.05, 0.2], "ema_snapshot_every_images": 8}
    recipe = check_recipe(TINY | {"data": TINY["data"] | {"path": str(tiny_data)}, "train": train_table}, "followed")
    run = tmp_path_factory.mktemp("followed") / "run"
    train(recipe, run, callbacks=Callbacks())
    return run


def test_weights_are_named_by_the_length_of_their_ema(followed):
    checkpoint = newest_checkpoint(followed)[0]
    for weights in ("0.05", "0.050", ".05"):
        state = load_denoiser(followed, weights).network.state_dict()
        assert all(torch.equal(state[name], t) for name, t in checkpoint.tensors("ema-0.050").items())
    assert torch.equal(
        load_denoiser(checkpoint.folder, "0.2").network.out_norm.scale,
        checkpoint.tensors("ema-0.200")["out_norm.scale"],
    )


def test_a_reconstructed_length_is_available_as_long_as_its_snapshots_exist(followed, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no EMA of length 0.100 yet; run hdit ema --length 0.1 "):
        load_denoiser(followed, "0.1")
    made = build_post_hoc_ema(followed, 0.1)
    state = load_denoiser(followed, "0.1").network.state_dict()
    assert all(torch.equal(state[name], t) for name, t in load_denoiser(made.path).network.state_dict().items())
    first = snapshots(followed)[0].path
    first.rename(tmp_path / first.name)
    with pytest.raises(CheckpointError, match=r"was reconstructed from other snapshots than the run has now; rerun"):
        load_denoiser(followed, "0.1")
    (tmp_path / first.name).rename(first)


def test_weights_that_a_checkpoint_cannot_have_are_refused(followed, tmp_path, trained):
    with pytest.raises(UsageError, match=r"weights emma: expected ema, model, or an EMA length such as 0.08"):
        load_denoiser(followed, "emma")
    with pytest.raises(UsageError, match=r"EMA length 0.5: expected a number from 0.001"):
        load_denoiser(followed, "0.5")
    train(trained({"train.num_images": 8}), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"has no EMA of length 0.080 and no snapshots to reconstruct it from"):
        load_denoiser(tmp_path / "run", "0.08")
