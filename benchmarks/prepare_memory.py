"""Print the memory of `hdit prepare-data` for its list of inputs, per name and for ten million names.

    python benchmarks/prepare_memory.py [--names 1000000] [--kind folder|list|tar|zip]

The files are empty: only listing, labels and the fingerprint, which grow with the number of names, are measured.
"""

import argparse
import gc
import os
import tarfile
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

from hdit_core.data.prepare.job import PrepareSettings, plan_job

CLASSES = 100
LARGEST_SET = 10_000_000


def make_source(folder: Path, kind: str, names: list[str]) -> Path:
    """Make a source of empty files and return its path."""
    path = folder / f"pictures.{kind}"
    if kind == "tar":
        with tarfile.open(path, "w") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"")
    else:
        for name in names:
            file = folder / "pictures" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY))
        if kind == "folder":
            return folder / "pictures"
        path = folder / "pictures.txt"
        path.write_text("".join(f"pictures/{name}\n" for name in names))
    return path


def main() -> None:
    """Make the files in a temporary folder, plan their preparation, and print the memory per name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=1_000_000, help="number of files")
    parser.add_argument("--kind", choices=("folder", "list", "tar", "zip"), default="folder", help="kind of source")
    options = parser.parse_args()
    names = [f"n{number % CLASSES:08}/n{number % CLASSES:08}_{number:08}.JPEG" for number in range(options.names)]
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(Path(folder), options.kind, names)
        del names
        tracemalloc.start()
        job = plan_job(PrepareSettings(str(source), Path(folder) / "set", (64, 64)))
        gc.collect()
        current, peak = tracemalloc.get_traced_memory()
        job.fingerprint()
    for name, size_bytes in (("current", current), ("peak", peak)):
        per_name = size_bytes / options.names
        print(f"{name:7}  {per_name:.0f} bytes per name, {per_name * LARGEST_SET / 1e9:.1f} GB for {LARGEST_SET:,}")


if __name__ == "__main__":
    main()
