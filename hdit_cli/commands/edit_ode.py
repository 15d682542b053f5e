"""`hdit edit invert` and `hdit edit likelihood`: what the model's ODE says of pictures that there are."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hdit_cli.console import emit, emit_line, note, printable, progress
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.sampling import GuidanceOptions, ModelOptions
from hdit_cli.options.shared import BatchSizeOption, DeviceOption, JsonOption, SeedOption
from hdit_cli.session import session
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.generate.edit.invert import Inverted
    from hdit_core.generate.edit.likelihood import ImageBits


FAR_LEVELS = 8.0  # root mean square, of 255: what the eye sees at once

PicturePath = Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture of any kind and size.")]
NoiseOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="FILE.safetensors", help="The noise; never replaced.")
]
BackOption = Annotated[
    Path | None, typer.Option(metavar="FILE.png", help="Also write what comes back.", show_default=False)
]
OneClassOption = Annotated[
    int | None, typer.Option("--class", min=0, metavar="ID", help="Class of the picture.", show_default="none of them")
]
ToleranceOption = Annotated[
    float, typer.Option(min=1e-9, max=1e-1, metavar="T", help="Of the solver; smaller is slower and more exact.")
]
ImagesArgument = Annotated[str, typer.Argument(metavar="IMAGES", help="An image, a folder or archive, or a data set.")]
NumOption = Annotated[
    int | None, typer.Option("--n", min=1, metavar="N", help="Only so many, drawn by --seed.", show_default="all")
]
ProbesOption = Annotated[
    int, typer.Option(min=1, max=1000, metavar="N", help="Random directions an image; more scatter less.")
]
EachOption = Annotated[
    bool, typer.Option("--each", help="Also a line for each image, as soon as it is known; with --json, JSON lines.")
]
ClassesOption = Annotated[
    int | None,
    typer.Option("--class", min=0, metavar="ID", help="One class for all.", show_default="the data set's, or none"),
]


@grouped_options
def invert(
    *,
    image: PicturePath,
    model: ModelOptions,
    out: NoiseOption = Path("noise.safetensors"),
    back: BackOption = None,
    tolerance: ToleranceOption = 1e-4,
    class_id: OneClassOption = None,
    leading: GuidanceOptions,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Find the noise that becomes a picture.

    By the probability-flow ODE, there and back: the error of that is said, in 8-bit levels. `hdit edit interpolate`
    takes the noise.

    Example: hdit edit invert photo.png --ckpt runs/faces --out photo.safetensors
    """
    _check_files(out, back)
    with session(model, leading, device, 0, {}) as here:
        from hdit_core.generate.edit.input_image import read_picture
        from hdit_core.generate.edit.invert import StoredNoise, write_noise
        from hdit_core.generate.edit.invert import invert as invert_picture

        picture = read_picture(image, here.shape)
        here.note(image, picture.remarks)
        chosen = here.class_of_one(class_id)
        classes = None if chosen is None else [chosen]
        found = invert_picture(here.painter, here.painter.image(picture.image_u8), classes, tolerance)
        if here.world.is_main:
            write_noise(out, here.painter, StoredNoise(found.noise, chosen))
            _write_back(back, found)
            if found.error_levels > FAR_LEVELS:
                note(f"the way back misses the picture by far; a --tolerance below {tolerance:g} may bring it nearer")
            emit(_report(found, out, chosen), json)


def _check_files(out: Path, back: Path | None) -> None:
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: expected a name that ends in .safetensors")
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out}: exists, and is not replaced; give another with --out")
    if back is not None and back.suffix.lower() != ".png":
        raise UsageError(f"--back {back}: expected a name that ends in .png")
    if back is not None and not back.absolute().parent.is_dir():
        raise UsageError(f"--back {back}: there is no folder {back.parent}")


def _write_back(path: Path | None, found: "Inverted") -> None:
    from hdit_core.files import write_atomic
    from hdit_core.images import png_bytes, to_uint8

    if path is not None:
        write_atomic(path, png_bytes(to_uint8(found.back[None])[0]))


def _report(found: "Inverted", out: Path, class_id: int | None) -> dict[str, Any]:
    return {
        "noise": str(out),
        "class": class_id,
        "error_levels": found.error_levels,
        "largest_error_levels": found.largest_error_levels,
        "psnr_db": None if found.error_levels == 0 else found.psnr_db,
        "noise_std": found.noise.std().item(),
        "network_calls": found.num_evaluations,
    }


@grouped_options
def likelihood(
    *,
    images: ImagesArgument,
    model: ModelOptions,
    num: NumOption = None,
    probes: ProbesOption = 1,
    tolerance: ToleranceOption = 1e-4,
    each: EachOption = False,
    seed: SeedOption = 0,
    class_id: ClassesOption = None,
    batch_size: BatchSizeOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Say how many bits per dimension images cost.

    With the standard error over them. Their levels get uniform noise of one level (dequantisation): on average a bound
    from above. The density is the probability-flow ODE's at the recipe's sigma_min, its trace by Hutchinson's
    estimator; both follow --seed. Nothing leads: there is no density of what guidance draws.

    Example: hdit edit likelihood data/faces-test --ckpt runs/faces --n 1000 --json
    """
    with session(model, None, device, seed, {"batch_size": batch_size}) as here:
        from hdit_core.generate.edit.likelihood import bits_per_dim, open_labelled_images

        here.model.check_class(class_id)
        given = open_labelled_images(images, here.shape, here.model.num_classes, class_id, num, seed)
        found = bits_per_dim(here.painter, given.images, probes, tolerance)
        result = _tallied(found, given.count, (lambda one: _say(one, json)) if each else lambda one: None)
    if result["images"] == 1:
        note("one image: there is no error bar")
    how = {"sigma_min": here.model.settings.sigma_min, "probes": probes, "tolerance": tolerance}
    classes = given.classes if here.model.num_classes else None
    result |= {**how, "classes": classes, "weights": here.model.weights, "seed": seed}
    if each and json:
        emit_line(result)
    else:
        emit(result, json)


def _tallied(found: Iterator["ImageBits"], total: int, say: Callable[["ImageBits"], None]) -> dict[str, Any]:
    """Judge all images, and return what they cost in the mean."""
    from hdit_core.generate.edit.likelihood import Tally

    tally = Tally()
    with progress("likelihood", total=total) as bar:
        bar.update(0)  # they come in batches: the first would count as done from the start
        for one in found:
            tally.add(one.bits_per_dim)
            bar.update(tally.count, remark=f"{tally.mean:.4f} bits/dim")
            say(one)
    return {
        "images": tally.count,
        "bits_per_dim": tally.mean,
        "standard_error": tally.standard_error,
        "dequantisation": "uniform, one level of 8 bits",
    }


def _say(one: "ImageBits", as_json: bool) -> None:
    if as_json:
        emit_line({"number": one.number, "name": one.name, "bits_per_dim": one.bits_per_dim})
    else:
        typer.echo(f"{one.bits_per_dim:.4f}  {printable(one.name)}")
