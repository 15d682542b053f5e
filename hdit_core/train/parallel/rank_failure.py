"""Rank monitoring: if a rank dies or hangs, the others end and name it: rank, process and machine.

Requests to stop travel the same way: a rank that waits for another one cannot take part in a collective operation.
"""

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from torch.distributed import DistError

from hdit_core.distributed import World, hosts_store
from hdit_core.errors import HditError, StoppedEarly

POLL_S = 0.5
REPORT_WAIT_S = 3.0  # for the reports of all ranks
LINGER_S = 2.0  # for which the rank that hosts the store lets the others read it
GIVE_UP_S = 30.0  # after the reports, when a rank that still waits for the others is ended
OF_CONNECTIONS = re.compile(r"gloo|NCCL|TCPStore", re.IGNORECASE)


class RankFailureDetector:
    """Finds out which ranks are gone once one of them has lost another.

    A rank may be blocked in a collective operation, so a thread of each one reports that it is alive.

    Attributes:
        on_stop: called in that thread, with the reason, once a rank was asked to stop.
    """

    def __init__(self, world: World) -> None:
        """Start to listen; all ranks do so together."""
        self._rank, self._size, self._store = world.rank, world.size, world.store
        self.on_stop: Callable[[str], object] = lambda reason: None
        self._busy = threading.Lock()
        self._stop_seen = False
        self._lost = "another rank"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="rank monitoring", daemon=True)
        if self._store is not None:
            me = f"rank {world.rank} (process {os.getpid()} on {socket.gethostname()})"
            self._store.set(f"hdit/who/{world.rank}", me)
            self._first = self._store.get("hdit/who/0").decode()
            self._thread.start()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Turn a broken or timed-out connection in the body into a message that names the failed rank.

        A rank that leaves the body with its own error reports it to the others.

        Raises:
            HditError: another rank ended, was killed, or does not answer.
        """
        try:
            yield
        except StoppedEarly:
            raise
        except BaseException as error:
            if self._store is None or self._closed.is_set():
                raise
            if not is_connection_error(error):
                self._report(str(error) or type(error).__name__)
                raise
            raise HditError(f"rank {self._rank} ends, because it lost {self.lost_ranks()}") from error

    def announce_stop(self, reason: str) -> None:
        """Tell all ranks that this one was asked to stop, or cannot continue for now."""
        self._stop_seen = True
        if self._store is not None:
            with suppress(DistError):
                self._store.set("hdit/stop", f"{reason} (rank {self._rank})")

    def read_stop(self) -> None:
        """Call `on_stop` if a rank has announced a stop."""
        if self._store is not None and not self._stop_seen and self._store.check(["hdit/stop"]):
            self._stop_seen = True
            self.on_stop(self._store.get("hdit/stop").decode())

    def linger(self) -> None:
        """Let the other ranks read what this one has announced, if it hosts the store."""
        if self._store is not None and hosts_store(self._rank):
            time.sleep(LINGER_S)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Do not end this process before the body has ended, even if another rank is lost."""
        with self._busy:
            yield

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(POLL_S)  # a thread that uses the store while the interpreter ends would abort the process

    def _report(self, why: str) -> None:
        assert self._store is not None
        with suppress(DistError):  # no rank is left to read it
            self._store.set(f"hdit/why/{self._rank}", why)
            self._store.set("hdit/lost", "")
            self.linger()

    def lost_ranks(self) -> str:
        """Return which ranks are gone and why, as far as it is known; may take seconds."""
        assert self._store is not None
        with _ignoring_sigterm():
            with suppress(DistError):
                self._store.set("hdit/lost", "")
            self._thread.join(POLL_S + REPORT_WAIT_S + LINGER_S + 1)
        self._closed.set()
        return self._lost

    def _listen(self) -> None:
        assert self._store is not None
        try:
            while not self._store.check(["hdit/lost"]):
                self.read_stop()
                if self._closed.wait(POLL_S):
                    return
            self._lost = self._missing()
        except DistError:
            if not hosts_store(0):  # torchrun is gone, but the ranks can still save
                os.kill(os.getpid(), signal.SIGTERM)
                return
            self._lost = f"{self._first}, which was killed or ended without a report"
        threading.Thread(target=self._give_up, name="give up", daemon=True).start()

    def _missing(self) -> str:
        """Return the ranks that do not answer or have failed, with their reports."""
        assert self._store is not None
        self._store.set(f"hdit/here/{self._rank}", "")
        deadline, reports = time.monotonic() + REPORT_WAIT_S, dict[int, str]()
        missing = set(range(self._size)) - {self._rank}
        while missing and time.monotonic() < deadline and not self._closed.wait(0.1):
            reports |= {
                rank: self._store.get(f"hdit/why/{rank}").decode() for rank in missing if self._has("why", rank)
            }
            missing = {rank for rank in missing - reports.keys() if not self._has("here", rank)}
        reports |= dict.fromkeys(missing, "killed, or does not answer")
        lost = [f"{self._store.get(f'hdit/who/{rank}').decode()}: {reports[rank]}" for rank in sorted(reports)]
        if hosts_store(self._rank):
            self._closed.wait(LINGER_S)
        return "; ".join(lost) or "a connection, although all ranks are alive: check the network"

    def _has(self, word: str, rank: int) -> bool:
        assert self._store is not None
        return self._store.check([f"hdit/{word}/{rank}"])

    def _give_up(self) -> None:
        """End the process if it does not end by itself: NCCL operations wait on although a rank is lost."""
        if not self._closed.wait(GIVE_UP_S):
            with self._busy:
                print(f"rank {self._rank} ends, because it lost {self._lost}", file=sys.stderr, flush=True)  # noqa: T201
                os._exit(HditError.exit_code)


@contextmanager
def _ignoring_sigterm() -> Iterator[None]:
    """Ignore SIGTERM from a launcher that saw a rank die, until this rank has named it."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_connection_error(error: BaseException) -> bool:
    """Return whether an error means that the connection to another rank broke or timed out."""
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and OF_CONNECTIONS.search(str(error)) is not None
    )
