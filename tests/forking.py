"""Processes forked from a server that has imported what the tests of several ranks need: begun in a tenth of a second.

One process of pytest has one such server, whichever test asks first; so all it may need is named here.
"""

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["hdit_core.train.run", "hdit_core.evaluate.sweep.run", "torch._dynamo"])
