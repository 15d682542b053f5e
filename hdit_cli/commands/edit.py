"""`hdit edit`: image-to-image, inpainting and interpolation; `edit_ode.py` has inversion and likelihood."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hdit_cli.commands.edit_ode import invert, likelihood
from hdit_cli.console import note
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.sampling import GuidanceOptions, ImagesOutOption, ModelOptions, SamplingOptions
from hdit_cli.options.shared import OUTPUT, DeviceOption, JsonOption
from hdit_cli.output import check_out, is_stream
from hdit_cli.session import open_session
from hdit_core.errors import UsageError
from hdit_core.files import check_output

if TYPE_CHECKING:
    from hdit_core.generate.job import SamplingJob

app = typer.Typer(add_completion=False)

MOST_FRAMES, MOST_IMAGES = 10_000, 10_000_000

CountOption = Annotated[
    int,
    typer.Option("--count", "-n", "--n", min=1, max=MOST_IMAGES, help="Number of images.", rich_help_panel=OUTPUT),
]
FramesOption = Annotated[
    int,
    typer.Option(min=2, max=MOST_FRAMES, help="Number of frames, endpoints included.", rich_help_panel=OUTPUT),
]
InitArgument = Annotated[Path | None, typer.Argument(metavar="IMAGE", help="Input image of any format and size.")]
InitOption = Annotated[Path | None, typer.Option("--init", hidden=True)]  # the old way to give IMAGE
StrengthOption = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        metavar="S",
        help="Denoising strength: 0 returns the input, 1 ignores it.",
        rich_help_panel="Sampling",
    ),
]
ImagePath = Annotated[Path, typer.Argument(metavar="IMAGE", help="Input image of any format and size.")]
MaskPath = Annotated[
    Path,
    typer.Argument(
        metavar="MASK", help="Mask of the image's size: white is regenerated, black and transparent are kept."
    ),
]
RoundsOption = Annotated[
    int,
    typer.Option(
        min=1,
        max=100,
        help="Resampling iterations per step (RePaint); more blend better, at proportional cost.",
        rich_help_panel="Sampling",
    ),
]
StartArgument = Annotated[str, typer.Argument(metavar="FROM", help="Image index, or a noise file of hdit edit invert.")]
EndArgument = Annotated[str, typer.Argument(metavar="TO", help="Image index, or a noise file.")]
WebpOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.webp", help="Also write a back-and-forth animation.", rich_help_panel=OUTPUT),
]


@app.callback()
def edit() -> None:
    """Image-to-image, inpainting, interpolation, inversion.

    Example: hdit edit vary photo.png --ckpt runs/faces --strength 0.5
    """


@app.command()
@grouped_options
def vary(
    *,
    init: InitArgument = None,
    old_init: InitOption = None,
    model: ModelOptions,
    strength: StrengthOption = 0.6,
    count: CountOption = 4,
    out: ImagesOutOption = Path("variations"),
    sampling: SamplingOptions,
    guidance: GuidanceOptions,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Generate variations of an image, or upscale it (SDEdit).

    The image is resized to --size (a small one is upscaled), noised, and denoised again. The strength is the fraction
    of sampler steps that are run. Variation i has the noise of image i of hdit sample.

    Examples:
      hdit edit vary photo.png --ckpt runs/faces --strength 0.5 --count 8
      hdit edit vary small.png --ckpt runs/faces --strength 0.3 --count 1
    """
    picture = _one_image(init, old_init)
    check_out(out)
    with open_session(model, guidance, device, sampling.seed, sampling.settings) as session:
        from hdit_core.generate.edit.img2img import img2img
        from hdit_core.generate.job import SamplingJob

        image = session.read_image(picture)
        generate = img2img(session.pipeline, image.image[None], strength)
        edit = {"kind": "vary", "picture_sha256": image.sha256, "strength": strength}
        job = SamplingJob(session.pipeline, range(count), sampling.class_id, generate_batch=generate, edit=edit)
        session.run(job, out, json)


@app.command()
@grouped_options
def inpaint(
    *,
    image: ImagePath,
    mask: MaskPath,
    model: ModelOptions,
    rounds: RoundsOption = 4,
    count: CountOption = 4,
    out: ImagesOutOption = Path("inpainted"),
    sampling: SamplingOptions,
    guidance: GuidanceOptions,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Regenerate the white region of a mask (inpainting).

    Pixels outside the mask are unchanged (after resizing to the model's resolution).

    Example: hdit edit inpaint photo.png mask.png --ckpt runs/faces --count 8 --rounds 6
    """
    check_out(out)
    with open_session(model, guidance, device, sampling.seed, sampling.settings) as session:
        import torch

        from hdit_core.generate.edit.inpaint import inpaint
        from hdit_core.generate.edit.input_image import read_mask
        from hdit_core.generate.job import SamplingJob
        from hdit_core.generate.output.sample_format import pixel_format

        pipeline = session.pipeline
        known = session.read_image(image)
        region = read_mask(mask, image, pixel_format(pipeline.denoiser.recipe), pipeline.image_size)
        session.report_remarks(mask, region.remarks)
        painted = torch.from_numpy(region.painted)[None, None].to(pipeline.device)
        generate = inpaint(pipeline, known.image[None], painted, rounds)
        edit = {"kind": "inpaint", "picture_sha256": known.sha256, "mask_sha256": region.sha256, "rounds": rounds}
        job = SamplingJob(pipeline, range(count), sampling.class_id, generate_batch=generate, edit=edit)
        session.run(job, out, json)


@app.command()
@grouped_options
def interpolate(
    *,
    start: StartArgument,
    end: EndArgument,
    model: ModelOptions,
    frames: FramesOption = 16,
    webp: WebpOption = None,
    out: ImagesOutOption = Path("frames"),
    sampling: SamplingOptions,
    guidance: GuidanceOptions,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Interpolate between two images in noise space.

    The endpoints are the images of these indices from hdit sample. Class embeddings are interpolated too. For a real
    image give the noise written by hdit edit invert.

    Example:
      hdit edit interpolate 3 7 --ckpt runs/faces --frames 24 --webp frames.webp
    """
    check_out(out)
    check_output("--webp", webp, ".webp")
    if webp is not None and is_stream(out):
        raise UsageError(f"--webp {webp}: the animation is made from the frames in a folder; give a folder with --out")
    with open_session(model, guidance, device, sampling.seed, sampling.settings) as session:
        from hdit_core.generate.edit.interpolate import interpolate, parse_endpoint
        from hdit_core.generate.job import SamplingJob

        pipeline = session.pipeline
        endpoints = [parse_endpoint(text, pipeline, sampling.class_id) for text in (start, end)]
        generate = interpolate(pipeline, endpoints[0], endpoints[1], frames)
        edit = {"kind": "interpolate", "ends": [endpoint.identity for endpoint in endpoints], "frames": frames}
        class_id = endpoints[0].class_id if endpoints[0].class_id == endpoints[1].class_id else None
        job = SamplingJob(pipeline, range(frames), class_id, generate_batch=generate, edit=edit, cycle_classes=False)
        session.run(job, out, json)
        if webp is not None and session.world.is_main:
            _animate(job, out, webp)


def _one_image(image: Path | None, old_spelling: Path | None) -> Path:
    """Return the input image, which is given as IMAGE or as --init IMAGE."""
    if image is not None and old_spelling is not None:
        raise UsageError(f"{image} and --init {old_spelling}: expected one image")
    given = old_spelling if image is None else image
    if given is None:
        raise UsageError("missing argument 'IMAGE' (see 'hdit edit vary --help')")
    return given


app.command()(invert)
app.command()(likelihood)


def _animate(job: "SamplingJob", folder: Path, webp: Path) -> None:
    from hdit_core.files import write_atomic
    from hdit_core.generate.output.animation import frames_webp
    from hdit_core.generate.output.sample_format import SampleFormat

    write_atomic(webp, frames_webp(folder, len(job.indices), SampleFormat(job.pixels), job.pipeline.image_size))
    note(f"animation: {webp}")
