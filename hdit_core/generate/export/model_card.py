"""README.md of an exported model: a model card as model hubs read it, with the training record.

Text from data, such as class names, is escaped so that viewers render it literally: not as Markdown, HTML or YAML, and
without control characters that reorder or hide the text around it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import PurePosixPath

from hdit_core.errors import counted
from hdit_core.generate.export.lineage import lineage_section, run_parts, time_text, total_time_s
from hdit_core.generate.export.markdown import as_text
from hdit_core.generate.export.training_record import TrainingRecord
from hdit_core.recipe.run import Recipe

PACKAGE = "hdit-toolkit"  # not `hdit`, which is another project's package
MOST_CLASSES = 100  # named in the card


@dataclass(frozen=True)
class CardFacts:
    """The contents of a card other than recipe and training.

    Attributes:
        weights: kind of the weights, such as "ema".
        file: of the weights.
        format: of that file, "hdit" or "k-diffusion".
        parameters: their number.
        sheet: the file of the sample sheet, None without one.
        sampled: the number of images on it, and their seed.
        program: the file of the program and its largest error, None without one.
        run: name of the run, None if unknown.
        datasets: repositories of the training images on the hub, `"owner/name"`.
    """

    weights: str
    dtype: str
    file: str
    format: str
    sha256: str
    parameters: int
    sheet: str | None = None
    sampled: tuple[int, int] = (0, 0)
    program: tuple[str, float] | None = None
    run: str | None = None
    datasets: tuple[str, ...] = ()


def card(recipe: Recipe, record: TrainingRecord, facts: CardFacts) -> str:
    """Return the whole card."""
    parts = [
        _front_matter(recipe, record, facts),
        _head(recipe, facts),
        _use(recipe, facts),
        _training(recipe, record, facts),
    ]
    if record.classes:
        parts.append(_classes(record.classes))
    parts.append(_limits())
    return "\n".join("\n".join(part) + "\n" for part in map(list, parts))


def _front_matter(recipe: Recipe, record: TrainingRecord, facts: CardFacts) -> Iterator[str]:
    yield from ("---", "license: other", "license_name: to-be-chosen", "license_link: LICENSE")
    yield from ("library_name: hdit", f"pipeline_tag: {_task(recipe)}", "tags:")
    tags = ["hdit", "hourglass-diffusion-transformer", "diffusion", "pixel-space", "image-generation"]
    tags += ["class-conditional"] if recipe.model.num_classes else []
    yield from (f"- {tag}" for tag in tags)
    if facts.datasets:
        yield from ("datasets:", *(f"- {name}" for name in facts.datasets))
    if record.scores:
        yield from ("metrics:", *(f"- {name}" for name in sorted(record.scores)))
        yield from _results(recipe, record, facts)
    yield "---"


def _results(recipe: Recipe, record: TrainingRecord, facts: CardFacts) -> Iterator[str]:
    """Yield the scores with what they depend on, as model hubs read them; JSON is valid YAML."""
    reference = PurePosixPath(recipe.evaluate.reference or recipe.data.path).name
    dataset: dict[str, object] = {"type": reference, "name": reference}
    if recipe.evaluate.reference is None and record.state is not None:
        dataset["args"] = {"manifest": record.state.data_hash}
    measured = {
        "samples": recipe.train.eval_num_images,
        "seed": 0,
        "weights": "ema",
        "extractor": recipe.evaluate.extractor,
    }
    metrics = [{"type": name, "value": value, "args": measured} for name, value in sorted(record.scores.items())]
    result = {"task": {"type": _task(recipe)}, "dataset": dataset, "metrics": metrics}
    yield from ("model-index:", f"- {json.dumps({'name': facts.run or 'hdit', 'results': [result]})}")


def _task(recipe: Recipe) -> str:
    return "image-to-image" if recipe.condition_image_channels else "unconditional-image-generation"


def _head(recipe: Recipe, facts: CardFacts) -> Iterator[str]:
    height, width = recipe.model.image_size
    kind = counted(recipe.model.num_classes, "class") if recipe.model.num_classes else "no classes"
    yield f"# Hourglass Diffusion Transformer, {height}x{width} pixels"
    yield ""
    yield (
        f"A pixel-space image diffusion model ({recipe.model.channels} channels, {kind}) with "
        f"{facts.parameters:,} parameters, trained and exported with `hdit`."
    )
    yield ""
    yield "**Before you publish this**: choose a license, enter it at the top of this file and in a file LICENSE, and"
    yield "name the source of the training images."
    if facts.sheet:
        count, seed = facts.sampled
        yield ""
        yield f"![samples]({facts.sheet})"
        yield ""
        yield f"Uncurated samples: images 0 to {count - 1} of seed {seed}, with the settings below."


def _use(recipe: Recipe, facts: CardFacts) -> Iterator[str]:
    settings = recipe.sample
    yield "## Usage"
    yield ""
    yield f"With the Python package `{PACKAGE}`, version {version(PACKAGE)} or newer:"
    yield ""
    yield from _commands(recipe)
    yield ""
    yield (
        f"Default sampling settings: {settings.steps} steps of `{settings.sampler}` from sigma {settings.sigma_max:g} "
        f"to {settings.sigma_min:g}, guidance scale {settings.guidance:g}."
    )
    yield ""
    yield "| file | contents |"
    yield "|---|---|"
    described = f"{as_text(facts.weights)} weights, {facts.dtype}, {facts.format} format, sha256 {facts.sha256}"
    yield f"| {facts.file} | {described} |"
    yield "| recipe.toml | the recipe of the run |"
    if facts.format == "k-diffusion":
        yield "| sample.toml | the default sampling settings |"
    if facts.program:
        file, error = facts.program
        call = f"{_arguments(recipe)} for torch.export.load"
        yield f"| {file} | {call}; differs from the network by at most {error:.2g} |"


def _arguments(recipe: Recipe) -> str:
    """Return the call of the program, which takes keywords only."""
    model = recipe.model
    optional = {
        "class_ids": model.num_classes,
        "mapping_cond": model.mapping_cond_dim,
        "condition": model.condition_channels,
    }
    names = ["x", "sigma", *(name for name, is_taken in optional.items() if is_taken)]
    return f"D({', '.join(f'{name}=...' for name in names)})"


def _commands(recipe: Recipe) -> Iterator[str]:
    if recipe.condition_image_channels:
        vectors = " --vectors VECTORS.npy" if recipe.model.mapping_cond_dim else ""
        yield f"    hdit restore IMAGES --ckpt FOLDER{vectors} --out restored"
    elif recipe.model.mapping_cond_dim:
        yield "    hdit sample --ckpt FOLDER --vectors VECTORS.npy --count 64 --out samples"
    else:
        yield "    hdit sample --ckpt FOLDER --count 64 --out samples"
        yield ""
        yield "or in Python:"
        yield ""
        yield "    from hdit_core.api import generate"
        yield f'    images = generate("FOLDER", 64).{"to_pil()" if recipe.model.channels in (1, 3) else "images"}'


def _training(recipe: Recipe, record: TrainingRecord, facts: CardFacts) -> Iterator[str]:
    yield "## Training"
    yield ""
    if record.state is None:
        yield "Unknown apart from the recipe: this was exported from weights without a training record."
        return
    state, parts = record.state, run_parts(record.lineage, recipe, record.state, facts.run or "this run")
    rows = [("run", as_text(facts.run))] if facts.run else []
    rows += [
        ("images seen", f"{sum(part.images for part in parts):,}"),
        ("steps", f"{sum(part.steps for part in parts):,}"),
    ]
    rows += [("batch size", parts[-1].batch_size), ("weights", as_text(facts.weights))]
    rows += [("data set (manifest hash)", state.data_hash), ("seed", str(recipe.train.seed))]
    rows += [("initial weights (sha256)", state.init_from)] if state.init_from else []
    rows += [("time", _time(total_time_s(parts), state.world_size))]
    rows += [] if record.loss is None else [("final loss", f"{record.loss:.5g}")]
    rows += [(name, f"{value:.5g}") for name, value in record.scores.items()]
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in rows)
    if len(parts) > 1:
        yield from ("", *lineage_section(parts))
    if not record.scores:
        yield ""
        yield "No scores were measured during training; see `hdit eval-fid --ckpt FOLDER --ref DATA`."


def _time(seconds: float | None, ranks: int) -> str:
    return f"{time_text(seconds)} on {counted(ranks, 'rank')}"


def _classes(names: Sequence[str]) -> Iterator[str]:
    yield "## Classes"
    yield ""
    yield "| class | name |"
    yield "|---|---|"
    yield from (f"| {number} | {as_text(name)} |" for number, name in enumerate(names[:MOST_CLASSES]))
    if len(names) > MOST_CLASSES:
        yield ""
        yield f"and {len(names) - MOST_CLASSES:,} more in classes.json."


def _limits() -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield "Samples resemble the training images and reproduce their gaps and biases. They are synthetic and depict no"
    yield "real person or object."
