"""Conversion between k-diffusion's config of an HDiT (`image_transformer_v2`) and a recipe.

A config has settings for which a recipe has no key (data set type, optimizers other than AdamW, ...); `convert.py`
therefore stores the original config. Configs of other networks are refused.
"""

import math
from typing import Any

from hdit_core.checkpoint.kdiffusion.config import Config, read_config
from hdit_core.diffusion.noise_density import LOC, NOISE_SIZE_LOW, SCALE, SIGMA_MAX, SIGMA_MIN
from hdit_core.errors import CheckpointError, RecipeError
from hdit_core.recipe.diffusion import KEYS_OF_DENSITY
from hdit_core.recipe.model import LevelRecipe
from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.run import Recipe

# not in k-diffusion's config; the values of the paper's FFHQ-1024 run
BATCH_SIZE = 256
NUM_IMAGES = 256_000_000

ATTENTION_KEYS = {  # k-diffusion's key: the recipe's
    "type": "attention",
    "d_head": "head_dim",
    "kernel_size": "kernel_size",
    "window_size": "window_size",
}
DENSITY_KEYS = {  # the recipe's key: k-diffusion's
    "sigma_min": "min_value",
    "sigma_max": "max_value",
    "noise_size_low": "noise_d_low",
    "noise_size_high": "noise_d_high",
    "loc": "loc",
    "scale": "scale",
    "scale_low": "scale_1",
    "scale_high": "scale_2",
}

KNOWN = (  # table, key, and the values that k-diffusion supports
    ("diffusion", "weighting", "karras", "snr", "soft-min-snr"),
    ("diffusion", "objective", "edm"),
    ("diffusion", "start", "noise"),
    ("model", "feed_forward", "geglu"),
    ("model", "norm", "rms"),
    ("model", "positions", "rotary"),
    ("model", "skip", "lerp"),
    ("model", "condition_channels", 0),
    ("model", "time", "log-sigma"),
    ("model", "input_offset", 0.0),
)


def density_defaults(kind: str, image_size: tuple[int, int], sigma_data: float) -> dict[str, Any]:
    """Return a recipe's defaults for missing density keys; loglogistic then has no bounds."""
    values = {
        "sigma_min": SIGMA_MIN,
        "sigma_max": SIGMA_MAX,
        "noise_size_low": NOISE_SIZE_LOW,
        "noise_size_high": max(image_size),
        "loc": LOC,
        "scale": SCALE,
        "scale_low": SCALE,
        "scale_high": SCALE,
    }
    if kind == "loglogistic":
        return {"loc": math.log(sigma_data), "scale": 0.5}
    return {key: values[key] for key in KEYS_OF_DENSITY[kind]}


# --- config -> recipe ------------------------------------------------------------------------------------------------


def recipe_from_kdiffusion(config: Any) -> Recipe:
    """Return the recipe that corresponds to a k-diffusion config.

    The config has no run length and no batch size: the recipe gets 256,000,000 images in batches of 256, as in the
    paper's FFHQ-1024 run. Of the sampling settings it has only the range of sigma.

    Args:
        config: the parsed JSON of the metadata key `config`; it is validated.

    Raises:
        CheckpointError: a key is missing or has a wrong type, or the network is not an HDiT.
    """
    checked = read_config(config)
    model, optimizer = checked.model, checked.optimizer
    tables = {
        "model": _model_tables(checked),
        "diffusion": {
            "sigma_data": model.sigma_data,
            "weighting": model.loss_weighting,
            "loss_scales": model.loss_scales,
            "density": _density_table(checked),
        },
        "data": {"path": checked.dataset.location, "augment_prob": model.augment_prob},
        "train": {
            "num_images": NUM_IMAGES,
            "batch_size": BATCH_SIZE,
            "lr": optimizer.lr,
            "betas": optimizer.betas,
            "eps": optimizer.eps,
            "weight_decay": optimizer.weight_decay,
            "class_dropout": checked.dataset.cond_dropout_rate,
            "ema_power": checked.ema_sched.power,
            "ema_max": checked.ema_sched.max_value,
        },
        "sample": {"sigma_min": model.sigma_min, "sigma_max": model.sigma_max},
    }
    try:
        return check_recipe(tables, "k-diffusion config, as a recipe")
    except RecipeError as error:
        raise CheckpointError(str(error).replace("\n", "; ")) from None


def _model_tables(config: Config) -> dict[str, Any]:
    model = config.model
    assert model.d_ffs is not None and model.self_attns is not None and model.dropout_rate is not None  # filled in
    levels = []
    for depth, width, d_ff, attention, dropout in zip(
        model.depths, model.widths, model.d_ffs, model.self_attns, model.dropout_rate, strict=True
    ):
        known = {key: getattr(attention, key) for key in type(attention).model_fields}
        level = {"depth": depth, "width": width, "d_ff": None if d_ff == 3 * width else d_ff, "dropout": dropout}
        levels.append(level | {key: known[source] for source, key in ATTENTION_KEYS.items() if source in known})
    return {
        "image_size": model.input_size,
        "channels": model.input_channels,
        "patch_size": model.patch_size,
        "levels": levels,
        "num_classes": config.dataset.num_classes,
        "mapping_width": model.mapping_width,
        "mapping_depth": model.mapping_depth,
        "mapping_d_ff": None if model.mapping_d_ff == 3 * model.mapping_width else model.mapping_d_ff,
        "mapping_dropout": model.mapping_dropout_rate,
        "mapping_cond_dim": model.mapping_cond_dim,
    }


def _density_table(config: Config) -> dict[str, Any]:
    """Return the table `[diffusion.density]` without keys that have their default values."""
    model, density = config.model, config.model.sigma_sample_density
    defaults = density_defaults(density.type, (model.input_size[0], model.input_size[1]), model.sigma_data)
    values = {key: getattr(density, DENSITY_KEYS[key]) for key in KEYS_OF_DENSITY[density.type]}
    return {"type": density.type} | {key: value for key, value in values.items() if value != defaults.get(key)}


# --- recipe -> config ------------------------------------------------------------------------------------------------


def config_to_kdiffusion(recipe: Recipe) -> dict[str, Any]:
    """Return the k-diffusion config that corresponds to a recipe, with all defaults written out.

    It contains the network, its noise distribution and the optimizer. It has no keys for run length, schedules, sampler
    and evaluation, which are lost.

    Raises:
        CheckpointError: k-diffusion does not support the network or its loss.
    """
    _check_known(recipe)
    train = recipe.train
    return {
        "model": _kdiffusion_model(recipe),
        "dataset": {
            "type": "imagefolder",
            "location": recipe.data.path,
            "num_classes": recipe.model.num_classes,
            "cond_dropout_rate": train.class_dropout,
        },
        "optimizer": {
            "type": "adamw",
            "lr": train.lr,
            "betas": list(train.betas),
            "eps": train.eps,
            "weight_decay": train.weight_decay,
        },
        "lr_sched": {"type": "constant", "warmup": 0.0},
        "ema_sched": {"type": "inverse", "power": train.ema_power, "max_value": train.ema_max},
    }


def _check_known(recipe: Recipe) -> None:
    for table, key, *known in KNOWN:
        if (value := getattr(getattr(recipe, table), key)) not in known:
            names = [str(each) for each in known]
            expected = f"{', '.join(names[:-1])} or {names[-1]}" if names[1:] else names[0]
            raise CheckpointError(f"{table}.{key} = '{value}' is unknown to k-diffusion; expected {expected}")


def _kdiffusion_model(recipe: Recipe) -> dict[str, Any]:
    model, diffusion = recipe.model, recipe.diffusion
    return {
        "type": "image_transformer_v2",
        "input_channels": model.channels,
        "input_size": list(model.image_size),
        "patch_size": list(model.patch_size),
        "depths": [level.depth for level in model.levels],
        "widths": [level.width for level in model.levels],
        "d_ffs": [level.hidden for level in model.levels],
        "self_attns": [_kdiffusion_attention(level) for level in model.levels],
        "dropout_rate": [level.dropout for level in model.levels],
        "mapping_width": model.mapping_width,
        "mapping_depth": model.mapping_depth,
        "mapping_d_ff": model.mapping_hidden,
        "mapping_dropout_rate": model.mapping_dropout,
        "mapping_cond_dim": model.mapping_cond_dim,
        "augment_prob": recipe.data.augment_prob,
        "augment_wrapper": False,
        "has_variance": False,
        "loss_config": "karras",
        "loss_weighting": diffusion.weighting,
        "loss_scales": diffusion.loss_scales,
        "sigma_data": diffusion.sigma_data,
        "sigma_min": recipe.sample.sigma_min,
        "sigma_max": recipe.sample.sigma_max,
        "sigma_sample_density": _kdiffusion_density(recipe),
    }


def _kdiffusion_attention(level: LevelRecipe) -> dict[str, Any]:
    sizes: dict[str, dict[str, int]] = {
        "global": {"d_head": level.head_dim},
        "neighborhood": {"d_head": level.head_dim, "kernel_size": level.kernel_size},
        "shifted-window": {"d_head": level.head_dim, "window_size": level.window_size},
        "none": {},
    }
    return {"type": level.attention} | sizes[level.attention]


def _kdiffusion_density(recipe: Recipe) -> dict[str, Any]:
    density = recipe.diffusion.density
    set_keys = density.model_dump(exclude_none=True, exclude={"type"})
    values = density_defaults(density.type, recipe.model.image_size, recipe.diffusion.sigma_data) | set_keys
    return {"type": density.type} | {DENSITY_KEYS[key]: value for key, value in values.items()}
