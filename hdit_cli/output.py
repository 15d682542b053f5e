"""Where the images of a job go: a folder, a file, or stdout; shared by the commands that draw some."""

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdit_cli.console import note, progress
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.distributed import World
    from hdit_core.generate.job import SamplingJob


STDOUT = Path("-")
FILE_ENDINGS = {
    ".bz2", ".gif", ".gz", ".jpeg", ".jpg", ".npy", ".npz", ".parquet",
    ".png", ".tar", ".tgz", ".webp", ".xz", ".zip", ".zst",
}  # fmt: skip
"""Of what is no folder; only .tar and .npz in small letters are written here, see `is_stream`."""


def is_stream(out: Path) -> bool:
    """Return whether images go into one file, or to stdout."""
    return out == STDOUT or out.suffix in (".tar", ".npz")


def check_out(out: Path, grid: str | None = None) -> None:
    """Refuse before anything is loaded what cannot be written.

    Raises:
        UsageError: stdout is a terminal, or nobody writes such a file, or a file has no grid.
    """
    if out == STDOUT and sys.stdout.isatty():
        raise UsageError("--out -: stdout is a terminal; pipe it into another command, or give a file")
    if out.suffix.lower() in FILE_ENDINGS and not is_stream(out) and not out.is_dir():
        raise UsageError(f"--out {out}: expected a folder, a name that ends in .tar or .npz, or - for a tar to stdout")
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


def write_samples(
    job: "SamplingJob", out: Path, world: "World", columns: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Draw a job's images, put them where they are to go, and return what the main rank says of them.

    Args:
        job: what to draw.
        out: folder, file, or `-`.
        world: the ranks, which share the work: in a folder, or in tars of which each writes one.
        columns: rows and columns of the folder's grid.
    """
    if world.size > 1 and is_stream(out) and (out == STDOUT or out.suffix != ".tar"):
        raise UsageError(f"--out {out}: several ranks write into a folder, or a .tar each; give one of these")
    return _to_stream(job, out, world) if is_stream(out) else _to_folder(job, out, world, columns)


def _to_folder(job: "SamplingJob", out: Path, world: "World", columns: tuple[int, int] | None) -> dict[str, Any]:
    from hdit_core.generate.job import fill_folder
    from hdit_core.generate.output.sample_folder import GRID, SampleFolder

    folder = SampleFolder(out, job.origin(), job.shape)
    world.on_main_rank(folder.begin)
    if not world.is_main:
        fill_folder(job, folder, world, lambda done: None)
        return {}
    total = len(job.numbers)
    try:
        with progress("sample", total=total) as bar:
            held = fill_folder(job, folder, world, lambda done: bar.update(min(done * world.size, total)))
            bar.update(len(held))
        record = folder.finish(held, job.class_of, columns)
    finally:
        folder.leave()
    note(f"look at {out / GRID}")
    if len(held) < total:
        note(f"the time is up: {total - len(held):,} images are missing, and the same command again draws on")
    if record["status"] != "complete":
        note(f"another hdit is at work in {out}: the last one to end completes samples.json")
    return {key: record[key] for key in ("num_images", "images", "origin")}


def shard(out: Path, rank: int, size: int) -> Path:
    """Return the tar of a rank, `x-00001-of-00004.tar` of `x.tar`; alone, a rank has it to itself."""
    return out.with_name(f"{out.stem}-{rank:05d}-of-{size:05d}{out.suffix}") if size > 1 else out


def _to_stream(job: "SamplingJob", out: Path, world: "World") -> dict[str, Any]:
    import torch

    from hdit_core.generate.output.archives import SampleNpz, SampleTar

    made_from = job.origin()
    mine, path = job.numbers[world.rank :: world.size], shard(out, world.rank, world.size)
    target: Any = sys.stdout.buffer if out == STDOUT else path
    world.on_main_rank(lambda: _check_shards(out, world.size))
    stream = SampleNpz(out, len(job.numbers), job.shape) if out.suffix == ".npz" else SampleTar(target)
    done = 0
    with stream, progress("sample", total=len(mine)) if world.is_main else nullcontext() as bar:
        if bar is not None:
            bar.update(0)  # else the first batch counts as done from the start, and a single one has no speed
        for batch in job.batches(mine):
            stream.write(batch)
            done += len(batch.indices)
            if bar is not None:
                bar.update(done)
        world.any(False)  # no tar gets its name before all are written
    if done < len(mine) and world.is_main:
        note(f"the time is up: {len(mine) - done:,} images were not drawn")
    return {"num_images": int(world.sum(torch.tensor(done, device=world.device))), "origin": made_from}


def _check_shards(out: Path, size: int) -> None:
    """Refuse what is there before any rank begins: one that stopped alone would leave the others waiting."""
    for rank in range(size) if out != STDOUT else ():
        path = shard(out, rank, size)
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path}: exists, and is not replaced; give another with --out")
