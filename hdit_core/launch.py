"""Environment variables of torchrun and srun: rank, number of ranks, and rendezvous."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hdit_core.errors import UsageError

LOOPBACK = "127.0.0.1"
FIRST_PORT, NUM_PORTS = 15_000, 16_000  # for Slurm jobs; below the ephemeral ports of usual systems
PROC = Path("/proc")
LAUNCHERS = {"WORLD_SIZE", "SLURM_STEP_NUM_TASKS"}  # torchrun or srun sets one of them


@dataclass(frozen=True)
class LaunchInfo:
    """What the launcher assigned to this process: rank, world size, and the address of the rendezvous.

    Attributes:
        one_node: whether all ranks are on this node, so that nothing has to listen on the network.
        own_gpu: whether this process sees only its own GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = LOOPBACK
    port: int = 0
    one_node: bool = True
    own_gpu: bool = False


def read_launch_info(environment: Mapping[str, str]) -> LaunchInfo:
    """Return what torchrun or else srun put into the environment; a single rank if there is neither.

    Raises:
        UsageError: the environment gives a world size but not the rank of this process.
    """
    if "WORLD_SIZE" in environment:
        return _torchrun_launch_info(environment) if env_int(environment, "WORLD_SIZE") > 1 else LaunchInfo()
    return _srun_launch_info(environment) if step_tasks(environment) > 1 else LaunchInfo()


def step_tasks(environment: Mapping[str, str]) -> int:
    """Return the number of tasks of the srun step that this process belongs to; 1 outside of a step.

    A batch script and an interactive shell of Slurm also have SLURM_PROCID and SLURM_NTASKS, but are a single process;
    only srun sets SLURM_STEP_NUM_TASKS. sbatch passes that variable on to a job that is submitted from within a step,
    although the script of the new job belongs to no step.
    """
    if "SLURM_STEP_NUM_TASKS" not in environment or _is_batch_script(environment):
        return 1
    return env_int(environment, "SLURM_STEP_NUM_TASKS")


def _is_batch_script(environment: Mapping[str, str], proc: Path = PROC) -> bool:
    """Return whether Slurm started this process as a batch script: its daemon is titled `slurmstepd: [JOB.batch]`."""
    try:
        status = (proc / environment["SLURM_TASK_PID"] / "stat").read_text()
        parent = status.rpartition(")")[2].split()[1]
        title = (proc / parent / "cmdline").read_bytes().decode(errors="replace")
    except (KeyError, OSError, IndexError):
        return False
    return re.search(r"slurmstepd: \[[0-9_.+]+\.batch\]", title) is not None


def _torchrun_launch_info(environment: Mapping[str, str]) -> LaunchInfo:
    rank, size, local_rank, port = (
        env_int(environment, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    )
    address = _text(environment, "MASTER_ADDR")
    if "LOCAL_WORLD_SIZE" in environment:
        return LaunchInfo(rank, size, local_rank, address, port, env_int(environment, "LOCAL_WORLD_SIZE") == size)
    return LaunchInfo(rank, size, local_rank, address, port, address in (LOOPBACK, "localhost"))


def _srun_launch_info(environment: Mapping[str, str]) -> LaunchInfo:
    """Return the rank of a task of srun; all tasks of a step derive the same port from the job and step ids."""
    rank, size, local_rank, nodes = (
        env_int(environment, f"SLURM_{name}") for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID", "STEP_NUM_NODES")
    )
    job, step = env_int(environment, "SLURM_JOB_ID"), env_int(environment, "SLURM_STEP_ID")
    address = LOOPBACK if nodes == 1 else first_host(_text(environment, "SLURM_STEP_NODELIST"))
    port = env_int(environment, "MASTER_PORT", FIRST_PORT + (31 * job + step) % NUM_PORTS)
    own_gpu = "," not in environment.get("CUDA_VISIBLE_DEVICES", ",")
    return LaunchInfo(rank, size, local_rank, address, port, nodes == 1, own_gpu)


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list: `"gpu007"` for `"gpu[007-010,12],cpu3"`.

    Raises:
        UsageError: it is not a node list.
    """
    match = re.match(r"(?:[\w.-]|\[[0-9][0-9,-]*\])+(?=,|$)", nodes)
    if match is None:
        raise UsageError(f"SLURM_STEP_NODELIST is {nodes!r}, expected a node list such as gpu[01-04],cpu7")
    return re.sub(r"\[([0-9]+)[^]]*\]", r"\1", match[0])


def _text(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise UsageError(f"{name} is not set, but this is one of several ranks; start them with torchrun or srun")
    return environment[name]


def env_int(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return a whole number that a launcher put into the environment.

    Raises:
        UsageError: it is missing and there is no default, or it is not a whole number.
    """
    if default is not None and name not in environment:
        return default
    text = _text(environment, name)
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise UsageError(f"{name} is {text!r}, expected a number; torchrun, srun or a Slurm job array sets it")
    return int(text)


def is_main_process() -> bool:
    """Return whether this process is the main rank; works before and after `init_ranks`."""
    if not LAUNCHERS & os.environ.keys():
        return True
    return read_launch_info(os.environ).rank == 0
