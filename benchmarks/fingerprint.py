"""Print a checksum of everything that a small run produces: shards, weights, losses, samples and metrics.

A refactoring must keep all results bit-identical. Run this before and after, on the same machine, and compare:

    python benchmarks/fingerprint.py > before.txt
    python benchmarks/fingerprint.py > after.txt && diff before.txt after.txt

The script uses the command line only, so it does not depend on the layout of the library: 300 synthetic images ->
shards -> two runs (neighborhood and shifted-window attention, interrupted and resumed) -> samples from three samplers,
with guidance and image-to-image -> evaluation. It takes about a minute on two cores.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

RECIPE = """
[model]
image_size = [16, 24]
patch_size = 2
num_classes = 3
mapping_width = 32
mapping_depth = 1

[[model.levels]]
depth = 2
width = 32
head_dim = 16
attention = "{attention}"
{window}
dropout = 0.1

[[model.levels]]
depth = 1
width = 64
head_dim = 16
attention = "global"

[diffusion]

[data]
path = "data"
workers = 1
augment_prob = 0.2

[train]
num_images = 480
batch_size = 16
micro_batch_size = 8
log_every_images = 16
checkpoint_every_images = 160
sample_every_images = 0
ema_profiles = [0.1]

[sample]
steps = 5
sigma_max = 80.0
batch_size = 4

[evaluate]
extractor = "efficientnet-lite0"
num_images = 16
"""


def main() -> None:
    """Run everything in a temporary folder and print one line per result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="working folder; it is not deleted")
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.mkdir(parents=True)
        small_run(arguments.keep)
        return
    with tempfile.TemporaryDirectory() as folder:
        small_run(Path(folder))


def small_run(folder: Path) -> None:
    """Prepare, train, sample, edit and evaluate below `folder`."""
    make_pictures(folder / "pictures")
    hdit(folder, "prepare-data", "pictures", "--out", "data", "--size", "16x24", "--shard-size", "100")
    for shard in sorted((folder / "data").glob("**/*.tar")):
        report("shard", shard.name, sha256(shard.read_bytes()))
    windows = {"neighborhood": "kernel_size = 3", "shifted-window": "window_size = 4"}
    for attention, window in windows.items():
        (folder / f"{attention}.toml").write_text(RECIPE.format(attention=attention, window=window))
        run = f"runs/{attention}"
        hdit(folder, "train", f"{attention}.toml", "--out", run, "--set", "train.num_images=320")
        hdit(folder, "train", f"{attention}.toml", "--out", run)
        report_weights(folder / run)
        samples(folder, attention, run)


def samples(folder: Path, attention: str, run: str) -> None:
    """Sample with several settings, edit one image, and evaluate the samples."""
    settings = {
        "default": [],
        "heun": ["--sampler", "heun", "--weights", "0.1"],
        "sde": ["--sampler", "dpmpp_2m_sde", "--guidance", "2", "--guidance-interval", "0.1,10"],
    }
    for name, options in settings.items():
        out = f"{attention}-{name}"
        hdit(folder, "sample", "--ckpt", run, "--n", "6", "--seed", "3", "--out", out, *options)
        report_images(folder / out)
    hdit(folder, "edit", "vary", "--init", "pictures/0/0.png", "--ckpt", run, "--n", "2", "--out", f"{attention}-vary")
    report_images(folder / f"{attention}-vary")
    score = hdit(
        folder, "eval-fid", "--ckpt", run, "--n", "16", "--ref", "data", "--extractor", "efficientnet-lite0",
        "--allow-small-n", "--json",
    )  # fmt: skip
    report("score", attention, repr(json.loads(score)["value"]))


def make_pictures(folder: Path) -> None:
    """Write the same 300 images of three classes, several sizes and modes on each call."""
    numbers = np.random.Generator(np.random.Philox(7))
    for index in range(300):
        height, width = int(numbers.integers(18, 60)), int(numbers.integers(26, 80))
        rows, columns = np.mgrid[0:height, 0:width]
        waves = [np.sin(rows / numbers.uniform(2, 9) + columns / numbers.uniform(2, 9)) for _ in range(3)]
        pixels = (127.5 + 120 * np.stack(waves, -1)).astype(np.uint8)
        path = folder / str(index % 3) / f"{index}.{'jpg' if index % 5 == 4 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("L" if index % 7 == 6 else "RGB").save(path)


def hdit(folder: Path, *arguments: str) -> str:
    """Run one command in `folder` and return its standard output; its messages are shown only if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("hdit")), *arguments]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"{' '.join(command)} exited with {process.returncode}\n{process.stderr}")
    return process.stdout


def report_weights(run: Path) -> None:
    """Print a checksum of the tensors of each file of the last checkpoint, and one of the losses."""
    last = sorted((run / "checkpoints").iterdir())[-1]
    for path in sorted(last.glob("*.safetensors")):
        content = hashlib.sha256()
        for name, tensor in sorted(load_file(path).items()):
            content.update(name.encode() + str(tensor.dtype).encode() + tensor.tobytes())
        report("weights", f"{run.name}/{last.name}/{path.name}", content.hexdigest())
    losses = [json.loads(line).get("loss") for line in (run / "log.jsonl").read_text().splitlines()]
    report("losses", run.name, sha256(repr(losses).encode()))


def report_images(folder: Path) -> None:
    """Print a checksum of the pixels of all images in a folder."""
    content = hashlib.sha256()
    paths = sorted(path for path in folder.glob("*.png") if path.stem.isdigit())
    for path in paths:
        content.update(np.asarray(Image.open(path)).tobytes())
    report("images", f"{folder.name} ({len(paths)})", content.hexdigest())


def sha256(content: bytes) -> str:
    """Return the sha256 of some bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def report(kind: str, name: str, value: str) -> None:
    """Print one line of the fingerprint."""
    print(f"{kind:8}  {name:60}  {value}", flush=True)


if __name__ == "__main__":
    main()
