"""A folder of pictures with condition images, vectors and captions."""

import numpy as np
from PIL import Image

COUNT, DIM = 9, 3


def pixels(number, height=16, width=24):
    """Return smooth colors that differ between pictures."""
    rows, columns = np.mgrid[0:height, 0:width]
    levels = [rows * 3 + number, columns * 5 + 2 * number, rows + columns + 40]
    return np.stack(levels, -1).astype(np.uint8)


def vector(number):
    """Return the vector of a picture."""
    return [number + 0.25, -number, 1.0]


def write_pairs(root, count=COUNT):
    """Write `images/cat/0.png`, ..., `masks/cat/0.png` (grayscale: the first channel), captions and `vectors.csv`."""
    lines = ["file,v0,v1,v2"]
    for number in range(count):
        name = f"{('cat', 'dog')[number % 2]}/{number}"
        image, mask = root / "images" / f"{name}.png", root / "masks" / f"{name}.tiff"
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).save(image)
        Image.fromarray(pixels(number)[..., 0]).save(mask)
        if number % 3:
            image.with_suffix(".txt").write_text(f" picture {number}, naïve\n")
        lines.append(",".join([f"{name}.png", *map(str, vector(number))]))
    (root / "vectors.csv").write_text("\n".join(lines))
    return root
