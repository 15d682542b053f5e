"""What hdit finds on this machine, with a verdict for each line: `hdit doctor`."""

import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from hdit_core.bench.machine import this_machine
from hdit_core.data.loader.workers import SHARED_MEMORY, free_shared_memory
from hdit_core.devices import compute_dtype
from hdit_core.errors import UsageError
from hdit_core.files import cache_folder
from hdit_core.launch import read_launch_info
from hdit_core.model.attention import natten, triton
from hdit_core.model.attention.interface import KernelTarget
from hdit_core.model.attention.neighborhood_backends import select_backend
from hdit_core.model.native.compiler import CompileError, find_compiler
from hdit_core.system_memory import memory_bytes, memory_limit

Verdict = Literal["ok", "note", "problem"]

HEAD_DIM = 64  # of the built-in recipes
OLDEST_TORCH = (2, 6)
GB = 10**9
SMALL_MEMORY_BYTES = 4 * GB  # below: small recipes only
SMALL_DISK_BYTES, NO_DISK_BYTES = 20 * GB, GB  # a data set and its checkpoints; a checkpoint of a small network
SMALL_SHARED_BYTES, NO_SHARED_BYTES = GB, 128 * 10**6  # Docker's default is 64 MB
BUSY_GPU = 0.1  # share of a GPU's memory that is in use before hdit starts


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was checked, such as `torch`.
        found: what was found.
        verdict: `ok`; `note` for a limitation; `problem` for what makes runs fail or much slower.
        advice: the consequence or the fix; empty for most findings that are ok.
    """

    subject: str
    found: str
    verdict: Verdict = "ok"
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the attributes as a JSON object."""
        return asdict(self)


def examine(device: torch.device, folder: Path, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Yield the findings on this machine.

    Args:
        device: the device that runs are planned on.
        folder: where runs are written, for the free disk space.
        environment: environment variables, for Slurm and ranks.
    """
    device = torch.empty(0, device=device).device  # "cuda:0" for "cuda"
    yield examine_device(device)
    yield examine_torch()
    yield examine_cuda(device)
    yield examine_triton(device)
    yield examine_natten(device)
    yield examine_compiler(device)
    yield examine_attention(device)
    yield examine_cores(device)
    yield examine_memory()
    yield examine_disk("free disk here", folder)
    yield examine_disk("free disk, cache", cache_folder())
    yield examine_shared_memory()
    yield examine_slurm(environment)
    yield examine_ranks(environment, device)


def examine_device(device: torch.device) -> Finding:
    """Return the device and its memory; a note where other programs use it."""
    name = this_machine(device, torch.get_num_threads()).processor
    if device.type != "cuda":
        advice = "training of anything but small recipes needs a GPU" if device.type == "cpu" else ""
        return Finding("device", f"{device}: {name}", "note" if advice else "ok", advice)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    target = KernelTarget(device, torch.float32, HEAD_DIM)
    found = f"{device} of {torch.cuda.device_count()}: {name}, {target.device_name}, {_memory(total_bytes)}"
    if 1 - free_bytes / total_bytes > BUSY_GPU:
        return Finding("device", found, "note", f"only {_memory(free_bytes)} free; nvidia-smi lists who uses the rest")
    if compute_dtype("auto", device) != torch.bfloat16:
        return Finding("device", found, "note", "no bfloat16: float32 is used")
    return Finding("device", found)


def examine_torch() -> Finding:
    """Return the versions of torch and Python."""
    found = f"{torch.__version__}, Python {platform.python_version()}"
    numbers = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if numbers < OLDEST_TORCH:
        return Finding("torch", found, "problem", f"torch {'.'.join(map(str, OLDEST_TORCH))} or later is needed")
    return Finding("torch", found)


def examine_cuda(device: torch.device) -> Finding:
    """Return the CUDA or ROCm version of torch; a problem if a GPU is present and torch cannot use it."""
    build = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    if device.type == "cuda":
        return Finding("CUDA", build)
    has_build = torch.version.cuda is not None or torch.version.hip is not None
    if has_build and torch.cuda.is_available():
        return Finding("CUDA", build, "note", f"the GPU is not used, since --device is {device.type}")
    if shutil.which("nvidia-smi"):
        cause = f"torch for {build} cannot use it" if has_build else "torch is a CPU build"
        advice = f"{cause}; see docs/gpu.md for the build that fits the driver (nvidia-smi shows its CUDA version)"
        return Finding("CUDA", "nvidia-smi is present", "problem", advice)
    return Finding("CUDA", f"{build}, no GPU" if has_build else "none: torch is a CPU build")


def examine_triton(device: torch.device) -> Finding:
    """Return Triton's version, and on CUDA whether hdit's kernels run."""
    try:
        found = str(importlib.import_module("triton").__version__)
    except ImportError:
        if device.type == "cuda":
            return Finding("Triton", "not installed", "note", "hdit's Triton attention and torch.compile need it")
        return Finding("Triton", "not installed; not needed on this device")
    if device.type != "cuda":
        return Finding("Triton", f"{found}; not used on this device")
    missing = triton.unavailable(_target(device))
    return Finding("Triton", found, "note" if missing else "ok", missing or "hdit's kernels pass the self-test")


def examine_natten(device: torch.device) -> Finding:
    """Return whether NATTEN can be used; it is optional."""
    if device.type != "cuda":
        installed = importlib.util.find_spec("natten") is not None
        return Finding("natten", "installed; not used on this device" if installed else "not installed; not needed")
    missing = natten.unavailable(_target(device))
    if missing is None:
        return Finding("natten", natten.describe(_target(device)))
    if "not installed" in missing:
        return Finding("natten", "not installed; optional")
    return Finding("natten", "not usable", "note", missing)


def examine_compiler(device: torch.device) -> Finding:
    """Return the C++ compiler; without one, attention on a CPU is slower."""
    try:
        return Finding("C++ compiler", find_compiler())
    except CompileError as problem:
        if device.type != "cpu":
            return Finding("C++ compiler", "none; not needed on this device")
        return Finding("C++ compiler", "none", "note", f"{problem}; attention on the CPU is slower without one")


def examine_attention(device: torch.device) -> Finding:
    """Return the backend that neighborhood attention selects, and why; a problem if it is `tiled` on CUDA."""
    choice = select_backend(_target(device))
    found = f"{choice.name} ({choice.reason})"
    if choice.name != "tiled" or device.type not in ("cuda", "cpu"):
        return Finding("attention", found)
    return Finding("attention", found, "problem" if device.type == "cuda" else "note", "slow; see docs/gpu.md, tiled")


def examine_cores(device: torch.device) -> Finding:
    """Return how many CPU cores this process may use."""
    cores = this_machine(torch.device("cpu"), 1).cores
    found = f"{cores} of {os.cpu_count()}, {torch.get_num_threads()} threads of torch"
    if device.type == "cuda" and cores < 4:
        return Finding(
            "cores", found, "note", "few for decoding images; ask for more, or watch the data wait in the log"
        )
    return Finding("cores", found)


def examine_memory() -> Finding:
    """Return the main memory, the limit of the container or job, and what is available."""
    total_bytes, available_bytes = (memory_bytes(name) for name in ("MemTotal", "MemAvailable"))
    if total_bytes is None or available_bytes is None:
        return Finding("memory", "unknown")
    limit = memory_limit()
    usable = min(available_bytes, limit or available_bytes)
    found = f"{_memory(total_bytes)}, {_memory(available_bytes)} available"
    found += f", limit {_memory(limit)}" if limit else ""
    if usable < SMALL_MEMORY_BYTES:
        return Finding("memory", found, "note", "little; use a small batch size and --workers 0 or 1")
    return Finding("memory", found)


def examine_disk(subject: str, folder: Path) -> Finding:
    """Return the free space of a folder's file system; a problem if the folder is not writable."""
    existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    free_bytes = shutil.disk_usage(existing).free
    found = f"{free_bytes / GB:,.1f} GB ({folder})"
    if not os.access(existing, os.W_OK):
        return Finding(subject, found, "problem", f"{existing} is not writable")
    if free_bytes < NO_DISK_BYTES:
        return Finding(subject, found, "problem", "too little for a checkpoint")
    if free_bytes < SMALL_DISK_BYTES:
        return Finding(subject, found, "note", "little for a data set and its checkpoints")
    return Finding(subject, found)


def examine_shared_memory() -> Finding:
    """Return the free shared memory, through which data workers pass batches."""
    free_bytes, subject = free_shared_memory(), str(SHARED_MEMORY)
    if free_bytes is None:
        return Finding(subject, "none on this system")
    found, advice = f"{_memory(free_bytes)} free", "start the container with --shm-size=8g or --ipc=host"
    if free_bytes < NO_SHARED_BYTES:
        return Finding(subject, found, "problem", f"too little for data workers; {advice}")
    if free_bytes < SMALL_SHARED_BYTES:
        return Finding(subject, found, "note", f"little for large images or many workers; {advice}")
    return Finding(subject, found)


def examine_slurm(environment: Mapping[str, str], now_s: Callable[[], float] = time.time) -> Finding:
    """Return the Slurm job that this process is in, and the time it has left."""
    if not (job := environment.get("SLURM_JOB_ID")):
        sbatch = shutil.which("sbatch")
        return Finding("Slurm", "not in a job" + (", sbatch is available" if sbatch else "; sbatch is not installed"))
    end = environment.get("SLURM_JOB_END_TIME", "")
    left_s = int(end) - now_s() if end.isdigit() and len(end) < 13 else None
    if left_s is not None and left_s < 0:
        return Finding("Slurm", f"job {job}", "note", "it has ended: its variables are left over in this shell")
    return Finding("Slurm", f"job {job}" + (f", {left_s / 3600:.1f} hours left" if left_s is not None else ""))


def examine_ranks(environment: Mapping[str, str], device: torch.device) -> Finding:
    """Return the ranks that torchrun or srun started, or why they cannot be read."""
    try:
        launch = read_launch_info(environment)
    except UsageError as problem:
        return Finding("ranks", "unclear", "problem", str(problem))
    if launch.size > 1:
        return Finding("ranks", f"rank {launch.rank} of {launch.size}, local rank {launch.local_rank}")
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if gpus > 1:
        return Finding("ranks", f"1 process, {gpus} GPUs", "note", f"torchrun --nproc-per-node {gpus} uses all of them")
    return Finding("ranks", "1 process")


def _target(device: torch.device) -> KernelTarget:
    return KernelTarget(device, compute_dtype("auto", device), HEAD_DIM)


def _memory(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:,.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:,.0f} MiB"
