"""Animations (WebP): frames of an interpolation, and the denoising trajectory."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hdit_core.diffusion.samplers.sampler_state import SamplerStep
from hdit_core.files import read_bytes
from hdit_core.generate.output.sample_format import SampleFormat
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.images import grid, shown, to_pil, to_uint8

FRAME_MS = 80
LAST_FRAME_MS = 2000
QUALITY = 90  # of a trajectory's frames: lossless noise takes ten times the bytes
MOST_IMAGES, MOST_FRAMES = 16, 60
MOST_FRAME_PIXELS = 1 << 20


@dataclass(frozen=True)
class Trajectory:
    """An animated denoising trajectory.

    Attributes:
        webp: the file's content.
        num_images: on each frame.
        num_frames: fewer than the sampler's steps where these are many.
        size: height and width of a frame in pixels.
    """

    webp: bytes
    num_images: int
    num_frames: int
    size: tuple[int, int]

    def __str__(self) -> str:
        height, width = self.size
        size = f"{len(self.webp) / 1e6:.2g} MB, {self.num_frames} frames of {height}x{width}"
        return f"{size}, {self.num_images} image{'s' * (self.num_images > 1)}"


def frames_webp(folder: Path, frames: int, files: SampleFormat, size: tuple[int, int]) -> bytes:
    """Return frames 0 to `frames` - 1 of a folder of samples, played back and forth, as an endless lossless WebP.

    Args:
        folder: of the samples.
        frames: how many.
        files: format of the samples; they are shown in 8 bits.
        size: their height and width in pixels.
    """
    contents = [read_bytes(folder / f"{index:08d}.{files.suffix}") for index in range(frames)]
    images = [to_pil(files.shown(files.decode(content, size))) for content in contents]
    return _webp([*images, *images[-2:0:-1]], FRAME_MS)


@torch.inference_mode()
def trajectory(pipeline: SamplingPipeline, indices: Sequence[int], class_ids: Sequence[int] | None) -> Trajectory:
    """Return an animation of the denoised images at the steps of the sampler.

    Frames have at most a megapixel, and so up to 16 images, at least one; there are at most 60 frames, evenly spaced.
    Of images with other numbers of channels than 1 and 3, the first one, or three, are shown.

    Args:
        indices: image indices.
        class_ids: one for each index; None for networks without classes.
    """
    height, width = pipeline.image_size
    count = min(len(indices), MOST_IMAGES, max(1, MOST_FRAME_PIXELS // (height * width)))
    every_steps = -(-len(pipeline.sigmas) // MOST_FRAMES)
    frames: list[Image.Image] = []
    steps_done = 0

    def add_frame(step: SamplerStep) -> None:
        nonlocal steps_done, every_steps
        if steps_done % every_steps == 0:
            frames.append(to_pil(grid(shown(to_uint8(step.denoised)))))
        steps_done += 1
        if len(frames) == MOST_FRAMES:  # dpm_adaptive takes as many steps as it needs
            del frames[1::2]
            every_steps *= 2

    classes = None if class_ids is None else list(class_ids)[:count]
    images = pipeline.generate_batch(list(indices)[:count], classes, add_frame)
    frames.append(to_pil(grid(shown(to_uint8(images)))))
    webp = _webp(frames, [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS], quality=QUALITY)
    with Image.open(io.BytesIO(webp)) as film:  # equal neighbors are one frame
        return Trajectory(webp, count, getattr(film, "n_frames", 1), film.size[::-1])


def _webp(frames: Sequence[Image.Image], duration_ms: int | list[int], quality: int | None = None) -> bytes:
    """Return an endless animation, lossless without a quality."""
    how: dict[str, Any] = {"lossless": True} if quality is None else {"quality": quality}
    content = io.BytesIO()
    frames[0].save(content, "WEBP", save_all=True, append_images=frames[1:], duration=duration_ms, loop=0, **how)
    return content.getvalue()
