"""`hdit eval-fid`: how far images are from a reference.

`stats` keeps one side for later, `compare` sets two results beside each other.
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.console import align, emit, note, progress, table
from hdit_cli.default_command import DEFAULT, DefaultCommand, DefaultGroup
from hdit_cli.options import DeviceOption, JsonOption, OutOption, SeedOption

if TYPE_CHECKING:
    from hdit_core.evaluate.score import ScoreSettings

app = typer.Typer(cls=DefaultGroup, add_completion=False, help="Score images by their distance to a reference.")


class Mode(StrEnum):
    """How images are resized for Inception."""

    CLEAN = "clean"
    ADM = "adm"


class Labels(StrEnum):
    """Which classes a checkpoint's images have."""

    BALANCED = "balanced"
    UNIFORM = "uniform"
    DATA = "data"


ExtractorOption = Annotated[
    str | None,
    typer.Option(
        "--extractor",
        metavar="NAME",
        help="inception; efficientnet-lite0, which works offline; dinov2; or a package's.",
        show_default="inception; with --ckpt the recipe's",
    ),
]
ExtractorWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--extractor-weights",
        "--inception-weights",
        metavar="PATH",
        help="File of the extractor's weights.",
        show_default="cache, download",
    ),
]
ModeOption = Annotated[
    Mode, typer.Option("--mode", help="Resize as clean-fid does, or inside Inception's graph as ADM's evaluator does.")
]
CountOption = Annotated[
    int | None,
    typer.Option("--n", min=1, metavar="N", help="Images to score.", show_default="all; with --ckpt the recipe's"),
]
SmallOption = Annotated[
    bool, typer.Option("--allow-small-n", help="Score sets with no more images than there are features.")
]
KeepOption = Annotated[
    Path | None,
    typer.Option("--keep-features", metavar="DIR", help="Keep features there: a killed run goes on where it was."),
]
NetworkBatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", min=1, metavar="N", help="Images at once in the network.", show_default="what suits it"
    ),
]


@app.command(DEFAULT, cls=DefaultCommand, epilog="Also: hdit eval-fid stats --help, hdit eval-fid compare --help.")
def eval_fid(
    images: Annotated[
        str | None,
        typer.Argument(
            metavar="IMAGES",
            help="Folder, zip, tar, npz or data set of images; - for a tar on stdin.",
            show_default=False,
        ),
    ] = None,
    ref: Annotated[
        str | None,
        typer.Option("--ref", metavar="DATA", help="The same, or saved statistics (.npz)."),
    ] = None,
    ckpt: Annotated[
        str | None,
        typer.Option("--ckpt", metavar="PATH", help="In place of IMAGES: a run or checkpoint; its images are drawn."),
    ] = None,
    labels: Annotated[
        Labels, typer.Option(help="Classes of --ckpt's images: in turn, by chance, or as often as in --ref.")
    ] = Labels.BALANCED,
    extractor: ExtractorOption = None,
    extractor_weights: ExtractorWeightsOption = None,
    mode: ModeOption = Mode.CLEAN,
    num: CountOption = None,
    allow_small_n: SmallOption = False,
    nearest: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the images nearest to the reference beside it.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with numbers, pictures and passport.")
    ] = None,
    save_stats: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Keep the statistics of IMAGES, for a later --ref.")
    ] = None,
    keep_features: KeepOption = None,
    seed: SeedOption = 0,
    batch_size: NetworkBatchOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Score images by Frechet and kernel distance to a reference, by precision, recall, density and coverage.

    Called FID and KID with Inception and clean-fid's resize; with any other extractor they have another name.

    Example: hdit eval-fid samples/ --ref data/faces
    """
    from hdit_core.evaluate.score import ScoreSettings

    settings = ScoreSettings(
        images=images,
        reference=ref,
        checkpoint=ckpt,
        extractor=extractor,
        weights=extractor_weights,
        mode=mode.value,
        n=num,
        labels=labels.value,
        batch_size=batch_size,
        device=device,
        seed=seed,
        allow_small_n=allow_small_n,
        save_stats=save_stats,
        keep_features=keep_features,
        nearest=nearest,
        report=report,
    )
    _score(settings, json)


@app.command()
def stats(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="Folder, zip, tar, npz or data set; - for a tar on stdin.", show_default=False
        ),
    ],
    out: OutOption,
    extractor: ExtractorOption = None,
    extractor_weights: ExtractorWeightsOption = None,
    mode: ModeOption = Mode.CLEAN,
    num: CountOption = None,
    allow_small_n: SmallOption = False,
    keep_features: KeepOption = None,
    seed: SeedOption = 0,
    batch_size: NetworkBatchOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Keep the statistics of a set of images, as a reference that need not be read again.

    Example: hdit eval-fid stats data/faces --out faces.npz
    """
    from hdit_core.evaluate.score import ScoreSettings

    settings = ScoreSettings(
        images=data,
        reference=None,
        extractor=extractor,
        weights=extractor_weights,
        mode=mode.value,
        n=num,
        batch_size=batch_size,
        device=device,
        seed=seed,
        allow_small_n=allow_small_n,
        save_stats=out,
        keep_features=keep_features,
    )
    _score(settings, json)


def _score(settings: "ScoreSettings", json: bool) -> None:
    from hdit_core.evaluate.score import score

    with progress("score") as bar:
        result = score(settings, bar.update, note)
    for remark in result.remarks:
        note(remark)
    emit(result.to_json(), json, align(result.lines()))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="A result of --json.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="Another.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Compare results whose passports are unlike.")] = False,
    json: JsonOption = False,
) -> None:
    """Set two results beside each other, unless they were measured differently.

    Example: hdit eval-fid compare before.json after.json
    """
    from hdit_core.evaluate.comparison import compare_results

    found = compare_results(a, b, force)
    for key, *values in found.unlike:
        note(f"not comparable: {key} is {values[0]} and {values[1]}")
    differences = [("", str(a), str(b)), *((key, str(x), str(y)) for key, x, y in [*found.unlike, *found.other])]
    emit(found.to_json(), json, [*table(found.rows()), "", *align(differences)])
