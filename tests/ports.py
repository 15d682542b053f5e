"""Ports of the loopback on which the ranks of tests meet, so that no two worlds at once have the same one."""

import random
import socket
from contextlib import suppress

PORTS = range(10_000, 15_000)  # below those that the system deals out, and those that the tasks of srun find
MOST_KEPT = 50  # worlds that one process of pytest may have at the same time

_kept: list[socket.socket] = []


def take_port() -> int:
    """Return a free port of TCP, which no other test is given as long as it is in use.

    A port that is merely looked for and let go may be another's before the ranks have it. This keeps UDP's port of the
    same number, for which every test asks first; the system takes it back when the process of pytest is gone.
    """
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        claim = socket.socket(type=socket.SOCK_DGRAM)
        with suppress(OSError):
            claim.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
            _kept.append(claim)
            if len(_kept) > MOST_KEPT:
                _kept.pop(0).close()
            return port
        claim.close()
    raise AssertionError(f"no port of {PORTS} is free")
