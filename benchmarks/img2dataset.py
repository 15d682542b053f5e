"""Benchmark `hdit prepare-data` against img2dataset: same images, same size, PNG in tar shards, same process count.

img2dataset runs in its own environment and reads the same local files from a list of `file://` URLs. It resizes by area
(OpenCV), and writes neither checksums nor an index. hdit resizes by Lanczos, hashes each input and each shard, and can
resume. Runs are interleaved, and medians are compared.

    python3 -m venv img2dataset && img2dataset/bin/python -m pip install img2dataset setuptools
    python benchmarks/img2dataset.py --python img2dataset/bin/python --images 1000 --size 256
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from hdit_core.bench.data import make_pictures


def hdit_command(pictures, out, size, processes):
    """Return the command of hdit."""
    return [sys.executable, "-m", "hdit_cli", "prepare-data", str(pictures), "--out", str(out), "--size", str(size),
            "--labels", "none", "--workers", str(processes)]  # fmt: skip


def img2dataset_command(python, pictures, out, size, processes):
    """Return the closest equivalent command of img2dataset."""
    addresses = pictures.parent / "addresses.txt"
    addresses.write_text("".join(f"file://{path}\n" for path in sorted(pictures.iterdir())))
    options = {
        "url_list": addresses,
        "output_folder": out,
        "output_format": "webdataset",
        "image_size": size,
        "resize_mode": "center_crop",
        "encode_format": "png",
        "encode_quality": 6,  # PNG compression level, the same as hdit's
        "processes_count": processes,
        "thread_count": 4,
        "number_sample_per_shard": 1000,
        "enable_wandb": False,
    }
    return [str(Path(python).with_name("img2dataset")), *(f"--{key}={value}" for key, value in options.items())]


def timed(command, out):
    """Run a command and return its duration in seconds and the number of images in its tars."""
    shutil.rmtree(out, ignore_errors=True)
    started_at = time.perf_counter()
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    elapsed_s = time.perf_counter() - started_at
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{process.stderr[-2000:]}")
    images = 0
    for path in out.rglob("*.tar"):
        listed = subprocess.run(["tar", "-tf", str(path)], capture_output=True, text=True, check=True).stdout
        images += sum(name.endswith(".png") for name in listed.splitlines())
    return elapsed_s, images


def main():
    """Parse the command line, run the benchmark, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter of the environment with img2dataset")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    times = {"hdit": [], "img2dataset": []}
    with TemporaryDirectory() as name:
        folder = Path(name)
        pictures = make_pictures(folder / "pictures", options.images, 500, 400)
        out = {tool: folder / tool for tool in times}
        commands = {
            "hdit": hdit_command(pictures, out["hdit"], options.size, options.processes),
            "img2dataset": img2dataset_command(
                options.python, pictures, out["img2dataset"], options.size, options.processes
            ),
        }
        for round_index in range(options.rounds):
            for tool in sorted(times, reverse=round_index % 2 == 1):
                elapsed_s, images = timed(commands[tool], out[tool])
                assert images == options.images, f"{tool} wrote {images} of {options.images} images"
                times[tool].append(elapsed_s)
                print(f"{tool}: {elapsed_s:.2f} s", file=sys.stderr)
    rates = {tool: options.images / statistics.median(runs_s) for tool, runs_s in times.items()}
    print(json.dumps({"images_per_s": rates, "ratio": rates["hdit"] / rates["img2dataset"]}, indent=1))


if __name__ == "__main__":
    main()
