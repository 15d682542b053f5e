"""The code of docs/python.md runs in order, with smaller numbers."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hdit_core.api

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text()

SMALLER = {
    "size=64": "size=32",
    '"model.image_size": 64': '"model.image_size": 32',
    '"train.num_images": 200_000,': '"train.num_images": 16,',
    '"train.batch_size": 32': '"train.batch_size": 8',
    "3, 64, 64": "3, 32, 32",
    "generate(denoiser, 16, seed=0, steps=20)": "generate(denoiser, 5, seed=0, steps=2)",
    'condition="data/photos", steps=20': 'condition="data/photos", steps=2',
}
PRINTED = """\
24 images 2 classes
torch.Size([16, 3, 32, 32]) tensor(True) torch.Size([16])
2 steps 16 images
fd-efficientnet-lite0-5 """


def blocks():
    """Return the code blocks of the page, with smaller numbers, each of which is there."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    assert [text for text in SMALLER if text not in code] == []
    for text, smaller in SMALLER.items():
        code = code.replace(text, smaller)
    return code


def write_photos(folder):
    rng = np.random.default_rng(0)
    for number in range(24):
        path = folder / ("beach", "forest")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(path)


@pytest.mark.slow
def test_the_code_of_the_page_runs_from_a_folder_of_images_to_a_score(tmp_path):
    write_photos(tmp_path / "photos")
    (tmp_path / "page.py").write_text(blocks())
    command = [sys.executable, "page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(PRINTED)
    assert "\nkd-efficientnet-lite0 0." in done.stdout
    for progress in ("preparing: 24 of 24 images", "train: 16 of 16 images", "sample: 5 of 5", "score: 29 of 29"):
        assert f"hdit: {progress}" in done.stderr
    assert Image.open(tmp_path / "sample-4.png").size == (32, 32)


def test_the_page_lists_every_public_function_and_class():
    listed = set(re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE))
    returned = {"Denoiser", "HditError", "PrepareSummary", "Recipe", "Samples", "Score", "TrainedRun"}
    assert listed == set(hdit_core.api.__all__) - returned
