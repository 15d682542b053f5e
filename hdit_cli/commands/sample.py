"""`hdit sample`: images from a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from hdit_cli.console import emit, note, progress
from hdit_cli.options import (
    BatchSizeOption,
    CheckpointOption,
    DeviceOption,
    JsonOption,
    OutOption,
    SeedOption,
    SizeOption,
    Weights,
    WeightsOption,
    image_size,
)

app = typer.Typer(add_completion=False)

RECIPES = "the recipe's"


@app.command()
def sample(
    ckpt: CheckpointOption,
    num: Annotated[int, typer.Option("--n", min=1, metavar="N", help="How many images.")] = 64,
    out: OutOption = Path("samples"),
    seed: SeedOption = 0,
    class_id: Annotated[
        int | None,
        typer.Option("--class", min=0, metavar="ID", help="One class for all images.", show_default="each in turn"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(min=0, metavar="W", help="Classifier-free guidance; 1: none.", show_default=RECIPES),
    ] = None,
    sampler: Annotated[str | None, typer.Option(metavar="NAME", show_default=RECIPES, help="Such as dpmpp_2m.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, metavar="N", show_default=RECIPES, help="Sampler steps.")] = None,
    weights: WeightsOption = Weights.EMA,
    size: SizeOption = None,
    batch_size: BatchSizeOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Draw images from a run or a checkpoint.

    Image i of a seed is the same in every batch size. One PNG each, and grid.png with the first hundred.

    Example: hdit sample --ckpt runs/digits --n 100 --guidance 2 --out digits/
    """
    given = {"guidance": guidance, "sampler": sampler, "steps": steps, "batch_size": batch_size}
    pixels = image_size(size) if size is not None else None

    from hdit_core.checkpoint import load_denoiser
    from hdit_core.devices import pick_device
    from hdit_core.generate.generate import generate
    from hdit_core.generate.settings import sample_settings
    from hdit_core.generate.writer import ImageFolder

    denoiser = load_denoiser(ckpt, weights.value, pick_device(device))
    settings = sample_settings(denoiser.recipe, **given)
    class_ids = None if class_id is None else [class_id] * num
    batches = generate(denoiser, range(num), seed=seed, class_ids=class_ids, settings=settings, image_size=pixels)
    folder = ImageFolder(out)
    with progress("sample", total=num) as bar:
        for batch in batches:
            folder.write(batch)
            bar.update(folder.num_images)
    note(f"look at {folder.grid_file}")
    record = {"ckpt": str(ckpt), "weights": weights.value, "seed": seed, "settings": settings.model_dump(mode="json")}
    emit({"out": str(out), **folder.finish(record)}, json)
