"""Only the images of a folder that `hdit sample` wrote are inputs."""

import numpy as np
from PIL import Image


def test_the_grid_of_samples_is_not_an_image_of_the_set(prepare, tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((8, 12, 3), 60 * number, np.uint8)).save(folder / f"{number:08}.png")
    Image.new("RGB", (60, 60)).save(folder / "grid.png")
    (folder / "samples.json").write_text("{}")
    summary = prepare(folder, max_bad="0")
    assert (summary.images, summary.rejects) == (3, 0)
