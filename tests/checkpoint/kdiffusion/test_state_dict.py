"""k-diffusion's checkpoints are converted in both directions without loss; hostile ones end in one clear line."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hdit_core.checkpoint.kdiffusion.config import read_config
from hdit_core.checkpoint.kdiffusion.config_to_recipe import config_to_kdiffusion, recipe_from_kdiffusion
from hdit_core.checkpoint.kdiffusion.state_dict import kdiffusion_names, state_from_kdiffusion, state_to_kdiffusion
from hdit_core.errors import CheckpointError
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.train.optim.parameter_groups import parameter_groups

REFERENCE = Path(__file__).parents[2] / "reference"
NAMES = ("neighborhood", "shifted_window", "global")


def metadata(name, key):
    with safe_open(REFERENCE / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()[key])


@pytest.fixture
def config():
    return metadata("neighborhood", "config")


@pytest.mark.parametrize("name", NAMES)
def test_parameter_groups_equal_the_references(name):
    recipe = recipe_from_kdiffusion(metadata(name, "config"))
    network = HourglassTransformer(recipe.model)
    found = [
        (sorted(kdiffusion_names(key, recipe)[0] for key in group["names"]), group["lr"], group["weight_decay"])
        for group in parameter_groups(network, lr=5e-4, weight_decay=0.01)
    ]
    expected = [
        (sorted(group["names"]), group["lr"], 0.01 if group["weight_decay"] == "default" else group["weight_decay"])
        for group in metadata(f"{name}.io", "param_groups")
    ]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[0] == theirs[0]
        assert ours[1:] == pytest.approx(theirs[1:], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_read_back_with_the_same_bytes_and_name(reference, name, dtype):
    state = {key: tensor.to(dtype) for key, tensor in reference(name).items()}
    recipe = recipe_from_kdiffusion(metadata(name, "config"))
    back = state_to_kdiffusion(state_from_kdiffusion(state, recipe), recipe)
    assert back.keys() == state.keys()
    assert all(tensor.dtype == dtype and torch.equal(tensor, back[key]) for key, tensor in state.items())
    assert len({tensor.data_ptr() for tensor in back.values()}) == len(back)


@pytest.mark.parametrize("name", NAMES)
def test_the_references_configs_fit_a_recipe_completely(name):
    config = metadata(name, "config")
    assert config_to_kdiffusion(recipe_from_kdiffusion(config)) == filled(config)


def filled(config):
    return read_config(config).model_dump(exclude_none=True)


UNUSUAL = {
    "defaults": {"model": {"self_attns": None, "widths": [64, 128, 64], "input_size": [128, 128], "sigma_data": 1.0}},
    "an integer for all levels": {"model": {"dropout_rate": 0}},
    "a rate for all levels": {"model": {"dropout_rate": 0.1}},
    "a rate for each level": {"model": {"dropout_rate": [0, 0.1, 0.25], "mapping_dropout_rate": 0.5}},
    "not square": {"model": {"input_size": [64, 128], "patch_size": [2, 4], "input_channels": 1}},
    "hidden widths": {"model": {"d_ffs": [64, 96, 200], "mapping_d_ff": 100}},
    "no attention": {"model": {"self_attns": [{"type": "none"}, {"type": "none", "d_head": 4}, {"type": "global"}]}},
    "smaller and larger sigmas": {"model": {"sigma_min": 1e-4, "sigma_max": 2000}},
    "lognormal": {"model": {"sigma_sample_density": {"type": "lognormal", "mean": -1.2, "std": 1.2}}},
    "loglogistic": {"model": {"sigma_sample_density": {"type": "loglogistic"}}},
    "loglogistic with bounds": {"model": {"sigma_sample_density": {"type": "loglogistic", "loc": 0, "max_value": 80}}},
    "loguniform": {"model": {"sigma_sample_density": {"type": "loguniform", "min_value": 0.5}}},
    "v-diffusion": {"model": {"sigma_sample_density": {"type": "v-diffusion"}}},
    "split": {"model": {"sigma_sample_density": {"type": "split-lognormal", "loc": 0, "std_1": 1, "scale_2": 2}}},
    "another size of noise": {
        "model": {"sigma_sample_density": {"type": "cosine-interpolated", "noise_d_low": 16, "image_d": 96}}
    },
    "another optimizer": {"optimizer": {"type": "adam8bit", "percentile": 5}, "lr_sched": {"warmup": 0.99}},
    "another schedule": {"lr_sched": {"type": "inverse", "inv_gamma": 20000.0}, "ema_sched": {"inv_gamma": 2}},
    "another data set": {"dataset": {"type": "huggingface", "location": "flowers", "image_key": "image"}},
    "multi-scale loss": {"model": {"loss_scales": 3, "loss_weighting": "snr"}, "remark": ["any", {"thing": None}]},
}


@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_an_unusual_config_keeps_its_meaning_with_explicit_defaults_and_through_a_recipe(config, change):
    for table, values in change.items():
        config[table] = config[table] | values if isinstance(values, dict) else values
    recipe = recipe_from_kdiffusion(config)
    assert recipe_from_kdiffusion(filled(config)) == recipe
    assert recipe_from_kdiffusion(config_to_kdiffusion(recipe)) == recipe


def test_the_scales_of_the_loss_are_preserved(config):
    assert recipe_from_kdiffusion(config).diffusion.loss_scales == 1
    config["model"]["loss_scales"] = 3
    recipe = recipe_from_kdiffusion(config)
    assert recipe.diffusion.loss_scales == config_to_kdiffusion(recipe)["model"]["loss_scales"] == 3


def test_missing_keys_of_a_config_have_the_defaults_of_the_reference(config):
    for key in ("mapping_width", "mapping_depth", "dropout_rate", "augment_prob", "loss_weighting", "sigma_data"):
        del config["model"][key]
    for key in ("optimizer", "lr_sched", "ema_sched", "dataset"):
        del config[key]
    recipe = recipe_from_kdiffusion(config)
    assert (recipe.model.mapping_width, recipe.model.mapping_depth, recipe.model.num_classes) == (256, 2, 0)
    assert (recipe.diffusion.sigma_data, recipe.diffusion.weighting, recipe.data.augment_prob) == (1.0, "karras", 0.0)
    assert (recipe.train.lr, recipe.train.betas, recipe.train.weight_decay) == (5e-4, (0.9, 0.99), 1e-4)
    assert (recipe.train.ema_power, recipe.train.ema_max, recipe.train.class_dropout) == (0.6667, 0.9999, 0.1)
    config["model"]["self_attns"] = None
    config["model"] |= {"widths": [64, 64, 128], "input_size": [128, 128]}
    levels = recipe_from_kdiffusion(config).model.levels
    assert [level.attention for level in levels] == ["neighborhood", "neighborhood", "global"]
    assert [(level.head_dim, level.kernel_size) for level in levels] == [(64, 7)] * 3


def test_training_bounds_extend_to_the_samplers_where_those_are_wider(config):
    config["model"] |= {"sigma_min": 1e-4, "sigma_max": 2000}
    density = recipe_from_kdiffusion(config).diffusion.density
    assert (density.sigma_min, density.sigma_max) == (1e-4, 2000)
    config["model"] |= {"sigma_min": 0.01, "sigma_max": 160}
    density = recipe_from_kdiffusion(config).diffusion.density
    assert (density.sigma_min, density.sigma_max) == (None, None)


HOSTILE = [
    ("model.type", "image_v1", "model.type = 'image_v1': expected 'image_transformer_v2'"),
    ("model.type", None, "model.type"),
    ("model.widths", "wide", "model.widths = 'wide': expected a valid list"),
    ("model.widths", [32, True, 64], r"model.widths\[1\] = 'True': expected a valid integer"),
    ("model.widths", [32, 48, 2**40], r"model.widths\[2\].*less than or equal"),
    ("model.widths", [32, 48], "depths has 3 entries, widths has 2"),
    ("model.widths", [], "model.widths.*at least 1"),
    ("model.widths", [32, 40, 64], "40 is not a multiple of head_dim = 16"),
    ("model.depths", [2, 10**6, 2], "depths have the sum 1000004; expected at most 1000"),
    ("model.depths", [0, 1, 2], r"model.depths\[0\] = '0': expected greater than 0"),
    ("model.self_attns", [{"type": "cross"}] * 3, r"model.self_attns\[0\].*cross"),
    ("model.self_attns", [{}] * 3, r"model.self_attns\[0\]"),
    ("model.self_attns", [3] * 3, r"model.self_attns\[0\]"),
    ("model.dropout_rate", [0.0, "x", 0.0], r"model.dropout_rate\[1\] = 'x'"),
    ("model.dropout_rate", 2.0, r"model.dropout_rate\[0\].*less than or equal to 1"),
    ("model.has_variance", True, "model.has_variance = 'True': expected False"),
    ("model.augment_wrapper", True, "model.augment_wrapper = 'True': expected False"),
    ("model.loss_config", "simple", "model.loss_config = 'simple': expected 'karras'"),
    ("model.loss_weighting", "mine", "model.loss_weighting = 'mine': expected 'karras', 'snr' or 'soft-min-snr'"),
    ("model.sigma_data", float("nan"), "model.sigma_data = 'nan': expected"),
    ("model.sigma_min", 200, "sigma_min"),
    ("model.input_size", [60, 64], "60 is not a multiple of 16"),
    ("model.input_size", [64], "model.input_size"),
    ("model.sigma_sample_density", {"type": "uniform"}, "model.sigma_sample_density.type = 'uniform': expected"),
    ("model.sigma_sample_density", {"type": "lognormal"}, "lognormal has no loc"),
    ("model.sigma_sample_density", 3, "model.sigma_sample_density"),
    ("optimizer.betas", [0.9], "optimizer.betas"),
    ("dataset", [], "dataset"),
]


@pytest.mark.parametrize(("key", "value", "message"), HOSTILE)
def test_a_hostile_config_ends_in_one_clear_line(config, key, value, message):
    *parents, last = key.split(".")
    table = config[parents[0]] if parents else config
    table[last] = value
    with pytest.raises(CheckpointError, match=message) as error:
        recipe_from_kdiffusion(config)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("k-diffusion config")


@pytest.mark.parametrize("key", ["type", "widths", "sigma_min", "sigma_sample_density", "input_size"])
def test_a_missing_key_is_named(config, key):
    del config["model"][key]
    with pytest.raises(CheckpointError, match=f"model.{key}: missing"):
        recipe_from_kdiffusion(config)


@pytest.mark.parametrize("config", [None, [], "x", {}])
def test_a_file_that_is_not_a_config_is_refused(config):
    with pytest.raises(CheckpointError, match="k-diffusion config: "):
        recipe_from_kdiffusion(config)


def test_many_errors_are_one_line(config):
    config["model"]["widths"] = ["x"] * 30
    config["model"] |= dict.fromkeys(("depths", "self_attns", "dropout_rate"))
    with pytest.raises(CheckpointError, match=r"; and 2[0-9] more") as error:
        recipe_from_kdiffusion(config)
    assert len(str(error.value)) < 1000


def test_a_state_that_does_not_fit_its_config_is_refused(reference, config):
    recipe, state = recipe_from_kdiffusion(config), reference("neighborhood")

    def refuse(message, **changes):
        changed = {key: tensor for key, tensor in (state | changes).items() if tensor is not None}
        with pytest.raises(CheckpointError, match=message):
            state_from_kdiffusion(changed, recipe)

    layer = "down_levels.0.1.self_attn."
    refuse("lacks the tensor class_emb.weight", **{"class_emb.weight": None})
    refuse("has the tensor extra", extra=torch.zeros(1))
    refuse(r"splits.0.fac has shape \[2\], its config requires \[1\]", **{"splits.0.fac": torch.zeros(2)})
    frequencies = state[f"{layer}pos_emb.freqs"]
    refuse(f"{layer}pos_emb.freqs differs from", **{f"{layer}pos_emb.freqs": frequencies + 1})
    refuse(f"{layer}pos_emb.freqs differs from", **{f"{layer}pos_emb.freqs": frequencies.double()})


def test_an_incomplete_state_dict_cannot_be_converted(reference, config):
    recipe = recipe_from_kdiffusion(config)
    state = state_from_kdiffusion(reference("neighborhood"), recipe)
    with pytest.raises(CheckpointError, match=r"state: lacks the tensor out_norm.scale"):
        state_to_kdiffusion({key: tensor for key, tensor in state.items() if key != "out_norm.scale"}, recipe)
    with pytest.raises(CheckpointError, match="state: has the tensor extra"):
        state_to_kdiffusion(state | {"extra": torch.zeros(1)}, recipe)


@pytest.mark.parametrize(
    ("table", "key", "value", "expected"),
    [
        ("diffusion", "weighting", "min-snr", "karras, snr or soft-min-snr"),
        ("diffusion", "objective", "flow", "edm"),
        ("diffusion", "start", "image", "noise"),
        ("model", "feed_forward", "gelu", "geglu"),
        ("model", "norm", "layer", "rms"),
        ("model", "positions", "additive", "rotary"),
        ("model", "skip", "concat", "lerp"),
        ("model", "time", "t", "log-sigma"),
        ("model", "input_offset", 1.0, "0.0"),
        ("model", "condition_channels", 3, "0"),
    ],
)
def test_features_that_k_diffusion_lacks_are_refused(config, table, key, value, expected):
    recipe = recipe_from_kdiffusion(config)
    changed = getattr(recipe, table).model_copy(update={key: value})
    message = f"{table}.{key} = '{value}' is unknown to k-diffusion; expected {expected}"
    with pytest.raises(CheckpointError, match=message):
        config_to_kdiffusion(recipe.model_copy(update={table: changed}))


def test_reading_a_config_does_not_change_it(config):
    before = copy.deepcopy(config)
    recipe_from_kdiffusion(config)
    assert config == before
