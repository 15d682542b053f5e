"""A network as a folder that others can use: weights, recipe, card, samples, and a program on request.

    README.md             the card
    weights.safetensors   in hdit's or in k-diffusion's format; `load_denoiser(FOLDER)` reads both
    recipe.toml           of the run, to draw as the run is drawn by default
    sample.toml           the same, in k-diffusion's format, whose file of weights has no place for it
    samples.png           images of the recipe's settings, not chosen
    classes.json          names of the classes, where they are known
    program.pt2           D(x, sigma, class) for torch.export.load

Nothing in it names a folder of this machine but the last part of the data set's path.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from hdit_core.checkpoint.denoiser import EXPORTED, Weights, build_denoiser, read_weights
from hdit_core.checkpoint.kdiffusion.recipe import config_to_kdiffusion
from hdit_core.checkpoint.kdiffusion.state_dict import state_to_kdiffusion
from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.devices import pick_device
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import UsageError
from hdit_core.files import atomic_folder, digest
from hdit_core.generate.export.model_card import CardFacts, card
from hdit_core.generate.export.torch_program import write_program
from hdit_core.generate.export.training_record import training_record
from hdit_core.generate.generate import collect, generate
from hdit_core.generate.settings import DEFAULT_WEIGHTS, apply_defaults, open_denoiser, read_defaults, write_defaults
from hdit_core.images import png_bytes, sheet
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.write import recipe_toml

Format = Literal["hdit", "k-diffusion"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CARD, RECIPE, SHEET, CLASSES, PROGRAM = "README.md", "recipe.toml", "samples.png", "classes.json", "program.pt2"


@dataclass(frozen=True)
class ExportSettings:
    """How a network is exported.

    Attributes:
        weights: "ema", "model", or the length of an average; None: those of RUN/sample.toml, or the averaged ones.
        dtype: of the weights; frequencies stay float32.
        format: whose file of weights.
        num_samples: images on the sheet; 0: no sheet.
        seed: of these.
        program: also write a program.
        device: where images are drawn.
    """

    weights: Weights | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    format: Format = "hdit"
    num_samples: int = 16
    seed: int = 0
    program: bool = False
    device: str = "auto"


def without_place(recipe: Recipe) -> Recipe:
    """Return a recipe that does not say where on this machine its data set lies, only its name."""
    name = PurePosixPath(recipe.data.path).name or "data"
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": name})})


def in_dtype(recipe: Recipe, state: Mapping[str, Tensor], dtype: torch.dtype, where: str) -> dict[str, Tensor]:
    """Return the network's tensors in a dtype, but for those that must not be rounded.

    Raises:
        CheckpointError: the tensors are not those of the recipe's network.
    """
    return dict(build_denoiser(recipe, state, where).to(dtype).network.state_dict())


def _check_new(folder: Path) -> None:
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder}: exists, and is not replaced; give another with --to")


def export(
    source: Path, folder: Path, settings: ExportSettings, on_note: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Export a network and return what was written; the folder is whole or not there.

    Args:
        source: whatever `load_denoiser` takes.
        folder: must not exist.
        on_note: is told what is being done.

    Raises:
        UsageError: the folder exists, or the format cannot hold the network.
        RecipeError: RUN/sample.toml is damaged, or does not go with the network.
        CheckpointError: the source is missing or damaged, or the program's answers are others than the network's.
    """
    _check_new(folder)
    defaults = read_defaults(source)
    weights = settings.weights or defaults.weights
    recipe, state = read_weights(source, weights)
    record, recipe = training_record(source, recipe), without_place(apply_defaults(recipe, defaults))
    tensors = in_dtype(recipe, state, DTYPES[settings.dtype], str(source))
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as here:
        _write_network(here, tensors, recipe, settings.format)
        if record.classes:
            (here / CLASSES).write_text(json.dumps(record.classes, indent=1) + "\n")
        denoiser, _ = open_denoiser(here, device=pick_device(settings.device))
        facts = _facts(here, denoiser, settings, weights if record.state else "the file's", on_note)
        (here / CARD).write_text(card(recipe, record, facts))
        files = {path.name: path.stat().st_size for path in sorted(here.iterdir())}
    return {
        "folder": str(folder),
        "format": facts.format,
        "dtype": facts.dtype,
        "weights": facts.weights,
        "weights_sha256": facts.sha256,
        "parameters": facts.parameters,
        "program_largest_error": facts.program and facts.program[1],
        "files": files,
    }


def _write_network(here: Path, tensors: Mapping[str, Tensor], recipe: Recipe, form: Format) -> None:
    (here / RECIPE).write_text(recipe_toml(recipe))
    if form == "hdit":
        write_tensors(here / EXPORTED, tensors, recipe.model_dump_json())
        return
    config = json.dumps(config_to_kdiffusion(recipe), indent=1)
    (here / EXPORTED).write_bytes(save(state_to_kdiffusion(dict(tensors), recipe), {"config": config}))
    drawn = recipe.sample.model_dump(mode="json", exclude_none=True)
    write_defaults(here, DEFAULT_WEIGHTS, drawn, "how images are drawn: as the run's, whose weights these are")


def _facts(
    here: Path, denoiser: Denoiser, settings: ExportSettings, weights: str, on_note: Callable[[str], None]
) -> CardFacts:
    """Write samples and program, and return what the card says of the files."""
    if settings.num_samples:
        on_note(f"drawing {settings.num_samples} images")
        _draw_sheet(here / SHEET, denoiser, settings)
    program = None
    if settings.program:
        on_note("tracing the program")
        checked = write_program(here / PROGRAM, denoiser)
        program = (PROGRAM, checked.largest_error)
    return CardFacts(
        weights=weights,
        dtype=settings.dtype,
        file=EXPORTED,
        format=settings.format,
        sha256=digest(here / EXPORTED).sha256,
        parameters=sum(parameter.numel() for parameter in denoiser.parameters()),
        sheet=SHEET if settings.num_samples else None,
        drawn=(settings.num_samples, settings.seed),
        program=program,
    )


def _draw_sheet(path: Path, denoiser: Denoiser, settings: ExportSettings) -> None:
    images_u8, classes = collect(generate(denoiser, range(settings.num_samples), seed=settings.seed))
    path.write_bytes(png_bytes(sheet(images_u8, None if classes is None else [str(number) for number in classes])))
