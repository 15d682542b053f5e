"""Prints the card, its driver and the versions of what computes on it, and which attention backends can run."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata

import torch

from hdit_core.devices import compute_dtype, pick_device
from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.attention.neighborhood_backends import BACKENDS

PACKAGES = ("torch", "triton", "natten", "numpy", "flash-attn-4")


def version(package: str) -> str | None:
    """Return the installed version of a package, None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def driver() -> str | None:
    """Return what nvidia-smi says of the card."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm", "--format=csv"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    device = pick_device(parser.parse_args().device)
    device = torch.empty(0, device=device).device
    dtypes = dict.fromkeys((compute_dtype("auto", device), torch.float32))
    found = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {package: version(package) for package in PACKAGES},
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "nvidia-smi": driver(),
    }
    print(json.dumps(found), file=sys.stderr, flush=True)  # in the log, even if what follows takes too long
    names = [name for name in BACKENDS if name != "flex"]  # which compiles for long, and has a stage of its own
    found["attention"] = {
        str(dtype): {name: BACKENDS[name].missing(KernelTarget(device, dtype, 64)) for name in names}
        for dtype in dtypes
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
