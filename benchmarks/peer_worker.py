"""One side of `peer.py`, in its own process and environment: runs requested steps and returns their durations.

    python peer_worker.py MODULE FOLDER THREADS ATTENTION [compile]

A request is a line of JSON on stdin, and its response a line of JSON on stdout. Between requests the process sleeps.

    {"do": "facts"}                   {"parameters": ..., "torch": ...}
    {"do": "train", "times": 3}       {"seconds": [...]}
    {"do": "output", "file": ...}     {}, and writes the network's output for the inputs in FOLDER
"""

import importlib
import json
import os
import sys
import time


def main(module, folder, threads, attention, *flags):
    """Answer requests until stdin ends."""
    responses = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep output of libraries out of the responses
    import torch

    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    side = importlib.import_module(module).Side(folder, attention, "compile" in flags)
    for line in sys.stdin:
        print(json.dumps(respond(side, json.loads(line))), file=responses, flush=True)


def respond(side, request):
    """Handle one request and return its response."""
    if request["do"] == "facts":
        import torch

        return {"parameters": side.num_parameters(), "torch": torch.__version__}
    if request["do"] == "output":
        side.write_output(request["file"])
        return {}
    act = getattr(side, request["do"])
    return {"seconds": [seconds(act) for _ in range(request["times"])]}


def seconds(act):
    """Return the duration of one call in seconds."""
    started_at = time.perf_counter()
    act()
    return time.perf_counter() - started_at


if __name__ == "__main__":
    main(*sys.argv[1:])
