"""One side of `peer.py`, in a process and an environment of its own: does what it is asked and says how long it took.

    python peer_worker.py MODULE FOLDER THREADS ATTENTION [compile]

A request is a line of JSON on stdin, its answer one on stdout; between requests the process sleeps:

    {"do": "facts"}                   {"parameters": ..., "torch": ...}
    {"do": "train", "times": 3}       {"seconds": [...]}
    {"do": "output", "file": ...}     {}, and the file holds the network's answer to the inputs of FOLDER
"""

import importlib
import json
import os
import sys
import time


def main(module, folder, threads, attention, *flags):
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    import torch

    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    side = importlib.import_module(module).Side(folder, attention, "compile" in flags)
    for line in sys.stdin:
        print(json.dumps(answer(side, json.loads(line))), file=answers, flush=True)


def answer(side, request):
    """Do what was asked."""
    if request["do"] == "facts":
        import torch

        return {"parameters": side.num_parameters(), "torch": torch.__version__}
    if request["do"] == "output":
        side.write_output(request["file"])
        return {}
    act = getattr(side, request["do"])
    return {"seconds": [seconds(act) for _ in range(request["times"])]}


def seconds(act):
    """Return how long one call takes."""
    began_at = time.perf_counter()
    act()
    return time.perf_counter() - began_at


if __name__ == "__main__":
    main(*sys.argv[1:])
