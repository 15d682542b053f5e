"""`hdit eval-fid`: how far images are from a reference."""

from pathlib import Path
from typing import Annotated

import typer

from hdit_cli.console import align, emit, note, progress
from hdit_cli.options import DeviceOption, JsonOption, SeedOption

app = typer.Typer(add_completion=False)


@app.command()
def eval_fid(
    images: Annotated[
        str | None,
        typer.Argument(metavar="IMAGES", help="Folder, zip, tar or data set of images.", show_default=False),
    ] = None,
    ref: Annotated[
        str | None,
        typer.Option("--ref", metavar="DATA", help="Data set, folder, archive, or saved statistics (.npz)."),
    ] = None,
    ckpt: Annotated[
        str | None,
        typer.Option("--ckpt", metavar="PATH", help="In place of IMAGES: a run or checkpoint; its images are drawn."),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="inception, or efficientnet-lite0, which works offline.",
            show_default="inception; with --ckpt the recipe's",
        ),
    ] = None,
    inception_weights: Annotated[
        Path | None, typer.Option(metavar="PATH", help="File of Inception's weights.", show_default="cache, download")
    ] = None,
    num: Annotated[
        int | None,
        typer.Option("--n", min=1, metavar="N", help="Images to score.", show_default="all; with --ckpt the recipe's"),
    ] = None,
    allow_small_n: Annotated[
        bool, typer.Option("--allow-small-n", help="Score sets with no more images than there are features.")
    ] = False,
    save_stats: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Keep the statistics of IMAGES, for a later --ref.")
    ] = None,
    seed: SeedOption = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Images at once in the network.", show_default="what suits it"),
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Score images by Frechet and kernel distance to a reference.

    Called FID and KID with Inception and clean-fid's resize; with any other extractor they have another name.

    Example: hdit eval-fid samples/ --ref data/faces
    """
    from hdit_core.evaluate.score import ScoreSettings, score

    settings = ScoreSettings(
        images=images,
        reference=ref,
        checkpoint=ckpt,
        extractor=extractor,
        weights=inception_weights,
        n=num,
        batch_size=batch_size,
        device=device,
        seed=seed,
        allow_small_n=allow_small_n,
        save_stats=save_stats,
    )
    with progress("score") as bar:
        result = score(settings, bar.update, note)
    for remark in result.remarks:
        note(remark)
    emit(result.to_json(), json, align(result.lines()))
