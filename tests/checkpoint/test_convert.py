"""Conversion takes the requested weights, and leaves a complete file or none."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hdit_core.checkpoint import convert, load_denoiser
from hdit_core.checkpoint.convert import convert_weights
from hdit_core.checkpoint.safetensors_file import read_tensors
from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.diffusion.precondition import ModelSource
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.model.hourglass import HourglassTransformer
from tests.conftest import REFERENCE


@pytest.fixture
def pickled(tmp_path):
    """A training checkpoint of k-diffusion whose average is twice its weights."""
    source = REFERENCE / "global.safetensors"
    with safe_open(source, "pt") as file:
        config = json.loads(file.metadata()["config"])
    state = load_file(source)
    doubled = {key: tensor if key.endswith("freqs") else 2 * tensor for key, tensor in state.items()}
    torch.save({"config": config, "model": state, "model_ema": doubled}, tmp_path / "train.pth")
    return tmp_path / "train.pth", state["patch_in.proj.weight"]


@pytest.mark.parametrize(("weights", "factor"), [("model", 1), ("ema", 2)])
def test_the_requested_weights_of_a_training_checkpoint_are_taken(pickled, tmp_path, weights, factor):
    path, expected = pickled
    convert_weights(path, tmp_path / "ours", to="hdit", weights=weights, trust_pickle=True)
    assert torch.equal(read_tensors(tmp_path / "ours")[0]["patch_in.proj.weight"], factor * expected)


@pytest.mark.parametrize(("weights", "value"), [("model", 1.0), ("ema", 2.0)])
def test_the_requested_weights_of_a_run_are_loaded_and_converted(tmp_path, tiny_recipe, weights, value):
    shapes = HourglassTransformer(tiny_recipe.model).state_dict()
    parts = {part: {k: torch.full_like(t, v) for k, t in shapes.items()} for part, v in (("model", 1.0), ("ema", 2.0))}
    save_checkpoint(tmp_path / "run", tiny_recipe, State(step=1, num_images=8, data_hash="f" * 64), parts)
    assert load_denoiser(tmp_path / "run", weights).network.out_norm.scale.unique().item() == value
    result = convert_weights(tmp_path / "run", tmp_path / "ours", to="hdit", weights=weights)
    denoiser = load_denoiser(tmp_path / "ours")
    assert result["parameters"] == sum(parameter.numel() for parameter in denoiser.parameters())  # without buffers
    assert (result["run"], result["step"], result["weights"]) == ("run", 1, weights)
    assert denoiser.source == ModelSource("run", 1, 8, weights)
    assert read_tensors(tmp_path / "ours")[0]["out_norm.scale"].unique().item() == value


@pytest.fixture
def iem(tmp_path):
    """A checkpoint in the layout of the Information-Estimation Metric's: config and averaged weights, nothing else.

    All keys of the config are given, the density is loguniform, and there are no classes.
    """
    state = load_file(REFERENCE / "global.safetensors")
    with safe_open(REFERENCE / "global.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    config["model"] |= {
        "loss_config": "karras",
        "loss_weighting": "soft-min-snr",
        "sigma_sample_density": {"type": "loguniform", "min_value": 1e-3, "max_value": 1e3},
    }
    path = tmp_path / "imagenet_256x256_loguniform_00400000.pth"
    torch.save({"config": config, "model_ema": state}, path)
    return path, state["patch_in.proj.weight"]


def test_a_checkpoint_of_ema_weights_alone_is_converted_with_its_loguniform_density(iem, tmp_path):
    path, expected = iem
    convert_weights(path, tmp_path / "ours", to="hdit", trust_pickle=True)
    denoiser = load_denoiser(tmp_path / "ours")
    assert torch.equal(denoiser.network.state_dict()["patch_in.proj.weight"], expected)
    assert denoiser.recipe.diffusion.density.type == "loguniform"
    with pytest.raises(
        CheckpointError, match=r"pth: has no model, which --weights model needs; it has config, model_ema"
    ):
        convert_weights(path, tmp_path / "raw", to="hdit", weights="model", trust_pickle=True)


@pytest.mark.parametrize("to", ["hdit", "k-diffusion"])
def test_a_conversion_creates_its_output_folder(tmp_path, to):
    convert_weights(REFERENCE / "global.safetensors", tmp_path / "runs" / "new" / "ours", to=to)
    assert (tmp_path / "runs" / "new" / "ours").is_file()


def test_an_untrusted_pickle_is_not_opened(pickled, tmp_path):
    with pytest.raises(UsageError, match=r"a pickle, which.*--i-trust-this-pickle"):
        convert_weights(pickled[0], tmp_path / "ours", to="hdit")


def test_a_conversion_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    def full(path, *arguments, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "write_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        convert_weights(REFERENCE / "global.safetensors", tmp_path / "ours", to="hdit")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("weights", ["0.08", "raw"])
def test_weights_that_a_training_checkpoint_does_not_have_are_refused(pickled, tmp_path, weights):
    with pytest.raises(UsageError, match=f"--weights {weights}: a pickle has ema and model weights"):
        convert_weights(pickled[0], tmp_path / "ours", to="hdit", weights=weights, trust_pickle=True)
    assert not (tmp_path / "ours").exists()


def test_weights_that_a_file_does_not_have_are_refused(pickled, tmp_path):
    convert_weights(pickled[0], tmp_path / "ours", to="hdit", weights="model", trust_pickle=True)
    with pytest.raises(UsageError, match="ours: has the weights model, not ema; leave out --weights"):
        convert_weights(tmp_path / "ours", tmp_path / "theirs", to="k-diffusion", weights="ema")
    assert convert_weights(tmp_path / "ours", tmp_path / "theirs", to="k-diffusion")["weights"] == "model"
