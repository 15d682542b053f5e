"""Edits that visitors of the page ask for: the jobs of `hdit edit` on an uploaded image or on one of the samples."""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hdit_core.data.image.decode import decode_image
from hdit_core.data.image.resize import crop_and_resize
from hdit_core.data.image.unusable import UnusableImageError
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.errors import DataError, UsageError
from hdit_core.generate.condition.inputs import PAINTED
from hdit_core.generate.edit.img2img import img2img
from hdit_core.generate.edit.inpaint import inpaint as inpaint_batches
from hdit_core.generate.edit.input_image import InputImage, read_image
from hdit_core.generate.edit.interpolate import interpolate as interpolate_batches
from hdit_core.generate.edit.interpolate import parse_endpoint
from hdit_core.generate.job import SamplingJob
from hdit_core.generate.output.sample_format import pixel_format
from hdit_core.generate.pipeline import GenerateBatch, OnStep, SamplingPipeline
from hdit_core.images import png_bytes, to_uint8
from hdit_core.play.commands import Command, Computation, exact
from hdit_core.play.live_sampling import pipeline_of
from hdit_core.play.request import SampleForm, check_pixels, real_number, whole_number

Image = Float[Tensor, "C H W"]  # in [-1, 1]
Mask = Bool[np.ndarray, "H W"]

MOST_ROUNDS, MOST_FRAMES = 20, 64
LONGEST_MASK = 1 << 24  # characters
DATA_URL = "data:image/png;base64,"
IMAGE_NAME, MASK_NAME = "image.png", "mask.png"
NOTHING_PAINTED = "nothing is painted: paint or fill the part of the image to regenerate"


def uploaded_image(path: Path, denoiser: Denoiser) -> InputImage:
    """Return an uploaded image in the network's size.

    Raises:
        DataError: it cannot be read; the message names the file without its folder.
    """
    recipe = denoiser.recipe
    try:
        return read_image(path, pixel_format(recipe), recipe.model.image_size)
    except DataError as problem:
        raise DataError(str(problem).replace(str(path), path.name)) from None


def painted_mask(data_url: str | None, size: tuple[int, int]) -> Mask:
    """Return the mask that was painted, a PNG that is light and opaque there, in the image's size.

    Raises:
        UsageError: nothing is painted, or the data is no such PNG.
    """
    text = data_url or ""
    if not text.startswith(DATA_URL) or len(text) > LONGEST_MASK:
        raise UsageError(NOTHING_PAINTED)
    try:
        content = base64.b64decode(text[len(DATA_URL) :], validate=True)
        image = decode_image(content, 1, (0, 0, 0)).image
    except (ValueError, UnusableImageError):
        raise UsageError("the painted mask is no PNG image; clear it and paint again") from None
    mask = np.asarray(crop_and_resize(image, *size, resize="area")) >= PAINTED
    if not mask.any():
        raise UsageError(NOTHING_PAINTED)
    return mask


def vary(denoiser: Denoiser, form: SampleForm, image: Image, strength: Any) -> Computation:
    """Return the computation of `hdit edit vary`.

    Raises:
        UsageError: the strength is not in [0, 1].
    """
    strength = real_number(strength, "strength", 0.0, 1.0)
    files = {IMAGE_NAME: _png(image)}
    options = ["--strength", exact(strength)]
    return _edit(denoiser, form, lambda pipeline: img2img(pipeline, image[None], strength), "vary", files, options)


def inpaint(denoiser: Denoiser, form: SampleForm, image: Image, mask: Mask, rounds: Any) -> Computation:
    """Return the computation of `hdit edit inpaint`.

    Raises:
        UsageError: the number of rounds is wrong.
    """
    rounds = whole_number(rounds, "rounds", 1, MOST_ROUNDS)

    def batches_by(pipeline: SamplingPipeline) -> GenerateBatch:
        painted = torch.from_numpy(mask)[None, None].to(pipeline.device)
        return inpaint_batches(pipeline, image[None], painted, rounds)

    files = {IMAGE_NAME: _png(image), MASK_NAME: png_bytes((mask * np.uint8(255))[..., None])}
    return _edit(denoiser, form, batches_by, "inpaint", files, ["--rounds", str(rounds)])


def _png(image: Image) -> bytes:
    return png_bytes(to_uint8(image[None])[0])


def _edit(
    denoiser: Denoiser,
    form: SampleForm,
    batches_by: Callable[[SamplingPipeline], GenerateBatch],
    kind: str,
    files: Mapping[str, bytes],
    options: Sequence[str],
) -> Computation:
    """Return the computation that samples by a function of its pipeline; its command reads 8-bit images."""

    def make_job(on_step: OnStep) -> SamplingJob:
        pipeline = pipeline_of(denoiser, form, on_step)
        return SamplingJob(pipeline, range(form.count), form.class_id, generate_batch=batches_by(pipeline))

    if not pixel_format(denoiser.recipe).is_8_bit_image:
        return Computation(make_job, None)
    options = [*options, "--count", str(form.count)]
    return Computation(make_job, Command(["edit", kind, *files], options, f"{kind}-seed-{form.seed}", files))


def interpolate(denoiser: Denoiser, form: SampleForm, start: Any, end: Any, frames: Any) -> Computation:
    """Return the computation of `hdit edit interpolate` between two samples of the seed.

    Raises:
        UsageError: a number is wrong.
    """
    numbers = [whole_number(start, "from image"), whole_number(end, "to image")]
    frames = whole_number(frames, "frames", 2, MOST_FRAMES)
    check_pixels("frames", frames, denoiser.recipe)

    def make_job(on_step: OnStep) -> SamplingJob:
        pipeline = pipeline_of(denoiser, form, on_step)
        a, b = (parse_endpoint(str(number), pipeline, form.class_id) for number in numbers)
        class_id = a.class_id if a.class_id == b.class_id else None
        generate_batch = interpolate_batches(pipeline, a, b, frames)
        return SamplingJob(pipeline, range(frames), class_id, generate_batch=generate_batch, cycle_classes=False)

    words, options = ["edit", "interpolate", *map(str, numbers)], ["--frames", str(frames)]
    return Computation(make_job, Command(words, options, f"interpolate-seed-{form.seed}"))
