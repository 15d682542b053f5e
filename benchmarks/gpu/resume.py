"""Trains a small run twice under --deterministic, once stopped and resumed, and compares the weights bit for bit."""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

HDIT = [sys.executable, "-m", "hdit_cli"]
STOPPED = 75


def call(*arguments: str) -> int:
    """Run a command of hdit and return its exit code."""
    return subprocess.run([*HDIT, *arguments], stdout=sys.stderr, check=False).returncode


def prepare(work: Path) -> Path:
    """Prepare 64 noise images of 32x32."""
    numbers = np.random.default_rng(0)
    for index in range(64):
        path = work / "images" / f"{index % 10}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (32, 32), np.uint8)).save(path)
    if code := call("prepare-data", str(work / "images"), "--size", "32", "--out", str(work / "data")):
        raise SystemExit(code)
    return work / "data"


def train(run: Path, data: Path, device: str, num_images: int) -> list[str]:
    """Return the command that trains the run."""
    settings = {"model.channels": 3, "data.path": f'"{data}"', "train.num_images": num_images, "train.batch_size": 8,
                "train.checkpoint_every_images": num_images, "train.log_every_images": 8,
                "train.sample_every_images": 0, "train.cooldown_images": 0}  # fmt: skip
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["train", "mnist32", "--out", str(run), "--device", device, "--deterministic", *overrides]


def stop_half_way(run: Path, command: list[str], half: int) -> int:
    """Start a run, ask it to stop when half of the images are through, and return its exit code."""
    process = subprocess.Popen([*HDIT, *command], stdout=sys.stderr)
    while process.poll() is None:
        if images_seen(run) >= half:
            (run / "STOP").touch()
            return process.wait()
        time.sleep(0.02)
    return process.returncode


def images_seen(run: Path) -> int:
    """Return the images that the newest line of the run's log counts."""
    try:
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines() if line.endswith("}")]
    except OSError:
        return 0
    return max((line.get("num_images", 0) for line in lines), default=0)


def digest(run: Path) -> str:
    """Return the hash of the last checkpoint's weights."""
    newest = max(run.glob("checkpoints/*/model.safetensors"))
    return hashlib.sha256(newest.read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=1024)
    arguments = parser.parse_args()
    data = prepare(arguments.work)
    whole, parts = arguments.work / "whole", arguments.work / "parts"
    codes = {"whole": call(*train(whole, data, arguments.device, arguments.num_images))}
    command = train(parts, data, arguments.device, arguments.num_images)
    codes["stopped"] = stop_half_way(parts, command, arguments.num_images // 2)
    if codes["stopped"] == STOPPED:
        codes["resumed"] = call(*command)
    same = codes == {"whole": 0, "stopped": STOPPED, "resumed": 0} and digest(whole) == digest(parts)
    print(json.dumps({"exit_codes": codes, "same_bits": same}))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
