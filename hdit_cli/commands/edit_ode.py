"""`hdit edit invert` and `hdit edit likelihood`: real images through the probability-flow ODE."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hdit_cli.console import emit, emit_line, note, printable, progress
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.sampling import GuidanceOptions, ModelOptions
from hdit_cli.options.shared import INPUT, OUTPUT, BatchSizeOption, DeviceOption, JsonOption
from hdit_cli.session import open_session
from hdit_core.errors import DataError
from hdit_core.files import check_output

if TYPE_CHECKING:
    from hdit_core.generate.edit.invert import Inverted
    from hdit_core.generate.edit.likelihood import ImageBits
    from hdit_core.generate.output.sample_format import SampleFormat

OnImage = Callable[["ImageBits"], None]
LARGE_ERROR_LEVELS = 8.0  # root mean square, of 255: visible at first glance
LARGE_STD_ERROR = 0.1  # difference of the noise's standard deviation from 1
SOLVER = "ODE solver"

ImagePath = Annotated[Path, typer.Argument(metavar="IMAGE", help="Input image of any format and size.")]
NoiseOption = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE.safetensors",
        help="Noise file; an existing one is never replaced.",
        rich_help_panel=OUTPUT,
    ),
]
BackOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.png",
        help="Also write the reconstructed image; FILE.npy for networks whose samples are arrays.",
        rich_help_panel=OUTPUT,
    ),
]
InputClassOption = Annotated[
    int | None,
    typer.Option(
        "--class", min=0, metavar="ID", help="Class of the image.", show_default="no class", rich_help_panel=INPUT
    ),
]
ToleranceOption = Annotated[
    float,
    typer.Option(
        min=1e-9,
        max=1e-1,
        metavar="T",
        help="Relative and absolute error tolerance; smaller is slower and more accurate.",
        rich_help_panel=SOLVER,
    ),
]
ImagesArgument = Annotated[
    str,
    typer.Argument(
        metavar="IMAGES", help="Image, or folder, archive, npz or data set of images; - for a tar on stdin."
    ),
]
CountOption = Annotated[
    int | None,
    typer.Option(
        "--count",
        "-n",
        "--n",
        min=1,
        help="Random subset of this many images.",
        show_default="all",
        rich_help_panel=INPUT,
    ),
]
ProbesOption = Annotated[
    int,
    typer.Option(
        min=1, max=1000, help="Hutchinson probes per image; more reduce the variance.", rich_help_panel=SOLVER
    ),
]
ProbeSeedOption = Annotated[
    int,
    typer.Option("--seed", min=0, help="Random seed of dequantization, probes and --count.", rich_help_panel=SOLVER),
]
EachOption = Annotated[
    bool,
    typer.Option(
        "--each",
        help="Also print one line per image as it is finished; with --json, JSON lines.",
        rich_help_panel=OUTPUT,
    ),
]
ClassesOption = Annotated[
    int | None,
    typer.Option(
        "--class",
        min=0,
        metavar="ID",
        help="One class for all images.",
        show_default="the data set's, or no class",
        rich_help_panel=INPUT,
    ),
]


@grouped_options
def invert(
    *,
    image: ImagePath,
    model: ModelOptions,
    class_id: InputClassOption = None,
    out: NoiseOption = Path("noise.safetensors"),
    back: BackOption = None,
    tolerance: ToleranceOption = 1e-4,
    guidance: GuidanceOptions,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Invert an image to its noise (probability-flow ODE).

    Reports the round-trip error, in units of 1/255, and the noise's standard deviation, which should be close to 1.
    The noise file is an endpoint for hdit edit interpolate.

    Example:
      hdit edit invert photo.png --ckpt runs/faces --out photo.safetensors
    """
    check_output("--out", out, ".safetensors", new=True)
    check_output("--back", back, ".png", ".npy")
    with open_session(model, guidance, device, 0, {}) as session:
        from hdit_core.generate.edit.invert import StoredNoise, write_noise
        from hdit_core.generate.edit.invert import invert as invert_image
        from hdit_core.generate.output.sample_format import SampleFormat, pixel_format

        pipeline = session.pipeline
        files = SampleFormat(pixel_format(pipeline.denoiser.recipe))
        check_output("--back", back, f".{files.suffix}")
        read = session.read_image(image)
        class_id = session.class_of_input(class_id)
        classes = None if class_id is None else [class_id]
        result = invert_image(pipeline, read.image[None], classes, tolerance)
        if session.world.is_main:
            _write_back(back, result, files)  # first: a rerun never replaces the noise
            write_noise(out, pipeline, StoredNoise(result.noise, class_id))
        _note_large_errors(result, tolerance)
        emit(_report(result, out, class_id), json)


def _note_large_errors(result: "Inverted", tolerance: float) -> None:
    if result.error_levels > LARGE_ERROR_LEVELS:
        note(f"large round-trip error; a --tolerance below {tolerance:g} may reduce it")
    if abs(result.noise.std().item() - 1) > LARGE_STD_ERROR:
        note(f"noise_std is {result.noise.std():.2f}, expected about 1: the image is unlike the training images")


def _write_back(path: Path | None, result: "Inverted", files: "SampleFormat") -> None:
    from hdit_core.files import write_atomic

    if path is not None:
        write_atomic(path, files.file(result.back, files.suffix))


def _report(result: "Inverted", out: Path, class_id: int | None) -> dict[str, Any]:
    return {
        "noise": str(out),
        "class": class_id,
        "error_levels": result.error_levels,
        "largest_error_levels": result.largest_error_levels,
        "psnr_db": None if result.error_levels == 0 else result.psnr_db,
        "noise_std": result.noise.std().item(),
        "network_calls": result.num_evaluations,
    }


@grouped_options
def likelihood(
    *,
    images: ImagesArgument,
    model: ModelOptions,
    class_id: ClassesOption = None,
    count: CountOption = None,
    probes: ProbesOption = 1,
    tolerance: ToleranceOption = 1e-4,
    each: EachOption = False,
    seed: ProbeSeedOption = 0,
    batch_size: BatchSizeOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Compute the negative log-likelihood in bits per dimension.

    The result has a standard error. Pixels are uniformly dequantized, so the result is an upper bound in expectation.
    The density is that of the probability-flow ODE at the recipe's sigma_min, with Hutchinson's trace estimator; both
    use --seed. Guidance does not apply: guided samples have no tractable density.

    Example: hdit edit likelihood data/faces-test --ckpt runs/faces --count 1000
    """
    with open_session(model, None, device, seed, {"batch_size": batch_size}) as session:
        from hdit_core.generate.edit.likelihood import bits_per_dim, open_labelled_images
        from hdit_core.generate.output.sample_format import pixel_format

        session.class_of_input(class_id)
        num_classes, pixels = session.pipeline.num_classes, pixel_format(session.pipeline.denoiser.recipe)
        opened = open_labelled_images(images, session.shape, num_classes, class_id, count, seed, pixels)
        results = bits_per_dim(session.pipeline, opened.images, probes, tolerance)
        summary = _summarize(images, results, opened.count, partial(_print_one, json) if each else None)
        summary |= {"sigma_min": session.pipeline.settings.sigma_min, "probes": probes, "tolerance": tolerance}
        summary |= {"classes": opened.classes if num_classes else None, "weights": session.weights, "seed": seed}
    if summary["images"] == 1:
        note("a single image has no standard error")
    if each and json:
        emit_line(summary)
    else:
        emit(summary, json)


def _summarize(
    location: str, results: Iterator["ImageBits"], total: int | None, on_image: OnImage | None
) -> dict[str, Any]:
    """Evaluate all images and return their mean bits per dimension; raise DataError if there are none."""
    from hdit_core.generate.edit.likelihood import RunningMean

    mean = RunningMean()
    with progress("likelihood", total=total) as bar:
        bar.update(0)  # starts the clock, so that the speed includes the first batch
        for bits in results:
            mean.add(bits.bits_per_dim)
            bar.update(mean.count, remark=f"{mean.mean:.4f} bits/dim")
            if on_image is not None:
                on_image(bits)
    if not mean.count:
        raise DataError(f"{location}: holds no images")
    return {
        "images": mean.count,
        "bits_per_dim": mean.mean,
        "standard_error": mean.standard_error,
        "dequantisation": "uniform, one level of 8 bits",
    }


def _print_one(as_json: bool, bits: "ImageBits") -> None:
    if as_json:
        emit_line({"number": bits.index, "name": bits.name, "bits_per_dim": bits.bits_per_dim})
    else:
        typer.echo(f"{bits.bits_per_dim:.4f}  {printable(bits.name)}")
