"""The ranks of a run: one process, or those that torchrun or srun started."""

import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import Tensor, distributed
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from hdit_core.errors import HditError, UsageError

TIMEOUT_S = 600  # after which a rank that waits for another gives up
LONG_TIMEOUT_S = 24 * 3600  # the same, where ranks work by themselves and meet at the end: one may have much less to do
LOOPBACK = "127.0.0.1"
FIRST_PORT, NUM_PORTS = 15_000, 16_000  # of jobs of Slurm; below those that systems give out of their own accord


@dataclass(frozen=True)
class World:
    """This process among its equals.

    Attributes:
        local_rank: its number among those of its node.
        store: what the ranks of a world of several tell each other besides tensors; see `named`.
        farewells: what this rank does first when it leaves.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Store | None = field(default=None, compare=False, repr=False)
    cleanups: list[Callable[[], None]] = field(default_factory=list, compare=False, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this is the one rank that writes files and shows progress."""
        return self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """Return this rank's own device of the chosen kind."""
        mine = chosen.type == "cuda" and self.size > 1  # `init_ranks` has set it
        return torch.device("cuda", torch.cuda.current_device()) if mine else chosen

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether the flag is up on any rank."""
        if self.size == 1:
            return flag
        votes = torch.tensor(int(flag), device=device)
        distributed.all_reduce(votes, distributed.ReduceOp.MAX)
        return bool(votes)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value

    def union(self, numbers: Iterable[int], device: torch.device) -> list[int]:
        """Return the numbers that any rank gives, each once, in their order."""
        mine = sorted(set(numbers))
        if not self.any(bool(mine), device) or self.size == 1:
            return mine
        lengths = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(self.size)]
        distributed.all_gather(lengths, torch.tensor(len(mine), device=device))
        longest = int(max(lengths))
        padded = torch.tensor(mine + [0] * (longest - len(mine)), device=device)
        gathered = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(gathered, padded)
        return sorted({int(n) for row, length in zip(gathered, lengths, strict=True) for n in row[: int(length)]})

    def on_main_rank(self, act: Callable[[], None], device: torch.device) -> None:
        """Let the main rank do something while the others wait; where it fails, all ranks end.

        Raises:
            HditError: on the other ranks. On the main one, whatever `act` raised.
        """
        problem: Exception | None = None
        if self.is_main:
            try:
                act()
            except Exception as error:
                problem = error
        if self.any(problem is not None, device):
            raise problem or HditError(f"rank {self.rank} ends, because the main rank failed; that one says why")

    def destroy_ranks(self) -> None:
        """End what `init_ranks` began."""
        for farewell in self.cleanups:
            farewell()
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


@dataclass(frozen=True)
class LaunchInfo:
    """Where a launcher has put this process: its numbers, and where the ranks meet.

    Attributes:
        one_node: whether all ranks are on this node, so that nothing needs to listen to the network.
        own_gpu: whether this process sees no GPU but its own.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = LOOPBACK
    port: int = 0
    one_node: bool = True
    own_gpu: bool = False


def read_launch_info(environment: Mapping[str, str]) -> LaunchInfo:
    """Return the place that torchrun or, without it, srun announces; alone where neither does.

    A batch script and an interactive shell of Slurm have SLURM_PROCID and SLURM_NTASKS too, and are alone; only srun
    sets SLURM_STEP_NUM_TASKS.

    Raises:
        UsageError: the environment names a world but not this process's place in it.
    """
    if "WORLD_SIZE" in environment:
        return _torchrun_launch_info(environment) if _number(environment, "WORLD_SIZE") > 1 else LaunchInfo()
    if environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _srun_launch_info(environment)
    return LaunchInfo()


def _torchrun_launch_info(environment: Mapping[str, str]) -> LaunchInfo:
    rank, size, local_rank, port = (
        _number(environment, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    )
    address = _text(environment, "MASTER_ADDR")
    if "LOCAL_WORLD_SIZE" in environment:
        return LaunchInfo(rank, size, local_rank, address, port, _number(environment, "LOCAL_WORLD_SIZE") == size)
    return LaunchInfo(rank, size, local_rank, address, port, address in (LOOPBACK, "localhost"))


def _srun_launch_info(environment: Mapping[str, str]) -> LaunchInfo:
    """Return the place of one of srun's tasks; those of one step find the same port without having spoken."""
    rank, size, local_rank, nodes = (
        _number(environment, f"SLURM_{name}") for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID", "STEP_NUM_NODES")
    )
    job, step = _number(environment, "SLURM_JOB_ID"), _number(environment, "SLURM_STEP_ID")
    address = LOOPBACK if nodes == 1 else first_host(_text(environment, "SLURM_STEP_NODELIST"))
    port = _number(environment, "MASTER_PORT", FIRST_PORT + (31 * job + step) % NUM_PORTS)
    own_gpu = "," not in environment.get("CUDA_VISIBLE_DEVICES", ",")
    return LaunchInfo(rank, size, local_rank, address, port, nodes == 1, own_gpu)


def first_host(nodes: str) -> str:
    """Return the first name of a list as Slurm writes it: `"gpu[007-010,12],cpu3"` begins with `"gpu007"`.

    Raises:
        UsageError: it is no such list.
    """
    match = re.match(r"(?:[\w.-]|\[[0-9][0-9,-]*\])+(?=,|$)", nodes)
    if match is None:
        raise UsageError(f"SLURM_STEP_NODELIST is {nodes!r}, expected names of nodes such as gpu[01-04],cpu7")
    return re.sub(r"\[([0-9]+)[^]]*\]", r"\1", match[0])


def _text(environment: Mapping[str, str], name: str) -> str:
    if not environment.get(name):
        raise UsageError(f"{name} is not set, though this is one of several ranks; start them with torchrun or srun")
    return environment[name]


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in environment:
        return default
    text = _text(environment, name)
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise UsageError(f"{name} is {text!r}, expected a number; start the ranks with torchrun or srun")
    return int(text)


def is_main_process() -> bool:
    """Return whether this process is the one among its ranks that talks to people, before or after they have joined."""
    return read_launch_info(os.environ).rank == 0


def init_ranks(device_name: str = "auto", timeout_s: int = TIMEOUT_S) -> World:
    """Join the ranks that `torchrun` or `srun` announced in the environment; alone, there is nothing to join.

    On one node nothing of it listens on another address than the loopback's; what torchrun itself opens, it does not
    decide.

    Args:
        timeout_s: how long a rank waits for the others in whatever it does with them, before it gives up; here it
            waits for no more than `TIMEOUT_S`.

    Raises:
        UsageError: the environment names a world but not this process's place in it; or there is no GPU for the rank,
            or the port is taken.
        HditError: the other ranks did not come.
    """
    place = read_launch_info(os.environ)
    if place.size == 1:
        return World()
    on_gpu = torch.cuda.is_available() and device_name.partition(":")[0] in ("auto", "cuda")
    if on_gpu:
        torch.cuda.set_device(gpu_of(place, torch.cuda.device_count()))
    if place.one_node:
        _stay_inside()
    timeout, meet_s = timedelta(seconds=timeout_s), min(timeout_s, TIMEOUT_S)
    try:
        store = _store(place, timedelta(seconds=meet_s))
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo", store=store, rank=place.rank, world_size=place.size, timeout=timeout
        )
    except distributed.DistError as error:
        raise HditError(
            f"rank {place.rank} on {socket.gethostname()} did not meet the other {place.size - 1} at "
            f"{place.address}:{place.port} within {meet_s} s: {str(error).splitlines()[0]}"
        ) from error
    return World(place.rank, place.size, place.local_rank, store)


def gpu_of(launch: LaunchInfo, visible: int) -> int:
    """Return the number of a rank's GPU among the visible ones.

    Raises:
        UsageError: there is none for it.
    """
    if launch.own_gpu and visible == 1:
        return 0
    if launch.local_rank >= visible:
        raise UsageError(
            f"rank {launch.rank} is number {launch.local_rank} on its node, where {visible} GPUs are visible; start as "
            "many ranks on a node as it has GPUs"
        )
    return launch.local_rank


def _stay_inside() -> None:
    """Let the ranks' own connections go over the loopback, unless the user has said over what."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)


def hosts_store(rank: int) -> bool:
    """Return whether what the ranks have in common is kept by this one, the first: torchrun does it where it is."""
    return rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _store(launch: LaunchInfo, timeout: timedelta) -> Store:
    """Return the ranks' common store: torchrun's, or else one that the first of them offers."""
    if not hosts_store(launch.rank):
        return TCPStore(launch.address, launch.port, launch.size, False, timeout)
    if not launch.one_node:
        return TCPStore(launch.address, launch.port, launch.size, True, timeout)
    try:
        # ready before the store has it: given an address, torch would listen on all of them
        listener = socket.create_server((LOOPBACK, launch.port), backlog=launch.size)
    except OSError as error:
        raise UsageError(
            f"port {launch.port}, where the ranks meet, is not available ({error.strerror}); set MASTER_PORT to one "
            "that is free"
        ) from None
    return TCPStore(launch.address, launch.port, launch.size, True, timeout, master_listen_fd=listener.detach())
