"""Animations (WebP): frames of an interpolation, and the denoising trajectory."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from hdit_core.diffusion.samplers.sampler_state import SamplerStep
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.images import grid, to_pil, to_uint8

FRAME_MS = 80
LAST_FRAME_MS = 2000
MOST_IMAGES = 16


def frames_webp(folder: Path, frames: int) -> bytes:
    """Return frames 0 to `frames` - 1 of a folder of samples, played back and forth, as an endless lossless WebP."""
    forth = list(range(frames))
    images = [Image.open(folder / f"{index:08d}.png") for index in [*forth, *forth[-2:0:-1]]]
    return _webp(images, FRAME_MS)


@torch.inference_mode()
def trajectory_webp(pipeline: SamplingPipeline, indices: Sequence[int], class_ids: Sequence[int] | None) -> bytes:
    """Return an animated lossless WebP of the denoised images at each step of the sampler, for up to 16 images.

    Args:
        indices: image indices.
        class_ids: one for each index; None for networks without classes.
    """
    frames: list[Image.Image] = []

    def add_frame(step: SamplerStep) -> None:
        frames.append(to_pil(grid(to_uint8(step.denoised))))

    classes = None if class_ids is None else list(class_ids)[:MOST_IMAGES]
    images = pipeline.draw(list(indices)[:MOST_IMAGES], classes, add_frame)
    frames.append(to_pil(grid(to_uint8(images))))
    return _webp(frames, [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS])


def _webp(frames: Sequence[Image.Image], duration_ms: int | list[int]) -> bytes:
    content = io.BytesIO()
    frames[0].save(
        content, "WEBP", save_all=True, append_images=frames[1:], duration=duration_ms, loop=0, lossless=True
    )
    return content.getvalue()
