"""The frames in a folder as an animation."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.samplers.sampler_state import SamplerStep
from hdit_core.generate.generate import generate
from hdit_core.images import grid, to_pil, to_uint8
from hdit_core.recipe.sample import SampleRecipe

FRAME_MS = 80


def frames_webp(folder: Path, frames: int) -> bytes:
    """Return frames 0 to `frames` - 1 of a folder of samples, forth and back again, as an endless lossless WebP."""
    forth = list(range(frames))
    first, *others = (Image.open(folder / f"{number:08d}.png") for number in [*forth, *forth[-2:0:-1]])
    content = io.BytesIO()
    first.save(content, "WEBP", save_all=True, append_images=others, duration=FRAME_MS, loop=0, lossless=True)
    return content.getvalue()


MOST_IMAGES = 16
FRAME_MS = 80
LAST_FRAME_MS = 2000


def trajectory_webp(
    denoiser: Denoiser,
    indices: Sequence[int],
    *,
    seed: int = 0,
    class_ids: Sequence[int] | None = None,
    settings: SampleRecipe | None = None,
    image_size: tuple[int, int] | None = None,
    guide: Guide | None = None,
) -> bytes:
    """Draw up to 16 images and return an animated, lossless WebP of the denoised images at every step.

    Args:
        denoiser, indices, seed, class_ids, settings, image_size, guide: as `generate` takes them; all in one batch.
    """
    settings = (settings or denoiser.recipe.sample).model_copy(update={"batch_size": MOST_IMAGES})
    indices = list(indices)[:MOST_IMAGES]
    class_ids = None if class_ids is None else list(class_ids)[:MOST_IMAGES]
    frames: list[Image.Image] = []

    def keep(step: SamplerStep) -> None:
        frames.append(to_pil(grid(to_uint8(step.denoised))))

    given: dict[str, Any] = {"class_ids": class_ids, "image_size": image_size, "guide": guide}
    drawn = generate(denoiser, indices, seed=seed, settings=settings, on_step=keep, **given)
    for batch in drawn:
        frames.append(to_pil(grid(to_uint8(batch.images))))
    content = io.BytesIO()
    first, *others = frames
    durations = [FRAME_MS] * len(others) + [LAST_FRAME_MS]
    first.save(content, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, lossless=True)
    return content.getvalue()
