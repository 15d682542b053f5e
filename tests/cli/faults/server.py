"""A process with everything imported and the shim loaded, which forks one child per command: a tenth of a second each.

It reads jobs from its standard input, one JSON line each: the arguments, the fault, and the file for what is printed
on stderr; stdout goes to the same name with the ending `.out`. It answers with the exit code (-1: the child died or
took too long) and with the number of system calls of each kind.
"""

import ctypes
import faulthandler
import json
import os
import sys
import traceback
from importlib import import_module

KINDS = ("open", "read", "write", "close", "fsync", "rename", "mkdir", "stat", "unlink", "list", "utime")
LONGEST_S = 100
IMPORTED = (  # once, for all who are forked
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "hdit_core.bench.doctor",
    "hdit_core.checkpoint.convert",
    "hdit_core.checkpoint.ema.post_hoc",
    "hdit_core.data.prepare.run",
    "hdit_core.evaluate.paired.score_pairs",
    "hdit_core.evaluate.sweep.run",
    "hdit_core.generate.edit.likelihood",
    "hdit_core.generate.export.diffusers_folder",
    "hdit_core.generate.export.export",
    "hdit_core.generate.restore.restore",
    "hdit_core.runs.curves",
    "hdit_core.train.dry_run",
    "hdit_core.train.run",
)


def be_hdit(arguments, fault, said):
    """Run `hdit` with a fault; return its exit code and the number of calls of each kind."""
    from hdit_cli.main import main

    for number, path in ((1, f"{said}.out"), (2, said)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    faulthandler.dump_traceback_later(LONGEST_S, exit=True)
    shim = ctypes.CDLL(None)
    call, number, part, first, last = fault
    shim.hdit_fault(call.encode(), number, part.encode(), first, last)
    code = main(arguments)
    sys.stdout.flush()
    return code, {kind: shim.hdit_seen(kind.encode()) for kind in KINDS}


def serve():
    """Run jobs until the input ends."""
    for name in IMPORTED:
        import_module(name)
    import torch

    from hdit_core.data.format import retry_reads

    torch.set_num_threads(1)
    retry_reads.PAUSES_S = (0.01, 0.01)
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            answer = (1, {})
            try:
                answer = be_hdit(*json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os.write(writer, json.dumps(answer).encode())
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answers:
            print(answers.read() or json.dumps((-1, {})), flush=True)
        os.waitpid(child, 0)


if __name__ == "__main__":
    serve()
