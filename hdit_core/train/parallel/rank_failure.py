"""A rank that is gone ends the run on all others, and is named: by its number, its process and its machine."""

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch.distributed import DistError

from hdit_core.distributed import World, hosts_store
from hdit_core.errors import HditError, StoppedEarly

POLL_S = 0.5
REPORT_WAIT_S = 3.0  # for which all wait for the answers of all
LINGER_S = 2.0  # that the rank which keeps the store gives the others to read it
GIVE_UP_S = 30.0  # after the roll call, when a rank that still waits for the others is ended
OF_CONNECTIONS = re.compile(r"gloo|NCCL|TCPStore", re.IGNORECASE)


class RankFailureDetector:
    """Finds out which ranks are gone once one of them has lost another.

    A rank may wait in an exchange with a third one and hear nothing; so a thread of each answers for it.
    """

    def __init__(self, world: World) -> None:
        """Begin to listen; all ranks do so together."""
        self._rank, self._size, self._store = world.rank, world.size, world.store
        self._lost = "another rank"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="roll call", daemon=True)
        if self._store is not None:
            me = f"rank {world.rank} (process {os.getpid()} on {socket.gethostname()})"
            self._store.set(f"hdit/who/{world.rank}", me)
            self._first = self._store.get("hdit/who/0").decode()
            self._thread.start()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Turn a connection that broke in the body, or waited too long, into a line that says which rank is to blame.

        A rank that leaves the body with an error of its own leaves word of it for the others.

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
            if not _of_connections(error):
                self._leave_word(str(error) or type(error).__name__)
                raise
            with _deaf_to_sigterm():
                raise HditError(f"rank {self._rank} ends, because it lost {self._call()}") from error

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(POLL_S)  # a thread that speaks with the store as the interpreter ends would abort it

    def _leave_word(self, why: str) -> None:
        assert self._store is not None
        with suppress(DistError):  # nobody is left to read it
            self._store.set(f"hdit/why/{self._rank}", why)
            self._store.set("hdit/lost", "")
            if hosts_store(self._rank):
                time.sleep(LINGER_S)

    def _call(self) -> str:
        assert self._store is not None
        with suppress(DistError):
            self._store.set("hdit/lost", "")
        self._thread.join(POLL_S + REPORT_WAIT_S + LINGER_S + 1)
        self._closed.set()
        return self._lost

    def _listen(self) -> None:
        assert self._store is not None
        try:
            while not self._store.check(["hdit/lost"]):
                if self._closed.wait(POLL_S):
                    return
            self._lost = self._missing()
        except DistError:
            if not hosts_store(0):  # torchrun is gone, the ranks are not: they can still save
                os.kill(os.getpid(), signal.SIGTERM)
                return
            self._lost = f"{self._first}, which was killed or ended without a word"
        threading.Thread(target=self._give_up, name="give up", daemon=True).start()

    def _missing(self) -> str:
        """Return who does not answer or has failed, and what they said."""
        assert self._store is not None
        self._store.set(f"hdit/here/{self._rank}", "")
        deadline, said = time.monotonic() + REPORT_WAIT_S, dict[int, str]()
        missing = set(range(self._size)) - {self._rank}
        while missing and time.monotonic() < deadline and not self._closed.wait(0.1):
            said |= {rank: self._store.get(f"hdit/why/{rank}").decode() for rank in missing if self._has("why", rank)}
            missing = {rank for rank in missing - said.keys() if not self._has("here", rank)}
        said |= dict.fromkeys(missing, "killed, or does not answer")
        found = [f"{self._store.get(f'hdit/who/{rank}').decode()}: {said[rank]}" for rank in sorted(said)]
        if hosts_store(self._rank):
            self._closed.wait(LINGER_S)
        return "; ".join(found) or "a connection, though all ranks are there: look at the network"

    def _has(self, word: str, rank: int) -> bool:
        assert self._store is not None
        return self._store.check([f"hdit/{word}/{rank}"])

    def _give_up(self) -> None:
        """End the process, if it does not end by itself: exchanges of NCCL's wait on, whoever is lost."""
        if not self._closed.wait(GIVE_UP_S):
            print(f"rank {self._rank} ends, because it lost {self._lost}", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(HditError.exit_code)


@contextmanager
def _deaf_to_sigterm() -> Iterator[None]:
    """Let a launcher that ends the ranks because it saw one of them die wait until they have said which."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _of_connections(error: BaseException) -> bool:
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and OF_CONNECTIONS.search(str(error)) is not None
    )
