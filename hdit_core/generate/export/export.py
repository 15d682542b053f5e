"""Export of a model as a folder for publication: weights, recipe, model card, samples, and optionally a program.

    README.md             the model card
    weights.safetensors   in hdit's or k-diffusion's format; `load_denoiser(FOLDER)` reads both
    recipe.toml           the run's, with its default sampling settings
    sample.toml           the sampling settings, with k-diffusion's format only, which has no keys for them
    samples.png           uncurated samples with the default settings
    classes.json          class names, if they are known
    program.pt2           D(x=..., sigma=..., class_ids=...) for torch.export.load

No path of this machine is written, apart from the last components of those in the recipe.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from hdit_core.checkpoint.denoiser import (
    EXPORTED,
    Weights,
    build_denoiser,
    check_weights,
    read_weights,
    source_metadata,
    source_record,
)
from hdit_core.checkpoint.kdiffusion.config_to_recipe import config_to_kdiffusion
from hdit_core.checkpoint.kdiffusion.state_dict import state_to_kdiffusion
from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.devices import pick_device
from hdit_core.diffusion.precondition import Denoiser, ModelSource
from hdit_core.files import atomic_folder, check_output, digest, write_file
from hdit_core.generate.export.class_names import CLASSES
from hdit_core.generate.export.model_card import CardFacts, card
from hdit_core.generate.export.torch_program import write_program
from hdit_core.generate.export.training_record import TrainingRecord, training_record
from hdit_core.generate.generate import collect, generate
from hdit_core.generate.settings import DEFAULT_WEIGHTS, apply_defaults, open_denoiser, read_defaults, write_defaults
from hdit_core.images import png_bytes, sheet, shown
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.write import recipe_toml

Format = Literal["hdit", "k-diffusion"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
logger = logging.getLogger("hdit")

CARD, RECIPE, SHEET, PROGRAM = "README.md", "recipe.toml", "samples.png", "program.pt2"


@dataclass(frozen=True)
class ExportSettings:
    """How a model is exported.

    Attributes:
        weights: "ema", "model" (raw), or an EMA length (sigma_rel); None: those of RUN/sample.toml, or "ema".
        dtype: of the weights; RoPE frequencies stay float32.
        format: file format of the weights.
        num_samples: images on the sample sheet; 0: no sheet.
        seed: of the samples.
        program: also write a torch.export program.
        device: on which samples are generated.
        datasets: repositories of the training images on the Hugging Face hub, `"owner/name"`, for the card.
    """

    weights: Weights | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    format: Format = "hdit"
    num_samples: int = 16
    seed: int = 0
    program: bool = False
    device: str = "auto"
    datasets: tuple[str, ...] = ()


def without_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with its paths reduced to their last components."""
    data = recipe.data.model_copy(update={"path": PurePosixPath(recipe.data.path).name or "data"})
    train = recipe.train.model_copy(update={"init_from": _last_part(recipe.train.init_from)})
    evaluate = recipe.evaluate.model_copy(update={"reference": _last_part(recipe.evaluate.reference)})
    return recipe.model_copy(update={"data": data, "train": train, "evaluate": evaluate})


def _last_part(path: str | None) -> str | None:
    return path and (PurePosixPath(path).name or None)


def in_dtype(recipe: Recipe, state: Mapping[str, Tensor], dtype: torch.dtype, where: str) -> dict[str, Tensor]:
    """Return the network's tensors in a dtype, except for those that must not be rounded.

    Raises:
        CheckpointError: the tensors do not match the recipe's network.
    """
    return dict(build_denoiser(recipe, state, where).to(dtype).network.state_dict())


def export(source: Path, folder: Path, settings: ExportSettings) -> dict[str, Any]:
    """Export a model and return a summary of the files; the folder is created atomically.

    Args:
        source: anything that `load_denoiser` accepts.
        folder: must not exist.

    Raises:
        UsageError: the folder exists, the source has other weights, or the format cannot represent the network.
        RecipeError: RUN/sample.toml is damaged, or does not match the network.
        CheckpointError: the source is missing or damaged, or the program's outputs differ from the network's.
    """
    check_output("--out", folder, new=True)
    defaults = read_defaults(source)
    weights = settings.weights or defaults.weights
    recipe, state, found = read_weights(source, weights)
    check_weights(source, settings.weights, found)
    origin = source_metadata(found)
    record, recipe = training_record(source, recipe), without_paths(apply_defaults(recipe, defaults))
    tensors = in_dtype(recipe, state, DTYPES[settings.dtype], str(source))
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as target:
        _write_network(target, tensors, recipe, settings.format, origin)
        if record.classes:
            write_file(target / CLASSES, json.dumps(record.classes, indent=1) + "\n")
        denoiser, _ = open_denoiser(target, device=pick_device(settings.device))
        facts = _facts(target, denoiser, settings, found)
        write_file(target / CARD, card(recipe, record, facts))
        files = {path.name: path.stat().st_size for path in sorted(target.iterdir())}
    return {"folder": str(folder), **_summary(facts, record, found), "files": files}


def _summary(facts: CardFacts, record: TrainingRecord, found: ModelSource) -> dict[str, Any]:
    """Return what was exported, for `--json`, without folder and files."""
    return {
        "format": facts.format,
        "dtype": facts.dtype,
        **source_record(found),
        "forked_from": [f"{Path(fork.run).name}@{fork.step}" for fork in record.lineage],
        "weights": facts.weights,
        "weights_sha256": facts.sha256,
        "parameters": facts.parameters,
        "program_largest_error": facts.program and facts.program[1],
    }


def _write_network(
    folder: Path, tensors: Mapping[str, Tensor], recipe: Recipe, file_format: Format, origin: Mapping[str, str]
) -> None:
    write_file(folder / RECIPE, recipe_toml(recipe))
    if file_format == "hdit":
        write_tensors(folder / EXPORTED, tensors, recipe.model_dump_json(), **origin)
        return
    config = json.dumps(config_to_kdiffusion(recipe), indent=1)
    write_file(folder / EXPORTED, save(state_to_kdiffusion(dict(tensors), recipe), {"config": config, **origin}))
    sample = recipe.sample.model_dump(mode="json", exclude_none=True)
    write_defaults(folder, origin.get("weights", DEFAULT_WEIGHTS), sample, "the default sampling settings of the run")


def _facts(folder: Path, denoiser: Denoiser, settings: ExportSettings, source: ModelSource) -> CardFacts:
    """Write samples and program, and return the card's facts about the files."""
    num_samples = 0 if _takes_conditions(denoiser.recipe) else settings.num_samples
    if num_samples:
        logger.info("generating %d samples", num_samples)
        _write_sheet(folder / SHEET, denoiser, settings)
    elif settings.num_samples:
        logger.info("no sample sheet: the network takes condition images or vectors, and export has none")
    program = None
    if settings.program:
        logger.info("tracing the program")
        checked = write_program(folder / PROGRAM, denoiser)
        program = (PROGRAM, checked.largest_error)
    return CardFacts(
        weights=source.weights or "unknown",
        run=source.run and Path(source.run).name,
        dtype=settings.dtype,
        file=EXPORTED,
        format=settings.format,
        sha256=digest(folder / EXPORTED).sha256,
        parameters=sum(parameter.numel() for parameter in denoiser.parameters()),
        sheet=SHEET if num_samples else None,
        sampled=(num_samples, settings.seed),
        program=program,
        datasets=settings.datasets,
    )


def _takes_conditions(recipe: Recipe) -> bool:
    return bool(recipe.condition_image_channels or recipe.model.mapping_cond_dim)


def _write_sheet(path: Path, denoiser: Denoiser, settings: ExportSettings) -> None:
    images_u8, classes = collect(generate(denoiser, range(settings.num_samples), seed=settings.seed))
    captions = None if classes is None else [str(number) for number in classes]
    write_file(path, png_bytes(sheet(shown(images_u8), captions)))
