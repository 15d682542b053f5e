"""`hdit edit`: images that begin from something else than noise alone."""

from pathlib import Path
from typing import Annotated

import typer

from hdit_cli.commands.edit_ode import invert, likelihood
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.sampling import GuidanceOptions, ModelOptions, SamplingOptions
from hdit_cli.options.shared import DeviceOption, ImagesOutOption, JsonOption
from hdit_cli.output import check_out, is_stream
from hdit_cli.session import Drawn, draw_all, session
from hdit_core.errors import UsageError

app = typer.Typer(add_completion=False)

MOST_FRAMES = 10_000

NumOption = Annotated[int, typer.Option("--n", "--count", min=1, metavar="N", help="How many images.")]
FramesOption = Annotated[int, typer.Option("--frames", min=2, max=MOST_FRAMES, metavar="N", help="With both ends.")]
InitOption = Annotated[
    Path, typer.Option("--init", metavar="IMAGE", help="The picture to begin from.", show_default=False)
]
StrengthOption = Annotated[
    float, typer.Option(min=0, max=1, help="How much is drawn anew: 0 the picture itself, 1 nothing of it.")
]
PicturePath = Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture of any kind and size.")]
MaskPath = Annotated[Path, typer.Argument(metavar="MASK", help="Of the same size: white is drawn anew.")]
RoundsOption = Annotated[
    int, typer.Option(min=1, max=100, metavar="N", help="How often each part of the way is walked, to fit better.")
]
StartArgument = Annotated[str, typer.Argument(metavar="FROM", help="Number of an image, or noise that invert wrote.")]
EndArgument = Annotated[str, typer.Argument(metavar="TO", help="The same.")]
WebpOption = Annotated[
    Path | None, typer.Option(metavar="FILE.webp", help="An animation, forth and back.", show_default=False)
]


@app.callback()
def edit() -> None:
    """Vary, inpaint, interpolate, invert and judge images.

    Example: hdit edit vary --init photo.png --ckpt runs/faces --strength 0.5
    """


@app.command()
@grouped_options
def vary(
    *,
    model: ModelOptions,
    init: InitOption,
    strength: StrengthOption = 0.6,
    num: NumOption = 4,
    out: ImagesOutOption = Path("variations"),
    drawing: SamplingOptions,
    leading: GuidanceOptions,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Draw variations of a picture, or more detail into it.

    Noise is laid on it and taken off again, at a larger --size too, to which it is enlarged before. The strength is
    the share of the sampler's steps that are walked. Image i has the noise that hdit sample gives it.

    Example: hdit edit vary --init small.png --ckpt runs/faces --size 1024 --strength 0.4 --n 4
    """
    check_out(out)
    with session(model, leading, device, drawing.seed, drawing.settings) as here:
        from hdit_core.generate.edit.img2img import img2img
        from hdit_core.generate.edit.input_image import read_picture

        picture = read_picture(init, here.shape)
        here.note(init, picture.remarks)
        draw = img2img(here.painter, here.painter.image(picture.image_u8), strength)
        edit = {"kind": "vary", "picture_sha256": picture.sha256, "strength": strength}
        draw_all(here, Drawn(draw, edit, num, drawing.class_id, out), json)


@app.command()
@grouped_options
def inpaint(
    *,
    image: PicturePath,
    mask: MaskPath,
    model: ModelOptions,
    rounds: RoundsOption = 4,
    num: NumOption = 4,
    out: ImagesOutOption = Path("inpainted"),
    drawing: SamplingOptions,
    leading: GuidanceOptions,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Draw anew what is white in a mask, to fit the rest.

    All else stays as it is, to the last bit, once the picture has the network's size.

    Example: hdit edit inpaint photo.png mask.png --ckpt runs/faces --n 8 --rounds 6
    """
    check_out(out)
    with session(model, leading, device, drawing.seed, drawing.settings) as here:
        import torch

        from hdit_core.generate.edit.inpaint import inpaint
        from hdit_core.generate.edit.input_image import read_mask, read_picture

        picture = read_picture(image, here.shape)
        here.note(image, picture.remarks)
        white, mask_sha256 = read_mask(mask, image, here.shape)
        where = torch.from_numpy(white)[None, None].to(here.painter.device)
        draw = inpaint(here.painter, here.painter.image(picture.image_u8), where, rounds)
        edit = {"kind": "inpaint", "picture_sha256": picture.sha256, "mask_sha256": mask_sha256, "rounds": rounds}
        draw_all(here, Drawn(draw, edit, num, drawing.class_id, out), json)


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
    drawing: SamplingOptions,
    leading: GuidanceOptions,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Draw the way from one image to another.

    The ends are what hdit sample draws for these numbers. Between two classes the one passes over to the
    other. Pictures take part by their noise, see hdit edit invert.

    Example: hdit edit interpolate 3 7 --ckpt runs/faces --frames 24 --out way --webp way.webp
    """
    check_out(out)
    _check_webp(webp, out)
    with session(model, leading, device, drawing.seed, drawing.settings) as here:
        from hdit_core.generate.edit.interpolate import interpolate, parse_endpoint

        ends = [parse_endpoint(text, here.painter, drawing.class_id) for text in (start, end)]
        draw = interpolate(here.painter, ends[0], ends[1], frames)
        edit = {"kind": "interpolate", "ends": [one.identity for one in ends], "frames": frames}
        shared = ends[0].class_id if ends[0].class_id == ends[1].class_id else None
        draw_all(here, Drawn(draw, edit, frames, shared, out, classes_follow=False), json)
        if webp is not None and here.world.is_main:
            _animate(out, webp, frames)


app.command()(invert)
app.command()(likelihood)


def _check_webp(webp: Path | None, out: Path) -> None:
    if webp is None:
        return
    if webp.suffix.lower() != ".webp":
        raise UsageError(f"--webp {webp}: expected a name that ends in .webp")
    if is_stream(out):
        raise UsageError(f"--webp {webp}: the animation is made of a folder's frames; give a folder with --out")
    if not webp.absolute().parent.is_dir():
        raise UsageError(f"--webp {webp}: there is no folder {webp.parent}")


def _animate(folder: Path, webp: Path, frames: int) -> None:
    from hdit_cli.console import note
    from hdit_core.files import write_atomic
    from hdit_core.generate.output.animation import frames_webp

    write_atomic(webp, frames_webp(folder, frames))
    note(f"look at {webp}")
