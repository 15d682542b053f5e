"""The ranks of a run: one process, or those that torchrun or srun started."""

import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from hdit_core.devices import pick_device
from hdit_core.errors import HditError, UsageError

T = TypeVar("T")

TIMEOUT_S = 600  # how long a rank waits for the others
LONG_TIMEOUT_S = 24 * 3600  # the same for ranks that work independently and meet at the end: one may have less to do
LOOPBACK = "127.0.0.1"
FIRST_PORT, NUM_PORTS = 15_000, 16_000  # for Slurm jobs; below the ephemeral ports of usual systems
CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """The rank of this process and the operations that all ranks take part in; as a context, it leaves them at the end.

    Attributes:
        local_rank: the rank within the node.
        store: key-value store of the ranks; None if there is only one.
        cleanups: called before the ranks are left.
        device: the device of this rank.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Store | None = field(default=None, compare=False, repr=False)
    cleanups: list[Callable[[], None]] = field(default_factory=list, compare=False, repr=False)
    device: torch.device = CPU

    def __enter__(self) -> "World":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.destroy_ranks()

    @property
    def is_main(self) -> bool:
        """Whether this is the main rank, which writes files and shows progress."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        if self.size == 1:
            return flag
        votes = torch.tensor(int(flag), device=self.device)
        distributed.all_reduce(votes, distributed.ReduceOp.MAX)
        return bool(votes)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value

    def union(self, numbers: Iterable[int]) -> list[int]:
        """Return the sorted union of the numbers of all ranks."""
        own = sorted(set(numbers))
        if not self.any(bool(own)) or self.size == 1:
            return own
        lengths = [torch.zeros((), dtype=torch.int64, device=self.device) for _ in range(self.size)]
        distributed.all_gather(lengths, torch.tensor(len(own), device=self.device))
        longest = int(max(lengths))
        padded = torch.tensor(own + [0] * (longest - len(own)), device=self.device)
        gathered = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(gathered, padded)
        return sorted({int(n) for row, length in zip(gathered, lengths, strict=True) for n in row[: int(length)]})

    def broadcast(self, value: Any) -> Any:
        """Return the value of the main rank on every rank: None, a number, text, or lists and tables of them.

        It travels as JSON, so that no rank runs code that another one sent.
        """
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.is_main else b""
        length = torch.tensor(len(text), device=self.device)
        distributed.broadcast(length, 0)
        content = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
        if self.is_main:
            content = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(self.device)
        distributed.broadcast(content, 0)
        return json.loads(bytes(content.tolist()))

    def on_main_rank(self, act: Callable[[], T]) -> T | None:
        """Run `act` on the main rank while the others wait; return its result there and None on the others.

        Raises:
            HditError: on the other ranks, if `act` failed. On the main one, whatever `act` raised.
        """
        result, problem = None, None
        if self.is_main:
            try:
                result = act()
            except Exception as error:
                problem = error
        if self.any(problem is not None):
            raise problem or HditError(f"rank {self.rank} ends, because the main rank failed; that one says why")
        return result

    def destroy_ranks(self) -> None:
        """Undo `init_ranks`."""
        for cleanup in self.cleanups:
            cleanup()
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


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

    A batch script and an interactive shell of Slurm also have SLURM_PROCID and SLURM_NTASKS, but are a single process;
    only srun sets SLURM_STEP_NUM_TASKS.

    Raises:
        UsageError: the environment gives a world size but not the rank of this process.
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
    """Return the rank of a task of srun; all tasks of a step derive the same port from the job and step ids."""
    rank, size, local_rank, nodes = (
        _number(environment, f"SLURM_{name}") for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID", "STEP_NUM_NODES")
    )
    job, step = _number(environment, "SLURM_JOB_ID"), _number(environment, "SLURM_STEP_ID")
    address = LOOPBACK if nodes == 1 else first_host(_text(environment, "SLURM_STEP_NODELIST"))
    port = _number(environment, "MASTER_PORT", FIRST_PORT + (31 * job + step) % NUM_PORTS)
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


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and name not in environment:
        return default
    text = _text(environment, name)
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise UsageError(f"{name} is {text!r}, expected a number; start the ranks with torchrun or srun")
    return int(text)


def is_main_process() -> bool:
    """Return whether this process is the main rank; works before and after `init_ranks`."""
    return read_launch_info(os.environ).rank == 0


def init_ranks(device_name: str = "auto", timeout_s: int = TIMEOUT_S) -> World:
    """Join the ranks that `torchrun` or `srun` announced in the environment, and pick the device of this one.

    On one node, it listens on the loopback interface only; what torchrun itself opens is not up to hdit.

    Args:
        device_name: `"auto"`, `"cpu"`, `"cuda"`, ...
        timeout_s: how long a rank waits for the others in a collective operation. It waits at most `TIMEOUT_S` for
            them to join.

    Raises:
        UsageError: the environment gives a world size but not the rank of this process, the rank has no GPU, there is
            no such device, or the port is taken.
        HditError: the other ranks did not join.
    """
    launch = read_launch_info(os.environ)
    if launch.size == 1:
        return World(device=pick_device(device_name))
    on_gpu = torch.cuda.is_available() and device_name.partition(":")[0] in ("auto", "cuda")
    if on_gpu:
        torch.cuda.set_device(gpu_of(launch, torch.cuda.device_count()))
    if launch.one_node:
        _stay_inside()
    timeout, meet_s = timedelta(seconds=timeout_s), min(timeout_s, TIMEOUT_S)
    try:
        store = _store(launch, timedelta(seconds=meet_s))
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo", store=store, rank=launch.rank, world_size=launch.size, timeout=timeout
        )
    except distributed.DistError as error:
        raise HditError(
            f"rank {launch.rank} on {socket.gethostname()} did not meet the other {launch.size - 1} at "
            f"{launch.address}:{launch.port} within {meet_s} s: {str(error).splitlines()[0]}"
        ) from error
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else pick_device(device_name)
    return World(launch.rank, launch.size, launch.local_rank, store, device=device)


def gpu_of(launch: LaunchInfo, visible: int) -> int:
    """Return the index of a rank's GPU among the visible ones.

    Raises:
        UsageError: there is no GPU for it.
    """
    if launch.own_gpu and visible == 1:
        return 0
    if launch.local_rank >= visible:
        raise UsageError(
            f"rank {launch.rank} has local rank {launch.local_rank}, but {visible} GPUs are visible on its node; start "
            "as many ranks on a node as it has GPUs"
        )
    return launch.local_rank


def _stay_inside() -> None:
    """Use the loopback interface between ranks, unless the user chose another one."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)


def hosts_store(rank: int) -> bool:
    """Return whether this rank hosts the ranks' store: the main one, unless torchrun does."""
    return rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _store(launch: LaunchInfo, timeout: timedelta) -> Store:
    """Return the ranks' store: torchrun's, or else one that the main rank hosts."""
    if not hosts_store(launch.rank):
        return TCPStore(launch.address, launch.port, launch.size, False, timeout)
    if not launch.one_node:
        return TCPStore(launch.address, launch.port, launch.size, True, timeout)
    try:
        # opened here, since torch would listen on all interfaces if it were given an address
        listener = socket.create_server((LOOPBACK, launch.port), backlog=launch.size)
    except OSError as error:
        raise UsageError(
            f"port {launch.port} for the rendezvous of the ranks is not available ({error.strerror}); set MASTER_PORT "
            "to a free one"
        ) from None
    return TCPStore(launch.address, launch.port, launch.size, True, timeout, master_listen_fd=listener.detach())
