"""Where the images of a job go: a folder, a file, or stdout; shared by the commands that draw some."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdit_cli.console import note, progress
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.distributed import World
    from hdit_core.generate.job import Job

STDOUT = Path("-")


def is_stream(out: Path) -> bool:
    """Return whether images go into one file, or to stdout."""
    return out == STDOUT or out.suffix in (".tar", ".npz")


def check_out(out: Path, grid: str | None = None) -> None:
    """Refuse before anything is loaded what cannot be written.

    Raises:
        UsageError: stdout is a terminal, or a file has no grid.
    """
    if out == STDOUT and sys.stdout.isatty():
        raise UsageError("--out -: stdout is a terminal; pipe it into another command, or give a file")
    if grid is not None and is_stream(out):
        raise UsageError(f"--grid {grid}: there is a grid only in a folder; leave it out, or give a folder with --out")


def grid_shape(text: str) -> tuple[int, int]:
    """Read `"4x8"`, rows x columns.

    Raises:
        UsageError: it is not of that form.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,2})x([1-9][0-9]{0,2})", text.strip())
    if match is None:
        raise UsageError(f"--grid {text}: expected ROWSxCOLUMNS, for example 4x8")
    return int(match[1]), int(match[2])


def deliver(job: "Job", out: Path, world: "World", columns: tuple[int, int] | None = None) -> dict[str, Any]:
    """Draw a job's images, put them where they are to go, and return what the main rank says of them.

    Args:
        job: what to draw.
        out: folder, file, or `-`.
        world: the ranks, which share the work in a folder.
        columns: rows and columns of the folder's grid.
    """
    if world.size > 1 and is_stream(out):
        raise UsageError(f"--out {out}: several ranks can only write into a folder; make the file of it afterwards")
    return _to_stream(job, out) if is_stream(out) else _to_folder(job, out, world, columns)


def _to_folder(job: "Job", out: Path, world: "World", columns: tuple[int, int] | None) -> dict[str, Any]:
    from hdit_core.generate.folder import GRID, SampleFolder
    from hdit_core.generate.job import fill_folder

    device = next(job.denoiser.parameters()).device
    folder = SampleFolder(out, job.origin(), job.shape)
    world.lead(folder.begin, device)
    if not world.is_main:
        fill_folder(job, folder, world, device, lambda done: None)
        return {}
    total = len(job.numbers)
    with progress("sample", total=total) as bar:
        held = fill_folder(job, folder, world, device, lambda done: bar.update(min(done * world.size, total)))
        bar.update(len(held))
    record = folder.finish(held, job.class_of, columns)
    note(f"look at {out / GRID}")
    return {key: record[key] for key in ("num_images", "images", "origin")}


def _to_stream(job: "Job", out: Path) -> dict[str, Any]:
    from hdit_core.generate.stream import SampleNpz, SampleTar

    made_from = job.origin()
    target: Any = sys.stdout.buffer if out == STDOUT else out
    stream = SampleNpz(out, len(job.numbers), job.shape) if out.suffix == ".npz" else SampleTar(target)
    done = 0
    with stream, progress("sample", total=len(job.numbers)) as bar:
        for batch in job.batches(job.numbers):
            stream.write(batch)
            done += len(batch.indices)
            bar.update(done)
    return {"num_images": done, "origin": made_from}
