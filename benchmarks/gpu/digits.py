"""Trains mnist32 on a device, samples it, and lets its nearest real digits tell the class of each sample.

A rehearsal trains a few steps. `make demo` has a better classifier, of scikit-learn, which the machine may lack.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.demo_quality import real_digits, samples

NEIGHBORS = 3
AT_LEAST = 70.0  # percent of the samples that are recognized as their class; by chance 10
HDIT = [sys.executable, "-m", "hdit_cli"]


def recognized_percent(data: Path, sample_folder: Path) -> dict[str, float]:
    """Return how many of the samples, and of the real digits left out, have the class of their nearest real digits."""
    pixels, classes = (torch.from_numpy(each) for each in real_digits(data))
    images, asked = (torch.from_numpy(each) for each in samples(sample_folder))
    left_out = torch.arange(len(pixels)) % 5 == 0

    def percent(these: torch.Tensor, truth: torch.Tensor) -> float:
        nearest = torch.cdist(these.float(), pixels[~left_out].float()).topk(NEIGHBORS, largest=False).indices
        found = classes[~left_out][nearest].mode(dim=1).values
        return 100 * (found == truth).double().mean().item()

    return {"samples": percent(images, asked), "real digits": percent(pixels[left_out], classes[left_out])}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    work, device = arguments.work, ("--device", arguments.device)
    few = ["--set", "train.num_images=64", "--set", "train.cooldown_images=0", "--set", "train.sample_every_images=0"]
    n = "20" if arguments.rehearse else "500"
    commands = {
        "prepare": [*HDIT, "prepare-data", "mnist", "--size", "32", "--out", str(work / "data")],
        "train": [*HDIT, "train", "mnist32", "--out", str(work / "run"), *device,
                  "--set", f'data.path="{work / "data"}"', "--set", "train.compile=false",  # which would take longer
                  *(few if arguments.rehearse else [])],
        "sample": [*HDIT, "sample", "--ckpt", str(work / "run"), "--n", n, "--out", str(work / "samples"), *device,
                   *(["--steps", "2"] if arguments.rehearse else [])],
    }  # fmt: skip
    found: dict[str, object] = {}
    for name, command in commands.items():
        began_at = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        found[name] = {
            "code": done.returncode,
            "elapsed_s": time.monotonic() - began_at,
            "printed": done.stdout[-2000:],
        }
        if done.returncode:
            print(json.dumps(found))
            return done.returncode
    found["recognized, percent"] = percent = recognized_percent(work / "data", work / "samples")
    print(json.dumps(found))
    return 0 if arguments.rehearse or percent["samples"] >= AT_LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
