"""Checkpoints in the layout of PMRF give its flow: the same velocity at the same time, for pixels in [-1, 1]."""

import json

import pytest
import torch
from safetensors.torch import save_file

from hdit_core.checkpoint import load_denoiser
from hdit_core.checkpoint.convert import convert_weights
from hdit_core.checkpoint.kdiffusion import pmrf
from hdit_core.checkpoint.kdiffusion.pmrf import ARCHITECTURES, recipe_of_pmrf
from hdit_core.checkpoint.kdiffusion.state_dict import state_to_kdiffusion
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.model.hourglass import HourglassTransformer
from tests.model.small_network import awake

ARGUMENTS = {
    "stage": "flow",
    "arch": "hdit_small",
    "conditional": False,
    "mmse_model_ckpt_path": "swinir.pth",
    "mmse_model_arch": "swinir_L",
    "lr": 5e-4,
    "weight_decay": 1e-2,
    "betas": (0.9, 0.95),
    "mmse_noise_std": 0.1,
    "num_flow_steps": 25,
    "ema_decay": 0.9999,
    "eps": 0.0,
    "t_schedule": "stratified_uniform",
    "colorization": False,
}
LEVELS = [
    {"depth": 2, "width": 32, "attention": "neighborhood", "head_dim": 16, "kernel_size": 3},
    {"depth": 1, "width": 32, "attention": "global", "head_dim": 16},
]
LAYER = (
    "self_attn.scale",
    "self_attn.norm.linear.weight",
    "self_attn.qkv_proj.weight",
    "self_attn.pos_emb.freqs",
    "self_attn.out_proj.weight",
    "ff.norm.linear.weight",
    "ff.up_proj.weight",
    "ff.down_proj.weight",
)


def names_in_order(depths):
    """The names of PMRF's tensors in the order in which its modules register them."""
    block = ("norm.scale", "up_proj.weight", "down_proj.weight")
    yield from (
        "patch_in.proj.weight",
        "time_emb.weight",
        "time_in_proj.weight",
        "aug_emb.weight",
        "aug_in_proj.weight",
    )
    yield "mapping.in_norm.scale"
    yield from (f"mapping.blocks.{index}.{part}" for index in range(2) for part in block)
    yield "mapping.out_norm.scale"
    outer = len(depths) - 1
    for side in ("down_levels", "up_levels"):
        yield from (f"{side}.{i}.{j}.{part}" for i in range(outer) for j in range(depths[i]) for part in LAYER)
    yield from (f"mid_level.{j}.{part}" for j in range(depths[-1]) for part in LAYER)
    yield from (f"merges.{i}.proj.weight" for i in range(outer))
    yield from (f"splits.{i}.{part}" for i in range(outer) for part in ("fac", "proj.weight"))
    yield from ("out_norm.scale", "patch_out.proj.weight")


@pytest.fixture
def small(monkeypatch):
    """The recipe of a small architecture of PMRF's kind, for 16 x 16 pixels."""
    monkeypatch.setitem(ARCHITECTURES, "hdit_small", {"image_size": 16, "levels": LEVELS})
    monkeypatch.setattr(pmrf, "MAPPING", {"mapping_width": 32, "mapping_depth": 2})
    return recipe_of_pmrf(ARGUMENTS, "test")


@pytest.fixture
def network(small):
    """PMRF's network by its own definition: a network of ours without its time, offset and scales."""
    model = small.model.model_copy(update={"time": "log-sigma", "input_offset": 0.0})
    return awake(HourglassTransformer(model)).requires_grad_(False)


@pytest.fixture
def weights(small, network):
    """Its state dict, under PMRF's names and in its order."""
    theirs = state_to_kdiffusion(network.state_dict(), small)
    order = list(names_in_order([2, 1]))
    assert set(order) == set(theirs)
    return {f"model.{name}": theirs[name] for name in order}


@pytest.fixture
def checkpoint(weights, tmp_path):
    """Return a function that writes Lightning's file, in which the averages are three times the weights."""

    def write(**changes):
        parameters = [tensor for name, tensor in weights.items() if "emb.weight" not in name and "freqs" not in name]
        others = {"mmse_model.conv.weight": torch.ones(3), "fid.inception.x": torch.ones(2)}
        content = {
            "epoch": 3,
            "global_step": 100,
            "pytorch-lightning_version": "2.3.3",
            "state_dict": weights | others,
            "loops": {},
            "callbacks": {"ModelCheckpoint": {"best_model_score": None, "kth_value": torch.tensor(1.0)}},
            "optimizer_states": [],
            "hparams_name": "kwargs",
            "hyper_parameters": ARGUMENTS,
            "ema": {
                "decay": 0.9999,
                "num_updates": 100,
                "shadow_params": [3 * parameter for parameter in parameters],
                "collected_params": None,
            },
        }
        path = tmp_path / "epoch=3-step=100.ckpt"
        torch.save(content | changes, path)
        return path

    return write


def convert(path, target, **options):
    convert_weights(path, target, to="hdit", trust_pickle=True, **options)
    return load_denoiser(target)


def velocity(network, images, time):
    """PMRF's velocity: images in [0, 1] and time as they are."""
    return network(images, (4 * time).exp())  # whose time input is ln(sigma) / 4


def test_the_flow_has_the_same_velocity_for_pixels_in_minus_one_to_one(checkpoint, network, tmp_path):
    denoiser = convert(checkpoint(), tmp_path / "ours", weights="model")
    numbers = torch.Generator().manual_seed(0)
    time = torch.tensor([0.1, 0.5, 0.9])
    seen = torch.rand(3, 3, 16, 16, generator=numbers)  # t image + (1 - t) start, in [0, 1]
    t = time[:, None, None, None]
    flow = velocity(network, seen, time)
    expected = 2 * (seen + (1 - t) * flow) - 1  # the end of the straight line, in [-1, 1]
    x, sigma = (2 * seen - 1) / t, (1 - time) / time
    torch.testing.assert_close(denoiser(x, sigma), expected, rtol=1e-4, atol=1e-5)
    assert float(flow.abs().mean()) > 0.1


def test_the_recipe_has_the_training_and_sampling_settings_of_the_flow(checkpoint, tmp_path):
    recipe = convert(checkpoint(), tmp_path / "ours").recipe
    diffusion, sample = recipe.diffusion, recipe.sample
    assert (diffusion.objective, diffusion.start, diffusion.start_noise) == ("flow", "image", 0.2)
    assert (sample.sampler, sample.schedule, sample.steps) == ("euler", "flow", 25)
    assert recipe.model.condition_channels == 0 and recipe.condition_image_channels == 3


@pytest.mark.parametrize(("weights_name", "factor"), [("model", 1), ("ema", 3)])
def test_ema_weights_are_matched_to_the_parameters_by_their_order(checkpoint, network, tmp_path, weights_name, factor):
    found = convert(checkpoint(), tmp_path / "ours", weights=weights_name).network.state_dict()
    scale = {"patch_in.proj.weight": 0.5, "patch_out.proj.weight": 2.0}
    for name, parameter in network.named_parameters():
        assert found[name].equal(factor * parameter * scale.get(name, 1.0)), name
    for name, buffer in network.named_buffers():
        assert found[name].equal(buffer), name


def test_a_folder_of_the_hub_is_converted_without_a_pickle(weights, network, tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text(json.dumps(ARGUMENTS))
    save_file(weights | {"mmse_model.conv.weight": torch.ones(3)}, tmp_path / "hub" / "model.safetensors")
    convert_weights(tmp_path / "hub", tmp_path / "ours", to="hdit")
    found = load_denoiser(tmp_path / "ours").network.state_dict()
    assert found["out_norm.scale"].equal(network.state_dict()["out_norm.scale"])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stage": "mmse"}, "stage = 'mmse' is not a flow; expected 'flow' or 'naive_flow'"),
        ({"conditional": True}, "conditional = true flows from noise to images in"),
        ({"arch": "swinir_L"}, "arch = 'swinir_L' is not an HDiT of PMRF; expected hdit_ImageNet256Sp4 or hdit_XL2"),
        ({"t_schedule": "cosine"}, "t_schedule = 'cosine'; expected uniform"),
        ({"arch": ["hdit_XL2"]}, r"arch = \['hdit_XL2'\] is not an HDiT of PMRF"),
        ({"t_schedule": []}, r"t_schedule = \[\]; expected uniform"),
        ({"betas": None}, "ckpt: its arguments cannot be used: 'NoneType'"),
        ({"num_flow_steps": float("inf")}, "ckpt: its arguments cannot be used: cannot convert float infinity"),
        ({"num_flow_steps": 0}, "sample.steps"),
    ],
)
def test_a_checkpoint_that_is_no_flow_from_an_image_is_refused(checkpoint, tmp_path, changes, message):
    path = checkpoint(hyper_parameters=ARGUMENTS | changes)
    with pytest.raises(CheckpointError, match=message):
        convert(path, tmp_path / "ours")


def test_missing_or_misordered_ema_weights_are_refused(checkpoint, weights, tmp_path):
    path = checkpoint(ema={"shadow_params": [torch.zeros(1)]})
    with pytest.raises(CheckpointError, match=r"ckpt: has averages of 1 parameters; the flow has \d+"):
        convert(path, tmp_path / "ours")
    count = sum("emb.weight" not in name and "freqs" not in name for name in weights)
    with pytest.raises(CheckpointError, match=r"the averages are not in the order of the parameters, at patch_in"):
        convert(checkpoint(ema={"shadow_params": [torch.zeros(1)] * count}), tmp_path / "ours")


def test_a_checkpoint_without_ema_weights_or_flow_is_refused(checkpoint, tmp_path):
    path = checkpoint()
    content = torch.load(path)
    del content["ema"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="has no averaged weights; take the others with --weights model"):
        convert(path, tmp_path / "ours")
    assert convert(path, tmp_path / "ours", weights="model")
    with pytest.raises(CheckpointError, match=r"has no tensors named model\.\*, which are the flow's"):
        convert(checkpoint(state_dict={"x": torch.ones(1)}), tmp_path / "other")


def test_a_flow_cannot_be_written_for_k_diffusion(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=r"is unknown to k-diffusion"):
        convert_weights(checkpoint(), tmp_path / "theirs", to="k-diffusion", trust_pickle=True)


def test_a_pickle_must_be_trusted_explicitly(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="--i-trust-this-pickle"):
        convert_weights(checkpoint(), tmp_path / "ours", to="hdit")


@pytest.mark.parametrize("name", ["hdit_ImageNet256Sp4", "hdit_XL2"])
def test_the_published_architectures_are_known(name):
    recipe = recipe_of_pmrf(ARGUMENTS | {"arch": name}, "test")
    assert recipe.model.image_size == ((512, 512) if name == "hdit_ImageNet256Sp4" else (256, 256))
    assert recipe.model.levels[-1].hidden == 3 * recipe.model.levels[-1].width and recipe.model.mapping_hidden == 2304
