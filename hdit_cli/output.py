"""Writes the images of a job to a folder, a file, or stdout; shared by the commands that generate images."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdit_cli.console import note, progress
from hdit_core.errors import UsageError, counted
from hdit_core.files import check_output

if TYPE_CHECKING:
    from hdit_core.distributed import World
    from hdit_core.generate.job import SamplingJob


STDOUT = Path("-")
FILE_ENDINGS = {
    ".bz2", ".gif", ".gz", ".jpeg", ".jpg", ".npy", ".npz", ".parquet",
    ".png", ".tar", ".tgz", ".webp", ".xz", ".zip", ".zst",
}  # fmt: skip
"""Suffixes of files rather than folders; only .tar and .npz, in lower case, are written, see `is_stream`."""


def is_stream(out: Path) -> bool:
    """Return whether images are written to one file or to stdout."""
    return out == STDOUT or out.suffix in (".tar", ".npz")


def kept_in(out: Path) -> str | None:
    """Return what an interrupted task keeps, for `stopping_early`: the images of a folder, nothing of a stream."""
    return None if is_stream(out) else f"the images in {out}"


def check_out(out: Path, grid: str | None = None) -> None:
    """Refuse an --out that cannot be written, before anything is loaded.

    Raises:
        UsageError: stdout is a terminal, the format is unknown, or --grid is given for a file.
    """
    if out == STDOUT and sys.stdout.isatty():
        raise UsageError("--out -: stdout is a terminal; pipe it into another command, or give a file")
    if out.suffix.lower() in FILE_ENDINGS and not is_stream(out) and not out.is_dir():
        raise UsageError(f"--out {out}: expected a folder, a name that ends in .tar or .npz, or - for a tar to stdout")
    if grid is not None and is_stream(out):
        raise UsageError(f"--grid {grid}: only a folder has a grid; omit it, or give a folder with --out")


def grid_shape(text: str | None) -> tuple[int, int] | None:
    """Read `"4x8"`, rows x columns; None stays None.

    Raises:
        UsageError: the text has another form.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,2})x([1-9][0-9]{0,2})", text.strip())
    if match is None:
        raise UsageError(f"--grid {text}: expected ROWSxCOLUMNS, for example 4x8")
    return int(match[1]), int(match[2])


def write_samples(
    job: "SamplingJob", out: Path, world: "World", columns: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Generate a job's images, write them, and return the main rank's record of them.

    Args:
        job: the images to generate.
        out: folder, file, or `-`.
        world: the ranks, which share the work: in one folder, or in one tar each.
        columns: rows and columns of the folder's grid.
    """
    if world.size > 1 and is_stream(out) and (out == STDOUT or out.suffix != ".tar"):
        raise UsageError(f"--out {out}: several ranks write into a folder, or one .tar each; give one of these")
    return _to_stream(job, out, world) if is_stream(out) else _to_folder(job, out, world, columns)


def _to_folder(job: "SamplingJob", out: Path, world: "World", columns: tuple[int, int] | None) -> dict[str, Any]:
    from hdit_core.generate.job import comparison_grid, fill_folder
    from hdit_core.generate.output.sample_folder import SampleFolder, grid_file, write_grid

    extractor = job.pipeline.denoiser.recipe.evaluate.extractor
    folder = SampleFolder(out, job.provenance(), job.shape, job.pixels, job.source, extractor)
    world.on_main_rank(folder.begin)
    total = len(job.indices)
    try:
        with progress("sample", total=total) as bar:
            held = fill_folder(job, folder, world, lambda done: bar.update(min(done * world.size, total)))
            bar.update(len(held))
        if not world.is_main:
            return {}
        record = folder.finish(held, job.class_of, columns)
        if columns is None and (grid := comparison_grid(job, folder, held)):
            write_grid(out, grid)
    finally:
        if world.is_main:
            folder.leave()
    if grid_file(out).exists():
        note(f"image grid: {grid_file(out)}")
    if len(held) < total:
        note(f"time limit reached: missing {counted(total - len(held), 'image')}; rerun the same command to continue")
    if record["status"] != "complete":
        note(f"another hdit is writing to {out}; the last one to finish completes samples.json")
    return {key: record[key] for key in ("num_images", "images", "origin")}


def shard(out: Path, rank: int, size: int) -> Path:
    """Return the tar of a rank, `x-00001-of-00004.tar` for `x.tar`; `x.tar` itself for a single rank."""
    return out.with_name(f"{out.stem}-{rank:05d}-of-{size:05d}{out.suffix}") if size > 1 else out


def _to_stream(job: "SamplingJob", out: Path, world: "World") -> dict[str, Any]:
    import torch

    from hdit_core.generate.output.archives import SampleNpz, SampleTar

    provenance = job.provenance()
    indices, path = job.indices[world.rank :: world.size], shard(out, world.rank, world.size)
    target: Any = sys.stdout.buffer if out == STDOUT else path
    world.on_main_rank(lambda: _check_shards(out, world.size))
    is_npz, shape = out.suffix == ".npz", job.shape
    stream: SampleNpz | SampleTar = (
        SampleNpz(out, len(job.indices), shape, job.pixels) if is_npz else SampleTar(target, job.pixels)
    )
    done = 0
    with stream, progress("sample", total=len(indices)) as bar:
        bar.update(0)  # starts the clock, so that the speed includes the first batch
        for batch in job.batches(indices):
            stream.write(batch)
            done += len(batch.indices)
            bar.update(done)
        world.any(False)  # tars are renamed only when all of them are complete
    if done < len(indices):
        note(f"time limit reached: not generated: {counted(len(indices) - done, 'image')}")
    return {"num_images": int(world.sum(torch.tensor(done, device=world.device))), "origin": provenance}


def _check_shards(out: Path, size: int) -> None:
    """Refuse existing files before any rank starts: a rank that stopped alone would leave the others waiting."""
    for rank in range(size) if out != STDOUT else ():
        check_output("--out", shard(out, rank, size), new=True)
