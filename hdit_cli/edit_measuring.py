"""`hdit edit invert` and `hdit edit likelihood`: what the model's ODE says of pictures that there are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hdit_cli.console import emit, note, printable, progress
from hdit_cli.edit_session import session
from hdit_cli.options import (
    BatchSizeOption,
    CheckpointOption,
    DeviceOption,
    GuidanceOption,
    JsonOption,
    SeedOption,
    SizeOption,
    WeightsOption,
)
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.generate.invert import Inverted
    from hdit_core.generate.likelihood import Judged

OneClassOption = Annotated[
    int | None, typer.Option("--class", min=0, metavar="ID", help="Class of the picture.", show_default="none of them")
]
ToleranceOption = Annotated[
    float, typer.Option(min=1e-9, max=1e-1, metavar="T", help="Of the solver; smaller is slower and more exact.")
]


def invert(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture of any kind and size.")],
    ckpt: CheckpointOption,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.safetensors", help="The noise; never replaced.")
    ] = Path("noise.safetensors"),
    back: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also write what comes back.", show_default=False)
    ] = None,
    tolerance: ToleranceOption = 1e-4,
    class_id: OneClassOption = None,
    guidance: GuidanceOption = None,
    weights: WeightsOption = "ema",
    size: SizeOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Find the noise that becomes a picture.

    By the probability-flow ODE, there and back: the error of that is said, in 8-bit levels. `hdit edit interpolate`
    takes the noise.

    Example: hdit edit invert photo.png --ckpt runs/faces --out photo.safetensors
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: expected a name that ends in .safetensors")
    if out.exists():
        raise UsageError(f"{out}: exists, and is not replaced; give another with --out")
    with session(ckpt, weights, device, size, 0, guidance=guidance) as here:
        from hdit_core.files import write_whole
        from hdit_core.generate.invert import StoredNoise, write_noise
        from hdit_core.generate.invert import invert as invert_picture
        from hdit_core.generate.picture import read_picture
        from hdit_core.images import png_bytes, to_uint8

        picture = read_picture(image, here.shape)
        here.note(image, picture.remarks)
        chosen = here.class_of_one(class_id)
        found = invert_picture(
            here.painter, here.painter.image(picture.image_u8), None if chosen is None else [chosen], tolerance
        )
        if here.world.is_main:
            write_noise(out, here.painter, StoredNoise(found.noise, chosen))
            if back is not None:
                write_whole(back, png_bytes(to_uint8(found.back[None])[0]))
            emit(_report(found, out, chosen), json)


def _report(found: "Inverted", out: Path, class_id: int | None) -> dict[str, Any]:
    return {
        "noise": str(out),
        "class": class_id,
        "error_levels": found.error_levels,
        "largest_error_levels": found.largest_error_levels,
        "psnr_db": None if found.error_levels == 0 else found.psnr_db,
        "noise_std": found.noise.std().item(),
        "network_calls": found.questions,
    }


def likelihood(
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="An image, a folder or archive, or a data set.")],
    ckpt: CheckpointOption,
    num: Annotated[
        int | None, typer.Option("--n", min=1, metavar="N", help="Only so many, drawn by --seed.", show_default="all")
    ] = None,
    probes: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="Random directions an image; more scatter less.")
    ] = 1,
    tolerance: ToleranceOption = 1e-4,
    each: Annotated[bool, typer.Option("--each", help="Also a line for each image, as soon as it is known.")] = False,
    seed: SeedOption = 0,
    class_id: Annotated[
        int | None,
        typer.Option("--class", min=0, metavar="ID", help="One class for all.", show_default="the data set's, or none"),
    ] = None,
    weights: WeightsOption = "ema",
    size: SizeOption = None,
    batch_size: BatchSizeOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Say how many bits per dimension images cost.

    With the standard error over them. Their levels get uniform noise of one level (dequantisation): on average a bound
    from above. The density is the probability-flow ODE's at the recipe's sigma_min, its trace by Hutchinson's
    estimator; both follow --seed.

    Example: hdit edit likelihood data/faces-test --ckpt runs/faces --n 1000 --json
    """
    with session(ckpt, weights, device, size, seed, batch_size=batch_size, guidance=1.0) as here:
        from hdit_core.generate.given import open_given
        from hdit_core.generate.likelihood import Tally, judged

        here.class_of_one(class_id)
        given = open_given(images, here.shape, here.num_classes, class_id, num, seed)
        tally = Tally()
        with progress("likelihood", total=given.count) as bar:
            for one in judged(here.painter, given.images, probes, tolerance):
                tally.add(one.bits_per_dim)
                bar.update(tally.count, remark=f"{tally.mean:.4f} bits/dim")
                if each:
                    _say(one, json)
        result = {
            "images": tally.count,
            "bits_per_dim": tally.mean,
            "standard_error": tally.standard_error,
            "dequantisation": "uniform, one level of 8 bits",
            "sigma_min": here.painter.settings.sigma_min,
            "probes": probes,
            "tolerance": tolerance,
            "classes": given.classes if here.num_classes else None,
            "seed": seed,
        }
    if tally.count == 1:
        note("one image: there is no error bar")
    emit(result, json)


def _say(one: "Judged", as_json: bool) -> None:
    import json

    said = {"number": one.number, "name": one.name, "bits_per_dim": one.bits_per_dim}
    typer.echo(json.dumps(said) if as_json else f"{one.bits_per_dim:.4f}  {printable(one.name)}")
