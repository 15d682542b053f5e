"""A small folder of pictures in class folders, and the contents of a folder."""

import numpy as np
from PIL import Image

SIZE = (8, 12)


def write_pictures(folder, count=23, classes=("ant", "bee", "cow")):
    """Write noise of 9x14 pixels into class folders, and two files that are not images."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / classes[number % len(classes)] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 14, 3), np.uint8)).save(path)
    (folder / classes[0] / "notes.bin").write_text("not an image")
    (folder / classes[1] / "cut.png").write_bytes((folder / classes[1] / "001.png").read_bytes()[:150])
    return folder


def bytes_of(folder):
    """Return every file of a folder and its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
