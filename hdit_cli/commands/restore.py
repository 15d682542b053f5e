"""`hdit restore`: restores degraded images with a conditional network."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hdit_cli.console import align, emit, note, progress
from hdit_cli.options.condition_images import DegradationOptions, InputsArgument, RestoredOption, TilingOptions
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.sampling import GuidanceOptions, ModelOptions, RestoreSamplingOptions
from hdit_cli.options.shared import CheckpointOption, DeviceOption, DrawnWeightsOption, JsonOption, SampleSetOption
from hdit_cli.output import STDOUT, check_out, is_stream, kept_in
from hdit_cli.session import ModelSession, open_session
from hdit_cli.stopping import stopping_early
from hdit_core.errors import DataError, UsageError, counted
from hdit_core.files import STDIN, STDIN_NAME, check_output

if TYPE_CHECKING:
    from hdit_core.data.image.arrays.pixel_format import PixelFormat
    from hdit_core.generate.condition.inputs import InputImage
    from hdit_core.generate.output.sample_format import SampleFormat
    from hdit_core.generate.pipeline import ConditionInputs, ConditionSource
    from hdit_core.generate.restore.job import RestoreJob

    Inputs = tuple[str, Iterable[InputImage | tuple[str, str]], int | None]
    """Where the inputs come from, those of this rank, and the number of all, None for a stream."""

app = typer.Typer(add_completion=False)


@app.command()
@grouped_options
def restore(
    *,
    inputs: InputsArgument,
    ckpt: CheckpointOption,
    weights: DrawnWeightsOption = None,
    overrides: SampleSetOption = None,
    degradation: DegradationOptions,
    out: RestoredOption = Path("restored"),
    sampling: RestoreSamplingOptions,
    tiling: TilingOptions,
    guidance: GuidanceOptions,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Restore images with a conditional model, at any size.

    What the inputs are depends on the recipe's condition.degrade. With the kind "downscale" they are small images,
    which are upscaled by its factor; with "mask" they are images with a region to fill in, given by --mask or by
    transparent pixels; otherwise they are used as they are. Rerun the same command to resume.

    Examples:
      hdit restore small/ --ckpt runs/sr --out large
      hdit restore photos/ --ckpt runs/inpaint --mask masks/ --out filled
      tar c small/ | hdit restore - --ckpt runs/sr --out - > large.tar
      hdit restore data/val --ckpt runs/sr --degrade --out restored
    """
    _check_out(out)
    model = ModelOptions(ckpt, weights, None, overrides)
    with (
        stopping_early(kept_in(out)),
        open_session(model, guidance, device, sampling.seed, sampling.settings, _each_has_its_own) as session,
    ):
        check_ranks(session.world.size, inputs, out)
        record = _run(_job(session, sampling.class_id, degradation, tiling), session, inputs, out)
        if session.world.is_main:
            _report(session, record, out, json)


def _check_out(out: Path) -> None:
    """Refuse, with a UsageError, an --out that cannot be written."""
    check_out(out)
    if out.suffix == ".npz":
        raise UsageError(f"--out {out}: an npz has images of one size and no names; use a folder, a .tar or -")
    if out != STDOUT and is_stream(out):
        check_output("--out", out, new=True)


def check_ranks(count: int, inputs: str, out: Path) -> None:
    """Refuse, with a UsageError, several ranks for a stream."""
    if count > 1 and inputs == STDIN:
        raise UsageError(f"-: a stream can be read by one process only, got {count} ranks; start one")
    if count > 1 and is_stream(out):
        raise UsageError(f"--out {out}: a tar is written by one process, got {count} ranks; start one, or use a folder")


def _each_has_its_own(*_: object) -> "ConditionSource":
    """Return a source that is not used: the conditions of a batch come from its inputs."""

    def conditions(indices: list[int]) -> "ConditionInputs":
        raise AssertionError(indices)

    return conditions


def _job(
    session: ModelSession, class_id: int | None, degradation: DegradationOptions, tiling: TilingOptions
) -> "RestoreJob":
    from hdit_core.generate.condition.condition_images import ConditionMaker
    from hdit_core.generate.condition.sources import open_vectors
    from hdit_core.generate.restore.job import RestoreJob, Vectors, open_masks

    recipe = session.pipeline.denoiser.recipe
    maker = ConditionMaker(recipe, degradation.degrade, session.pipeline.seed)
    if degradation.mask is not None and not maker.takes_mask:
        raise UsageError(f"--mask {degradation.mask}: the network takes no mask, or --degrade makes it; leave it out")
    masks = None if degradation.mask is None else open_masks(degradation.mask)
    vectors = None if degradation.vector is None else Vectors(*open_vectors(recipe, degradation.vector))
    class_id = session.class_of_input(class_id)
    return RestoreJob(session.pipeline, maker, tiling.of(recipe.model), class_id, masks, vectors)


def _run(job: "RestoreJob", session: ModelSession, inputs: str, out: Path) -> dict[str, Any]:
    from hdit_core.generate.condition.inputs import open_inputs, stream_inputs
    from hdit_core.generate.output.sample_format import SampleFormat, pixel_format
    from hdit_core.generate.restore.restore import share_of

    world = session.world
    stored = not job.maker.recipe.condition.degrade
    listed = None if inputs == STDIN else open_inputs(inputs, stored, None if is_stream(out) else out)
    share = stream_inputs() if listed is None else share_of(listed, world)
    total, pixels = None if listed is None else len(listed), pixel_format(session.pipeline.denoiser.recipe)
    if is_stream(out):
        return _to_tar(job, pixels, (inputs, share, total), out)
    return _to_folder(job, SampleFormat(pixels), session, (inputs, share, total), out)


def _to_folder(
    job: "RestoreJob", files: "SampleFormat", session: ModelSession, inputs: "Inputs", out: Path
) -> dict[str, Any]:
    from hdit_core.generate.output.comparison import MOST_ROWS
    from hdit_core.generate.restore.restore import finish_folder, restore_inputs
    from hdit_core.generate.restore.restored_folder import RestoredFolder

    world, (source, share, total) = session.world, inputs
    folder = RestoredFolder(out, job.provenance(), files, world.rank, session.pipeline.denoiser.source)
    world.on_main_rank(folder.begin)
    folder.load_logs()
    with progress("restore", total=total) as bar:
        bar.update(0)
        rows_every = max(1, (total or 1) // world.size // MOST_ROWS)
        done = restore_inputs(
            job, share, folder, lambda count: bar.update(min(count * world.size, total or count)), rows_every
        )
    return finish_folder(folder, done, source, world)


def _to_tar(job: "RestoreJob", pixels: "PixelFormat", inputs: "Inputs", out: Path) -> dict[str, Any]:
    from hdit_core.generate.restore.restore import restore_inputs
    from hdit_core.generate.restore.restored_tar import RestoredTar

    source, share, total = inputs
    target: Any = sys.stdout.buffer if out == STDOUT else out
    with RestoredTar(target, pixels) as tar, progress("restore", total=total) as bar:
        bar.update(0)
        restore_inputs(job, share, tar, bar.update)
    return tar.record(source, job.provenance(), job.pipeline.denoiser.source)


def _report(session: ModelSession, record: Mapping[str, Any], out: Path, json: bool) -> None:
    """Print the result; fail if an input could not be restored."""
    from hdit_core.generate.output.sample_folder import grid_file

    result = {"out": str(out), "ckpt": str(session.ckpt), **session.source(), **record}
    shown = [(key, str(value)) for key, value in result.items() if key not in ("origin", "unusable", "inputs", "model")]
    emit(result, json, align(shown), err=out == STDOUT)
    if not is_stream(out) and grid_file(out).exists():
        note(f"image grid: {grid_file(out)}")
    if unusable := record["unusable"]:
        name, reason = next(iter(unusable.items()))
        where = STDIN_NAME if record["inputs"]["path"] == STDIN else record["inputs"]["path"]
        raise DataError(f"{where}: could not restore {counted(len(unusable), 'input')}; the first: {name}: {reason}")
