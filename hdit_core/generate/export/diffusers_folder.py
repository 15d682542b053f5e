"""Export of a model for the diffusers library: a folder that `DiffusionPipeline.from_pretrained` loads.

model_index.json                   the parts and their classes
pipeline_hdit.py                   the pipeline
transformer/                       config.json, weights as safetensors, and the model's code
scheduler/scheduler_config.json    a scheduler of diffusers with the settings of `[sample]`
README.md                          how to load it

DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch

import hdit_core.generate.export.diffusers as code
from hdit_core.checkpoint.denoiser import Weights, build_denoiser, check_weights, read_weights
from hdit_core.checkpoint.safetensors_file import write_tensor_file
from hdit_core.errors import UsageError
from hdit_core.files import atomic_folder, check_output, read_text, write_file
from hdit_core.generate.export.markdown import as_text
from hdit_core.generate.settings import apply_defaults, read_defaults
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.sample import SampleRecipe

PIPELINE, MODEL, LAYERS = "pipeline_hdit.py", "modeling_hdit.py", "hdit_layers.py"
WEIGHTS = "diffusion_pytorch_model.safetensors"
EXACT_SAMPLERS, EXACT_SCHEDULES = ("euler", "dpmpp_2m"), ("karras", "exponential")
logger = logging.getLogger("hdit")

USAGE = """---
library_name: diffusers
pipeline_tag: unconditional-image-generation
---

    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
    pipeline({arguments}num_inference_steps={steps}).images[0].save("image.png")

A Hourglass Diffusion Transformer, exported by hdit{weights}. `trust_remote_code` runs the code in this folder.
"""


def export_diffusers(
    source: Path, folder: Path, weights: Weights | None = None, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Export a model for diffusers and return a summary; the folder is created atomically.

    Args:
        source: anything that `load_denoiser` accepts.
        folder: must not exist.
        weights: kind of the weights; None: those of RUN/sample.toml, or "ema".
        dtype: of the weights; fixed frequencies stay float32.

    Raises:
        UsageError: the folder exists, the source has other weights, or the network has a part that the exported code
            lacks; names the key.
        CheckpointError: the source is missing or damaged.
    """
    check_output("--out", folder, new=True)
    defaults = read_defaults(source)
    recipe, state, found = read_weights(source, weights or defaults.weights)
    check_weights(source, weights, found)
    recipe = apply_defaults(recipe, defaults)
    _check_supported(recipe)
    _log_lost(recipe.sample)
    denoiser = build_denoiser(recipe, state, str(source)).to(dtype)
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as target:
        _write_code(target)
        write_tensor_file(target / "transformer" / WEIGHTS, denoiser.network.state_dict(), {"format": "pt"})
        for name, document in _configs(recipe).items():
            write_file(target / name, json.dumps(document, indent=2) + "\n")
        write_file(target / "README.md", _usage(recipe, found.weights))
        files = {
            str(path.relative_to(target)): path.stat().st_size for path in sorted(target.rglob("*")) if path.is_file()
        }
    return {"folder": str(folder), "weights": found.weights or "unknown", "files": files}


def _write_code(folder: Path) -> None:
    for subfolder in ("transformer", "scheduler"):
        (folder / subfolder).mkdir()
    for name, subfolder in ((PIPELINE, ""), (MODEL, "transformer"), (LAYERS, "transformer")):
        write_file(folder / subfolder / name, read_text(Path(code.__path__[0]) / name))


def _configs(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the JSON files of the folder."""
    scheduler = scheduler_config(recipe.sample, recipe.diffusion.sigma_data)
    index = {
        "_class_name": [PIPELINE.removesuffix(".py"), "HDiTPipeline"],
        "transformer": [MODEL.removesuffix(".py"), "HDiTModel"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
    }
    return {
        "model_index.json": index,
        "transformer/config.json": model_config(recipe),
        "scheduler/scheduler_config.json": scheduler,
    }


def _usage(recipe: Recipe, weights: Weights | None) -> str:
    classes = bool(recipe.model.num_classes)
    arguments = f"class_labels=[0], guidance_scale={recipe.sample.guidance:g}, " if classes else ""
    named = f" ({as_text(weights)} weights)" if weights else ""
    return USAGE.format(arguments=arguments, steps=recipe.sample.steps, weights=named)


def _check_supported(recipe: Recipe) -> None:
    """Refuse networks with a part that the exported code lacks."""
    model, diffusion = recipe.model, recipe.diffusion
    wanted = {
        "diffusion.objective": (diffusion.objective, "edm"),
        "diffusion.start": (diffusion.start, "noise"),
        "model.feed_forward": (model.feed_forward, "geglu"),
        "model.norm": (model.norm, "rms"),
        "model.positions": (model.positions, "rotary"),
        "model.skip": (model.skip, "lerp"),
        "model.time": (model.time, "log-sigma"),
        "model.input_offset": (model.input_offset, 0.0),
        "model.mapping_cond_dim": (model.mapping_cond_dim, 0),
        "model.condition_channels": (model.condition_channels, 0),
    }
    for key, (value, supported) in wanted.items():
        if value != supported:
            raise UsageError(f"--diffusers: {key} is {value!r}; the exported code supports {supported!r} only")


def _log_lost(sample: SampleRecipe) -> None:
    """Log the sampling settings that the pipeline and the schedulers of diffusers do not have."""
    lost = [key for key in ("guidance_interval", "guidance_rescale", "churn") if getattr(sample, key)]
    lost += ["sampler"] if sample.sampler not in EXACT_SAMPLERS else []
    lost += ["schedule"] if sample.schedule not in EXACT_SCHEDULES else []
    for key in lost:
        value = getattr(sample, key)
        logger.warning(
            "sample.%s = %s has no counterpart in diffusers: its samples will differ from hdit's", key, value
        )


def model_config(recipe: Recipe) -> dict[str, Any]:
    """Return the config of the model: the arguments of `HDiTModel`."""
    model = recipe.model
    keys = ("depth", "width", "hidden", "head_dim", "attention", "kernel_size", "window_size")
    return {
        "_class_name": "HDiTModel",
        "sample_size": list(model.image_size),
        "channels": model.channels,
        "patch_size": list(model.patch_size),
        "levels": [{key: getattr(level, key) for key in keys} for level in model.levels],
        "num_classes": model.num_classes,
        "mapping_width": model.mapping_width,
        "mapping_depth": model.mapping_depth,
        "mapping_hidden": model.mapping_hidden,
    }


def scheduler_config(sample: SampleRecipe, sigma_data: float) -> dict[str, Any]:
    """Return the config of the scheduler that is nearest to the recipe's sampler.

    `euler` is `EDMEulerScheduler`; `dpmpp_2m`, and any other deterministic sampler, is DPM-Solver++ (2M); the SDE
    samplers are its SDE form. With the `karras` and `exponential` schedules the noise levels are the same.
    """
    config = {
        "sigma_min": sample.sigma_min,
        "sigma_max": sample.sigma_max,
        "sigma_data": sigma_data,
        "sigma_schedule": "exponential" if sample.schedule == "exponential" else "karras",
        "rho": sample.rho or 7.0,
        "prediction_type": "epsilon",  # in these schedulers: F with EDM's scalings
        "final_sigmas_type": "zero",
    }
    if sample.sampler == "euler":
        return {"_class_name": "EDMEulerScheduler", **config}
    algorithm = "sde-dpmsolver++" if sample.sampler.endswith("_sde") and sample.eta else "dpmsolver++"
    return {
        "_class_name": "EDMDPMSolverMultistepScheduler",
        **config,
        "solver_order": 2,
        "algorithm_type": algorithm,
        "solver_type": "midpoint",
    }
