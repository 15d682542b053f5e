"""Trains mnist32 on a device, samples it and scores it as `make demo` does; a rehearsal trains a few steps."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
HDIT = [sys.executable, "-m", "hdit_cli"]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    work, device = arguments.work, ("--device", arguments.device)
    few = ["--set", "train.num_images=64", "--set", "train.cooldown_images=0", "--set", "train.sample_every_images=0"]
    n = "20" if arguments.rehearse else "500"
    quality = [sys.executable, str(ROOT / "benchmarks/demo_quality.py"), "--data", str(work / "data")]
    commands = {
        "prepare": [*HDIT, "prepare-data", "mnist", "--size", "32", "--out", str(work / "data")],
        "train": [*HDIT, "train", "mnist32", "--out", str(work / "run"), *device,
                  "--set", f'data.path="{work / "data"}"', *(few if arguments.rehearse else [])],
        "sample": [*HDIT, "sample", "--ckpt", str(work / "run"), "--n", n, "--out", str(work / "samples"), *device,
                   *(["--steps", "2"] if arguments.rehearse else [])],
        "quality": [*quality, "--samples", str(work / "samples"), "--at-least", "0" if arguments.rehearse else "85"],
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
            break
    print(json.dumps(found))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
