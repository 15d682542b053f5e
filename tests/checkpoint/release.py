"""Makes what `released/` keeps of a format: a checkpoint of a few numbers, and the data set that its run goes on with.

    python -m tests.checkpoint.release FOLDER

writes FOLDER/format-N, a checkpoint after 2 of 3 steps, and FOLDER/data-of-format-N, its data set of 6 pictures, N
being what this hdit writes. Move both into `released/` and tell `test_released.py` of them; then they never change.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from hdit_core.checkpoint.layout import checkpoint_folder
from hdit_core.checkpoint.manifest import FORMAT
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.recipe.read import check_recipe
from hdit_core.train.run import train

LEVEL = {"depth": 1, "width": 8, "head_dim": 8, "d_ff": 8}
TABLES = {
    "model": {
        "image_size": [16, 24],
        "patch_size": 2,
        "num_classes": 3,
        "mapping_width": 4,
        "mapping_depth": 1,
        "levels": [
            LEVEL | {"attention": "neighborhood", "kernel_size": 3, "dropout": 0.1},
            LEVEL | {"attention": "global"},
        ],
    },
    "diffusion": {},
    "data": {"workers": 0, "augment_prob": 0.1},
    "train": {
        "num_images": 24,
        "batch_size": 8,
        "log_every_images": 24,  # the checkpoint that is kept stands in the midst of this
        "checkpoint_every_images": 16,
        "sample_every_images": 0,
        "ema_profiles": [0.1],
    },
}


def write_data(folder: Path, pictures: Path) -> None:
    """Prepare six pictures of three classes: ramps, which take few bytes."""
    ramp = np.linspace(0, 255, 24).astype(np.uint8)
    for number in range(6):
        picture = pictures / f"class{number % 3}" / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        rows = np.stack([np.roll(ramp, 4 * number + shift) for shift in (0, 8, 16)], axis=-1)
        Image.fromarray(np.broadcast_to(rows, (16, 24, 3)).copy()).save(picture)
    prepare_data(PrepareSettings(str(pictures), folder, (16, 24)))


def release(folder: Path) -> None:
    """Write the data set and the checkpoint."""
    data, checkpoint = f"data-of-format-{FORMAT}", folder / f"format-{FORMAT}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        write_data(folder / data, Path(scratch) / "pictures")
        os.chdir(folder)  # the recipe names the data set as its neighbor
        run = Path(scratch) / "run"
        train(check_recipe(TABLES | {"data": TABLES["data"] | {"path": data}}, "release"), run, device="cpu")
        checkpoint_folder(run, 2).rename(checkpoint)


if __name__ == "__main__":
    release(Path(sys.argv[1]).absolute())
