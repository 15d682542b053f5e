"""README.md of an exported network: a model card as hubs read it, with the record of its training.

Text that comes from data, such as names of classes, is written so that no viewer takes it for anything but text: not
for Markdown, HTML or YAML, and not for marks that turn or hide what stands beside it.
"""

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hdit_core.generate.export.training_record import TrainingRecord
from hdit_core.recipe.run import Recipe

MOST_CLASSES = 100  # named in the card
LONGEST_NAME = 60

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}


@dataclass(frozen=True)
class CardFacts:
    """What a card tells besides recipe and training.

    Attributes:
        weights: which of the checkpoint's, such as "ema".
        file: of the weights, with `format`: "hdit" or "k-diffusion".
        parameters: how many.
        sheet: the file of the sample grid, None without one.
        drawn: how many images are on it, of which seed.
        program: the file of the program and its largest error, None without one.
    """

    weights: str
    dtype: str
    file: str
    format: str
    sha256: str
    parameters: int
    sheet: str | None = None
    drawn: tuple[int, int] = (0, 0)
    program: tuple[str, float] | None = None


def as_text(name: str) -> str:
    """Return a name as Markdown that shows it and does nothing: cut, unprintable letters written out, marks escaped."""
    shown = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    return "".join(map(_shown, shown))


def _shown(letter: str) -> str:
    if letter.isprintable():
        return _ENTITIES.get(letter) or (f"\\{letter}" if letter in string.punctuation else letter)
    return "".join(map(_shown, letter.encode("unicode_escape", "surrogatepass").decode()))


def card(recipe: Recipe, record: TrainingRecord, facts: CardFacts) -> str:
    """Return the whole card."""
    parts = [_front_matter(recipe), _head(recipe, facts), _use(recipe, facts), _training(recipe, record, facts)]
    if record.classes:
        parts.append(_classes(record.classes))
    parts.append(_limits())
    return "\n".join("\n".join(part) + "\n" for part in map(list, parts))


def _front_matter(recipe: Recipe) -> Iterator[str]:
    yield from ("---", "license: other", "license_name: to-be-chosen", "license_link: LICENSE")
    yield from ("library_name: hdit", "pipeline_tag: unconditional-image-generation", "tags:")
    tags = ["hdit", "hourglass-diffusion-transformer", "diffusion", "pixel-space", "image-generation"]
    tags += ["class-conditional"] if recipe.model.num_classes else []
    yield from (f"- {tag}" for tag in tags)
    yield "---"


def _head(recipe: Recipe, facts: CardFacts) -> Iterator[str]:
    height, width = recipe.model.image_size
    kind = f"{recipe.model.num_classes} classes" if recipe.model.num_classes else "no classes"
    yield f"# Hourglass Diffusion Transformer, {height}x{width} pixels"
    yield ""
    yield (
        f"An image diffusion model directly in pixels ({recipe.model.channels} channels, {kind}), "
        f"{facts.parameters:,} parameters, trained and exported with `hdit`."
    )
    yield ""
    yield "**Before you publish this**: choose a license, put it into the lines at the top and into a file LICENSE, and"
    yield "say whose images it was trained on."
    if facts.sheet:
        number, seed = facts.drawn
        yield ""
        yield f"![samples]({facts.sheet})"
        yield ""
        yield f"Not chosen: images 0 to {number - 1} of seed {seed}, with the settings below."


def _use(recipe: Recipe, facts: CardFacts) -> Iterator[str]:
    settings = recipe.sample
    yield "## How to use it"
    yield ""
    yield "    hdit sample --ckpt FOLDER --n 64 --out samples"
    yield ""
    yield "or in Python:"
    yield ""
    yield "    from hdit_core.checkpoint import load_denoiser"
    yield '    denoiser = load_denoiser("FOLDER")'
    yield ""
    yield (
        f"Samples are drawn with {settings.steps} steps of `{settings.sampler}` from sigma {settings.sigma_max:g} to "
        f"{settings.sigma_min:g}, guidance {settings.guidance:g}, unless other settings are asked for."
    )
    yield ""
    yield "| file | what it is |"
    yield "|---|---|"
    yield f"| {facts.file} | {facts.weights} weights, {facts.dtype}, {facts.format} format, sha256 {facts.sha256} |"
    yield "| recipe.toml | the recipe of the run |"
    if facts.format == "k-diffusion":
        yield "| sample.toml | how hdit draws images where nothing else is asked for |"
    if facts.program:
        file, error = facts.program
        yield f"| {file} | D(x, sigma, class) for torch.export.load; off by at most {error:.2g} from the network |"


def _training(recipe: Recipe, record: TrainingRecord, facts: CardFacts) -> Iterator[str]:
    yield "## Training"
    yield ""
    if record.state is None:
        yield "Nothing is known of it beyond the recipe: this was exported from a file of weights."
        return
    state, rows = record.state, []
    rows += [("images seen", f"{state.num_images:,}"), ("steps", f"{state.step:,}")]
    rows += [("images a step", f"{recipe.train.batch_size:,}"), ("weights", facts.weights)]
    rows += [("data set (hash of its manifest)", state.data_hash), ("seed", str(recipe.train.seed))]
    rows += [("time", f"{state.elapsed_s / 3600:.2f} hours on {state.world_size} ranks")]
    rows += [] if record.loss is None else [("loss at the end", f"{record.loss:.5g}")]
    rows += [(name, f"{value:.5g}") for name, value in record.scores.items()]
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in rows)
    if not record.scores:
        yield ""
        yield "It was not scored during training; `hdit eval-fid FOLDER --ref DATA` does that."


def _classes(names: Sequence[str]) -> Iterator[str]:
    yield "## Classes"
    yield ""
    yield "| number | name |"
    yield "|---|---|"
    yield from (f"| {number} | {as_text(name)} |" for number, name in enumerate(names[:MOST_CLASSES]))
    if len(names) > MOST_CLASSES:
        yield ""
        yield f"and {len(names) - MOST_CLASSES:,} more in classes.json."


def _limits() -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield "It draws what its training images look like, with their gaps and biases. What it draws shows nobody and"
    yield "nothing that is."
