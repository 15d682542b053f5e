"""k-diffusion's config of an HDiT (`image_transformer_v2`) as a recipe, and back.

A config also says things that a recipe has no key for (the type of the data set, an optimizer other than AdamW, ...):
who wants it back to the letter keeps it, as `convert.py` does. One that makes another network than HDiT is refused.
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

# their config says neither; these are the paper's for FFHQ-1024
BATCH_SIZE = 256
NUM_IMAGES = 256_000_000

ATTENTION_KEYS = {  # theirs: ours
    "type": "attention",
    "d_head": "head_dim",
    "kernel_size": "kernel_size",
    "window_size": "window_size",
}
DENSITY_KEYS = {  # ours: theirs
    "sigma_min": "min_value",
    "sigma_max": "max_value",
    "noise_size_low": "noise_d_low",
    "noise_size_high": "noise_d_high",
    "loc": "loc",
    "scale": "scale",
    "scale_low": "scale_1",
    "scale_high": "scale_2",
}

KNOWN = (  # table, key, and the values that k-diffusion has a counterpart of
    ("diffusion", "weighting", "karras", "snr", "soft-min-snr"),
    ("diffusion", "objective", "edm"),
    ("model", "feed_forward", "geglu"),
    ("model", "norm", "rms"),
    ("model", "positions", "rotary"),
    ("model", "skip", "lerp"),
)


def density_defaults(kind: str, image_size: tuple[int, int], sigma_data: float) -> dict[str, Any]:
    """Return what a recipe means by the density keys that it leaves out; loglogistic has no bounds then."""
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
    """Return the recipe that a k-diffusion config amounts to.

    The config does not say how long and in what batches to train: the recipe gets 256,000,000 images in batches of 256,
    the paper's for FFHQ-1024. How to sample it does not say either, but for the range of sigma.

    Args:
        config: the JSON under the metadata key `config`, parsed; nothing about it is trusted.

    Raises:
        CheckpointError: something is missing, of a wrong type, or describes a network that is not HDiT.
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
        levels.append(level | {ours: known[theirs] for theirs, ours in ATTENTION_KEYS.items() if theirs in known})
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
    """Return `[diffusion.density]`; keys that say what a recipe means anyway are left out."""
    model, density = config.model, config.model.sigma_sample_density
    defaults = density_defaults(density.type, (model.input_size[0], model.input_size[1]), model.sigma_data)
    values = {key: getattr(density, DENSITY_KEYS[key]) for key in KEYS_OF_DENSITY[density.type]}
    return {"type": density.type} | {key: value for key, value in values.items() if value != defaults.get(key)}


# --- recipe -> config ------------------------------------------------------------------------------------------------


def config_to_kdiffusion(recipe: Recipe) -> dict[str, Any]:
    """Return the k-diffusion config of a recipe, with all defaults written out.

    It holds the network, its noise and the optimizer. The length of the run, its schedule of batches and learning
    rates, the sampler and the evaluation have no key there: whoever wants them keeps the recipe.

    Args:
        recipe: of ours.

    Raises:
        CheckpointError: the network or its loss is one that k-diffusion does not know.
    """
    _check_known(recipe)
    train = recipe.train
    return {
        "model": _their_model(recipe),
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
        if (found := getattr(getattr(recipe, table), key)) not in known:
            expected = f"{', '.join(known[:-1])} or {known[-1]}" if known[1:] else known[0]
            raise CheckpointError(f"{table}.{key} = '{found}' is unknown to k-diffusion; expected {expected}")


def _their_model(recipe: Recipe) -> dict[str, Any]:
    model, diffusion = recipe.model, recipe.diffusion
    return {
        "type": "image_transformer_v2",
        "input_channels": model.channels,
        "input_size": list(model.image_size),
        "patch_size": list(model.patch_size),
        "depths": [level.depth for level in model.levels],
        "widths": [level.width for level in model.levels],
        "d_ffs": [level.hidden for level in model.levels],
        "self_attns": [_their_attention(level) for level in model.levels],
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
        "sigma_sample_density": _their_density(recipe),
    }


def _their_attention(level: LevelRecipe) -> dict[str, Any]:
    own: dict[str, dict[str, int]] = {
        "global": {"d_head": level.head_dim},
        "neighborhood": {"d_head": level.head_dim, "kernel_size": level.kernel_size},
        "shifted-window": {"d_head": level.head_dim, "window_size": level.window_size},
        "none": {},
    }
    return {"type": level.attention} | own[level.attention]


def _their_density(recipe: Recipe) -> dict[str, Any]:
    density = recipe.diffusion.density
    given = density.model_dump(exclude_none=True, exclude={"type"})
    values = density_defaults(density.type, recipe.model.image_size, recipe.diffusion.sigma_data) | given
    return {"type": density.type} | {DENSITY_KEYS[key]: value for key, value in values.items()}
