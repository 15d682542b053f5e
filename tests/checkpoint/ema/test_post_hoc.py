"""EMA weights of any length from snapshots of two, against exact ones on the same trajectory and ema-pytorch's."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hdit_core.checkpoint.denoiser import load_denoiser
from hdit_core.checkpoint.ema import post_hoc as posthoc_module
from hdit_core.checkpoint.ema.post_hoc import build_post_hoc_ema
from hdit_core.checkpoint.ema.profile import Profile
from hdit_core.checkpoint.ema.snapshots import post_hoc_file, rounded, snapshots, stream_tensors, write_snapshot
from hdit_core.checkpoint.safetensors_file import read_tensors
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.run import Recipe
from hdit_core.train.optim.ema import PowerEma
from tests.conftest import TINY

LENGTHS = (0.05, 0.10, 0.03, 0.075, 0.2)  # of the first two there are snapshots
SIZES = [8] * 128 + [16] * 64 + [32] * 32  # batch growth included: 3072 images
PART = "middle.0.feed_forward.up.weight"


@dataclass(frozen=True)
class Walk:
    """A trajectory of weights: its ends, exact averages, and runs with snapshots of two."""

    recipe: Recipe
    network: HourglassTransformer  # at the end
    begin: dict[str, Tensor]
    exact: dict[float, dict[str, Tensor]]
    whole: Path  # with snapshots in float32
    halved: Path

    def run(self, folder, count, halved=True):
        """Copy the run with a limited number of snapshots of each length."""
        source = self.halved if halved else self.whole
        (folder / "averages").mkdir(parents=True)
        for snapshot in snapshots(source):
            if snapshot.profile.num_images % (sum(SIZES) // count) == 0:
                shutil.copy(snapshot.path, folder / "averages")
        return folder

    @property
    def names(self):
        """Of what is averaged."""
        return [name for name, _ in self.network.named_parameters()]


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Walk the weights at random, and follow them with averages."""
    recipe = check_recipe(TINY, "tiny")
    network = HourglassTransformer(recipe.model)
    initialize(network, 0)
    begin = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    whole, halved = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("halved")
    running, seen, numbers = [PowerEma(network, std) for std in LENGTHS], 0, torch.Generator().manual_seed(3)
    for size in SIZES:
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(torch.randn(weight.shape, generator=numbers), alpha=0.02)
        for profile in running:
            profile.update_after(seen, seen + size)
        seen += size
        if seen % (sum(SIZES) // 32) == 0:
            for profile in running[:2]:
                write_snapshot(whole, recipe, Profile(profile.std, seen), profile.tensors())
                write_snapshot(halved, recipe, Profile(profile.std, seen), profile.snapshot(profile.tensors()))
    return Walk(recipe, network, begin, {profile.std: profile.tensors() for profile in running}, whole, halved)


def distance(found, expected, names):
    """The root of the mean squared difference of all averaged weights."""
    squares = [(found[name] - expected[name]).double().square().sum() for name in names]
    return float(torch.stack(squares).sum() / sum(expected[name].numel() for name in names)) ** 0.5


def test_a_reconstructed_ema_approaches_the_tracked_one_with_more_snapshots(tmp_path, walk, monkeypatch):
    monkeypatch.setattr(posthoc_module, "MAX_ERROR", 1.0)
    errors, bounds = [], []
    for count in (4, 8, 16, 32):
        made = build_post_hoc_ema(walk.run(tmp_path / str(count), count, halved=False), 0.075)
        assert (made.num_images, made.num_snapshots) == (3072, 2 * count)
        errors.append(distance(read_tensors(made.path)[0], walk.exact[0.075], walk.names))
        bounds.append(made.mixture.error)
    moved = distance(walk.network.state_dict(), walk.begin, walk.names)
    assert errors[0] > 2 * errors[1] > 6 * errors[2] > 18 * errors[3] and errors[3] < 2e-4 * moved, (errors, moved)
    assert all(error <= bound * moved for error, bound in zip(errors, bounds, strict=True)), (errors, bounds)


@pytest.mark.parametrize("std", [0.03, 0.05, 0.2])
def test_the_error_of_rounding_to_16_bits_is_the_predicted_gain(tmp_path, walk, std):
    made, exact = build_post_hoc_ema(walk.run(tmp_path / "run", 32), std), walk.exact[std]
    error = distance(read_tensors(made.path)[0], exact, walk.names)
    size = distance(exact, {name: torch.zeros_like(tensor) for name, tensor in exact.items()}, walk.names)
    moved = distance(walk.network.state_dict(), exact, walk.names)
    assert 0 < error < 2**-11 * made.mixture.gain * size + made.mixture.error * moved


def test_a_reconstructed_ema_equals_that_of_ema_pytorch(tmp_path, walk):
    ema_pytorch = pytest.importorskip("ema_pytorch", reason="pip install ema-pytorch")
    theirs = tmp_path / "theirs"
    other = ema_pytorch.PostHocEMA(
        walk.network, sigma_rels=LENGTHS[:2], checkpoint_folder=str(theirs), checkpoint_every_num_steps="manual"
    )
    for snapshot in snapshots(walk.whole):
        state = {f"ema_model.{name}": tensor for name, tensor in stream_tensors(snapshot.path)}
        place, seen = LENGTHS.index(snapshot.profile.std), snapshot.profile.num_images
        state |= {"initted": torch.tensor(True), "step": torch.tensor(seen)}
        torch.save(state, theirs / f"{place}.{seen}.pt")
    for std in (0.04, 0.08, 0.15):
        expected = other.synthesize_ema_model(sigma_rel=std).ema_model.state_dict()
        found = read_tensors(build_post_hoc_ema(walk.whole, std, tmp_path / "made.safetensors").path)[0]
        for name in walk.names:
            largest = float(expected[name].abs().max())
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-4 * largest)


def test_one_snapshot_is_reproduced_bit_for_bit(tmp_path, walk):
    run = walk.run(tmp_path / "run", 1)
    snapshots(run)[0].path.unlink()
    made, only = build_post_hoc_ema(run, 0.10), snapshots(run)
    assert len(only) == 1 and made.mixture.weights == pytest.approx((1.0,), abs=1e-12)
    kept, found = dict(stream_tensors(only[0].path)), read_tensors(made.path)[0]
    assert kept.keys() == found.keys() == walk.begin.keys()
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in kept.items())
    assert {kept[name].dtype for name in walk.names} == {torch.half}


def test_a_reconstructed_ema_loads_as_a_file_and_its_fixed_tensors_are_exact(tmp_path, walk):
    run = walk.run(tmp_path / "run", 32)
    made = build_post_hoc_ema(run, 0.03, tmp_path / "elsewhere.safetensors")  # by large weights of either sign
    assert made.path == tmp_path / "elsewhere.safetensors" and not post_hoc_file(run, 0.03).exists()
    denoiser = load_denoiser(made.path)
    assert denoiser.recipe == walk.recipe
    assert all(torch.equal(buffer, walk.begin[name]) for name, buffer in denoiser.network.named_buffers())


def test_a_length_out_of_the_snapshots_reach_is_refused_with_the_possible_range(tmp_path, walk):
    run = walk.run(tmp_path / "run", 8)
    with pytest.raises(UsageError, match=r"16 snapshots do not allow .* 0.020: .* 24.\d% .* lengths: 0.037 to 0.172"):
        build_post_hoc_ema(run, 0.020)
    with pytest.raises(UsageError, match=r"of length 0.288"):
        build_post_hoc_ema(run, 0.288)


def test_a_length_whose_weights_would_amplify_rounding_is_refused(tmp_path, walk, monkeypatch):
    monkeypatch.setattr(posthoc_module, "MAX_GAIN", 2.0)
    with pytest.raises(UsageError, match=r"amplification of rounding 5.\d \(at most 2\)"):
        build_post_hoc_ema(walk.run(tmp_path / "run", 32), 0.030)


def test_a_run_without_snapshots_is_refused_with_the_setting_for_them(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no EMA snapshots; train with train.ema_profiles"):
        build_post_hoc_ema(tmp_path, 0.05)


def test_a_damaged_snapshot_is_named_and_nothing_is_written(tmp_path, walk):
    run = walk.run(tmp_path / "run", 16)
    file = snapshots(run)[3].path
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{file.name}: corrupt: its content has checksum"):
        build_post_hoc_ema(run, 0.08)
    assert not list((run / "averages").glob("*post-hoc*"))


def test_a_snapshot_that_is_truncated_or_without_recipe_is_named(tmp_path, walk):
    run = walk.run(tmp_path / "run", 16)
    newest = snapshots(run)[-1]
    content = newest.path.read_bytes()
    newest.path.write_bytes(content[:-7])
    with pytest.raises(CheckpointError, match=rf"{newest.path.name}: corrupt, or not a safetensors file"):
        build_post_hoc_ema(run, 0.08)
    newest.path.write_bytes(content.replace(b'"recipe"', b'"recipx"'))
    with pytest.raises(CheckpointError, match=rf"{newest.path.name}: its metadata is corrupt: 'recipe'"):
        build_post_hoc_ema(run, 0.08)


def test_an_unwritable_disk_is_reported_in_one_line(tmp_path, walk):
    run = walk.run(tmp_path / "run", 16)
    with pytest.raises(CheckpointError, match=r"there/average.safetensors: cannot be written \(No such file or dir"):
        build_post_hoc_ema(run, 0.08, tmp_path / "not" / "there" / "average.safetensors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "averages").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"000000008-ema-0.050.safetensors: cannot be saved \(.*\); free disk"):
        write_snapshot(tmp_path / "full", walk.recipe, Profile(0.05, 8), walk.begin)


def test_a_snapshot_of_another_network_is_named(tmp_path, walk):
    run = walk.run(tmp_path / "run", 16)
    first = snapshots(run)[0]
    tensors = dict(stream_tensors(first.path))
    write_snapshot(run, walk.recipe, first.profile, tensors | {PART: tensors[PART][:-1]})
    with pytest.raises(CheckpointError, match=rf"{first.path.name}: {PART} does not fit the model"):
        build_post_hoc_ema(run, 0.08)
    del tensors[PART]
    write_snapshot(run, walk.recipe, first.profile, tensors)
    with pytest.raises(CheckpointError, match=rf"{first.path.name}: lacks the tensor {PART}"):
        build_post_hoc_ema(run, 0.08)


def test_tensors_that_overflow_16_bits_stay_in_32():
    assert rounded(torch.tensor([1.0, 65504.0])).dtype == torch.half
    assert torch.equal(rounded(torch.tensor([1.0, 7e4])), torch.tensor([1.0, 7e4]))


def test_snapshots_are_read_one_after_the_other(tmp_path, walk, monkeypatch):
    read, being_read = [], set()

    def watched(path):
        being_read.add(path)
        assert len(being_read) == 1
        yield from stream_tensors(path)
        being_read.remove(path)
        read.append(path)

    monkeypatch.setattr(posthoc_module, "stream_tensors", watched)
    run = walk.run(tmp_path / "run", 16)
    build_post_hoc_ema(run, 0.08)
    assert read == [snapshot.path for snapshot in snapshots(run)]
