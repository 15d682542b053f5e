"""Processes forked from a server that has imported what the tests of several ranks need: begun in a tenth of a second.

One process of pytest has one such server, whichever test asks first; so all it may need is named here.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["hdit_core.train.run", "hdit_core.evaluate.sweep.run", "torch._dynamo"])


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a process of its own, where no type checker is in effect."""
    received, sent = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_answer, args=(sent, function, arguments))
    process.start()
    sent.close()
    found = received.recv()
    process.join(100)
    return found


def _answer(sent: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sent.send(function(*arguments))
