"""The ranks of a run: one process, or those that torchrun or srun started."""

import json
import logging
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from hdit_core.devices import pick_device
from hdit_core.errors import HditError, OtherRankFailed, UsageError
from hdit_core.launch import LOOPBACK, LaunchInfo, read_launch_info

logger = logging.getLogger("hdit")

T = TypeVar("T")

TIMEOUT_S = 600  # how long a rank waits for the others
LONG_TIMEOUT_S = 24 * 3600  # for ranks that work independently and synchronize at the end
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

        It is sent as JSON, so that no rank executes code from another one.
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
            OtherRankFailed: on the other ranks, if `act` failed. On the main one, whatever `act` raised.
        """
        result, problem = None, None
        if self.is_main:
            try:
                result = act()
            except Exception as error:
                problem = error
        if self.any(problem is not None):
            raise problem or OtherRankFailed(f"rank {self.rank} ends, because the main rank failed")
        return result

    def destroy_ranks(self) -> None:
        """Undo `init_ranks`."""
        for cleanup in self.cleanups:
            cleanup()
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def init_ranks(device_name: str = "auto", timeout_s: int = TIMEOUT_S) -> World:
    """Join the ranks that `torchrun` or `srun` announced in the environment, and pick the device of this one.

    On one node, ranks use the loopback interface only; ports that torchrun itself opens are not affected.

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
    logger.info(
        "waiting for %d other ranks at %s:%d (at most %g s)", launch.size - 1, launch.address, launch.port, meet_s
    )
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
    """Make ranks communicate over the loopback interface, unless the user chose another one."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)


def hosts_store(rank: int) -> bool:
    """Return whether this rank hosts the ranks' store: the main one, unless torchrun does."""
    return rank == 0 and not _torchrun_hosts_store()


def _torchrun_hosts_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _store(launch: LaunchInfo, timeout: timedelta) -> Store:
    """Return the ranks' store: torchrun's, or else one that the main rank hosts."""
    if not hosts_store(launch.rank):
        store = TCPStore(launch.address, launch.port, launch.size, False, timeout)
        if not _torchrun_hosts_store():
            return store
        # torchrun's store outlives its ranks: those that it restarts must not read the keys of the former ones
        return PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
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
