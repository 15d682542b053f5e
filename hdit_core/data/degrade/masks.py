"""Random regions of an image that are to be filled in."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from hdit_core.recipe.data import MaskShape

MOST_RECTANGLES = 8
MOST_SEGMENTS = 256
ASPECT = (0.5, 2.0)  # aspect ratio of a rectangle: height / width
SEGMENT = (0.1, 0.4)  # length of a stroke's segment, as a fraction of the shorter side
BRUSH = (0.05, 0.15)  # width of a stroke, as a fraction of the shorter side

Region = Bool[np.ndarray, "H W"]


def draw_mask(
    size: tuple[int, int], shape: MaskShape, area: tuple[float, float], numbers: np.random.Generator
) -> Region:
    """Return the pixels to be filled in.

    Args:
        size: height and width.
        shape: rectangles (up to eight), center (one rectangle in the middle) or free-form (brush strokes).
        area: bounds of the masked fraction of the image, which is drawn uniformly. Rectangles stay below it; strokes
            exceed it by at most one segment.
        numbers: random generator of this image.
    """
    fraction = float(numbers.uniform(*area))
    return SHAPES[shape](size, fraction, numbers)


def _center(size: tuple[int, int], fraction: float, numbers: np.random.Generator) -> Region:
    mask, side = np.zeros(size, bool), math.sqrt(fraction)
    rows, columns = (round(side * length) for length in size)
    top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
    mask[top : top + rows, left : left + columns] = True
    return mask


def _rectangles(size: tuple[int, int], fraction: float, numbers: np.random.Generator) -> Region:
    mask, wanted = np.zeros(size, bool), fraction * size[0] * size[1]
    for _ in range(MOST_RECTANGLES):
        left_over = wanted - mask.sum()
        if left_over < 1:
            break
        pixels, aspect = left_over * numbers.uniform(0.3, 1), math.exp(numbers.uniform(*np.log(ASPECT)))
        rows = min(size[0], max(1, int(math.sqrt(pixels * aspect))))
        columns = min(size[1], max(1, int(pixels / rows)))
        top, left = (int(numbers.integers(0, room + 1)) for room in (size[0] - rows, size[1] - columns))
        mask[top : top + rows, left : left + columns] = True
    return mask


def _free_form(size: tuple[int, int], fraction: float, numbers: np.random.Generator) -> Region:
    shorter, wanted = min(size), fraction * size[0] * size[1]
    page = Image.new("1", (size[1], size[0]))
    brush = ImageDraw.Draw(page)
    row, column, width, angle = 0.0, 0.0, 1, 0.0
    for segment in range(MOST_SEGMENTS):
        if np.asarray(page).sum() >= wanted:
            break
        if segment % 8 == 0:  # a new stroke
            row, column = numbers.uniform(0, size[0]), numbers.uniform(0, size[1])
            width, angle = max(1, round(numbers.uniform(*BRUSH) * shorter)), numbers.uniform(0, 2 * math.pi)
        angle += numbers.normal(0, math.pi / 4)
        length = numbers.uniform(*SEGMENT) * shorter
        end = (
            min(max(row + length * math.sin(angle), 0.0), size[0] - 1.0),
            min(max(column + length * math.cos(angle), 0.0), size[1] - 1.0),
        )
        brush.line([(column, row), (end[1], end[0])], fill=1, width=width)
        row, column = end
    return np.array(page, bool)


SHAPES: dict[MaskShape, Callable[[tuple[int, int], float, np.random.Generator], Region]] = {
    "rectangles": _rectangles,
    "center": _center,
    "free-form": _free_form,
}
