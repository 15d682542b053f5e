"""Print the memory of `hdit prepare-data` for its list of inputs, per name and for ten million names.

    python benchmarks/prepare_memory.py [--names 100000]

The files are empty: only listing, labels and the fingerprint, which grow with the number of names, are measured.
"""

import argparse
import gc
import os
import tempfile
import tracemalloc
from pathlib import Path

from hdit_core.data.prepare.job import PrepareSettings, plan_job

CLASSES = 100
LARGEST_SET = 10_000_000


def main() -> None:
    """Make the files in a temporary folder, plan their preparation, and print the memory per name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=100_000, help="number of files")
    names = parser.parse_args().names
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        for number in range(names):
            path = pictures / f"n{number % CLASSES:08}" / f"n{number % CLASSES:08}_{number:08}.JPEG"
            if number < CLASSES:
                path.parent.mkdir(parents=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        tracemalloc.start()
        job = plan_job(PrepareSettings(str(pictures), Path(folder) / "set", (64, 64)))
        gc.collect()
        current, peak = tracemalloc.get_traced_memory()
        job.fingerprint()
    for name, size_bytes in (("current", current), ("peak", peak)):
        per_name = size_bytes / names
        print(f"{name:7}  {per_name:.0f} bytes per name, {per_name * LARGEST_SET / 1e9:.1f} GB for {LARGEST_SET:,}")


if __name__ == "__main__":
    main()
