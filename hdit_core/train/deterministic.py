"""`hdit train --deterministic`: deterministic algorithms, so that a run on the same machine is bit-identical.

An operation without a deterministic implementation is refused by name. On CPUs, only the threads of a matrix product
have to be controlled; on CUDA, torch has switches (https://docs.pytorch.org/docs/stable/notes/randomness.html), and
NCCL has one more.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hdit_core.checkpoint.state import State
from hdit_core.devices import make_mkl_reproducible, pick_device
from hdit_core.errors import UsageError
from hdit_core.launch import read_launch_info
from hdit_core.model.compile import compiles_deterministically
from hdit_core.recipe.train import TrainRecipe

logger = logging.getLogger("hdit")

WORKSPACE, WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # those that cuBLAS documents for it
SWITCH_SUMS = ("NVLS", "NVLSTREE")  # of NCCL: network switches add up in order of arrival
MESSAGE = re.compile(r"(\S+) does not have a deterministic implementation|Deterministic behavior was enabled with")


@contextmanager
def deterministic(train: TrainRecipe, device: str) -> Iterator[None]:
    """Use deterministic algorithms while the body runs; must start before ranks join and before anything is computed.

    Args:
        device: `"auto"`, `"cpu"`, `"cuda"`, ...

    Raises:
        UsageError: the device or an environment variable does not allow it, or the body runs an operation that has no
            deterministic implementation.
    """
    kind = pick_device(device).type
    if kind == "mps":
        raise UsageError("--deterministic: torch has no deterministic mode on MPS; use --device cpu, or leave it out")
    make_mkl_reproducible()
    if kind == "cuda":
        _prepare_cuda(train)
        _prepare_nccl()
    with _switched_on(), naming_operation():
        logger.info("deterministic: %s", _guarantee(kind))
        yield


@contextmanager
def naming_operation() -> Iterator[None]:
    """Turn torch's error about an operation without a deterministic implementation into one line that names it.

    Raises:
        UsageError: the body ran one; only under `deterministic`.
    """
    try:
        yield
    except RuntimeError as error:
        match = MESSAGE.match(str(error))
        if match is None:
            raise
        name = match[1] or "a product of cuBLAS"
        raise UsageError(
            f"--deterministic: {name} has no deterministic implementation in torch {torch.__version__}; train "
            "without --deterministic, or change the setting of the recipe that uses it"
        ) from error


def kept_so_far(state: State, wanted: bool) -> bool:
    """Return whether all steps of a run are deterministic, past and future; log a change."""
    before = state.deterministic or state.step == 0
    if before and state.step and not wanted:
        logger.info("steps 0 to %d were deterministic, those from now on are not", state.step - 1)
    if wanted and not before:
        logger.info("deterministic from step %d on; not all earlier steps were", state.step)
    return before and wanted


@contextmanager
def _switched_on() -> Iterator[None]:
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.deterministic, cudnn.benchmark, cuda.cudnn_sdp_enabled()
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    cuda.enable_cudnn_sdp(False)  # of torch's kernels for global attention, the one that is not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = flags[:2]
        cuda.enable_cudnn_sdp(flags[2])


def _prepare_cuda(train: TrainRecipe) -> None:
    found = os.environ.get(WORKSPACE)
    if found is None and torch.cuda.is_initialized():
        raise UsageError(
            f"--deterministic: CUDA is in use already; set {WORKSPACE}={WORKSPACES[0]} before Python starts"
        )
    if found not in (None, *WORKSPACES):
        raise UsageError(f"--deterministic: {WORKSPACE} is {found!r}, expected {' or '.join(WORKSPACES)}; unset it")
    os.environ.setdefault(WORKSPACE, WORKSPACES[0])
    if train.compile is True and not compiles_deterministically():
        raise UsageError(
            f"--deterministic: torch.compile of torch {torch.__version__} picks kernels by their speed, which changes "
            "the order of sums; set train.compile=false, or use a newer torch"
        )


def _prepare_nccl() -> None:
    """Keep NCCL from summing in varying order; Megatron-LM's deterministic mode does the same."""
    if read_launch_info(os.environ).size == 1:
        return
    found = os.environ.setdefault("NCCL_ALGO", f"^{','.join(SWITCH_SUMS)}")
    named = set(re.split(r"[^A-Z0-9]+", found.upper()))
    kept = set(SWITCH_SUMS) <= named if found.startswith("^") else not set(SWITCH_SUMS) & named
    if not kept:
        raise UsageError(
            f"--deterministic: NCCL_ALGO is {found!r}, which lets network switches add up in any order; unset it, or "
            f"set NCCL_ALGO=^{','.join(SWITCH_SUMS)}"
        )


def _guarantee(kind: str) -> str:
    size = read_launch_info(os.environ).size
    among = f"{size} rank{'s' * (size > 1)} of {torch.get_num_threads()} threads"
    if kind != "cuda":
        return f"bit-identical on this machine with {among}; MKL_CBWR={os.environ['MKL_CBWR']}"
    tf32 = "TF32" if torch.backends.cuda.matmul.allow_tf32 else "full float32, not TF32"
    nccl = f", NCCL_ALGO={os.environ['NCCL_ALGO']}" if size > 1 else ""
    return (
        f"requested from torch for {among}: deterministic algorithms, {WORKSPACE}={os.environ[WORKSPACE]}{nccl}, cuDNN "
        f"without benchmarking and not for attention, float32 matmuls in {tf32}"
    )
