"""`hdit restore`: restores degraded images with a conditional network."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hdit_cli.console import align, emit, note, progress
from hdit_cli.options.conditioning import STDIN, DegradationOptions, InputsArgument, RestoredOption, TilingOptions
from hdit_cli.options.grouped import grouped_options
from hdit_cli.options.sampling import GuidanceOptions, ModelOptions, SamplingOptions
from hdit_cli.options.shared import CheckpointOption, DeviceOption, DrawnWeightsOption, JsonOption, SampleSetOption
from hdit_cli.session import ModelSession, open_session
from hdit_core.errors import DataError, UsageError

if TYPE_CHECKING:
    from hdit_core.generate.pipeline import ConditionInputs, ConditionSource
    from hdit_core.generate.restore.restore import RestoreJob

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
    sampling: SamplingOptions,
    tiling: TilingOptions,
    guidance: GuidanceOptions,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Restore images with a conditional model, at any size.

    The recipe says what the network takes: with downscale, inputs that are smaller by its factor; with mask, --mask or
    transparent pixels as the region to fill in; otherwise inputs are used as they are. Any image size is taken. Rerun
    the same command to resume.

    Examples:
      hdit restore small/ --ckpt runs/sr --out large/
      hdit restore photos/ --ckpt runs/inpaint --mask masks/ --out filled/
      hdit restore data/val --ckpt runs/sr --degrade --out restored/
    """
    model = ModelOptions(ckpt, weights, None, overrides)
    with open_session(model, guidance, device, sampling.seed, sampling.settings, _each_has_its_own) as session:
        if inputs == STDIN and session.world.size > 1:
            raise UsageError(f"-: a stream can be read by one process only, got {session.world.size} ranks; start one")
        record = _run(_job(session, sampling.class_id, degradation, tiling), session, inputs, out)
        if session.world.is_main:
            _report(session, record, out, json)


def _each_has_its_own(*_: object) -> "ConditionSource":
    """Return a source that is never asked: the conditions of a batch come from its inputs."""

    def conditions(indices: list[int]) -> "ConditionInputs":
        raise AssertionError(indices)

    return conditions


def _job(
    session: ModelSession, class_id: int | None, degradation: DegradationOptions, tiling: TilingOptions
) -> "RestoreJob":
    from hdit_core.generate.condition.condition_images import ConditionMaker
    from hdit_core.generate.restore.restore import RestoreJob, open_masks

    recipe = session.pipeline.denoiser.recipe
    maker = ConditionMaker(recipe, degradation.degrade, session.pipeline.seed)
    if degradation.mask is not None and not maker.takes_mask:
        raise UsageError(f"--mask {degradation.mask}: the network takes no mask, or --degrade draws it; leave it out")
    masks = None if degradation.mask is None else open_masks(degradation.mask)
    return RestoreJob(session.pipeline, maker, tiling.of(recipe.model), session.class_of_input(class_id), masks)


def _run(job: "RestoreJob", session: ModelSession, inputs: str, out: Path) -> dict[str, Any]:
    from hdit_core.generate.condition.inputs import open_inputs, stream_inputs
    from hdit_core.generate.output.comparison import MOST_ROWS
    from hdit_core.generate.restore.restore import finish_folder, restore_inputs, share_of
    from hdit_core.generate.restore.restored_folder import RestoredFolder

    world = session.world
    folder = RestoredFolder(out, job.provenance(), session.shape[2], world.rank, session.pipeline.denoiser.source)
    listed = None if inputs == STDIN else open_inputs(inputs)
    world.on_main_rank(folder.begin)
    folder.load_logs()
    share = stream_inputs() if listed is None else share_of(listed, world)
    total = None if listed is None else len(listed)
    with progress("restore", total=total) as bar:
        bar.update(0)
        rows_every = max(1, (total or 1) // world.size // MOST_ROWS)
        done = restore_inputs(
            job, share, folder, lambda count: bar.update(min(count * world.size, total or count)), rows_every
        )
    return finish_folder(folder, done, inputs, world)


def _report(session: ModelSession, record: Mapping[str, Any], out: Path, json: bool) -> None:
    """Print the result; fail if an input could not be restored."""
    from hdit_core.generate.output.sample_folder import grid_file

    result = {"out": str(out), "ckpt": str(session.ckpt), **session.source(), **record}
    shown = [(key, str(value)) for key, value in result.items() if key not in ("origin", "unusable", "inputs", "model")]
    emit(result, json, align(shown))
    if grid_file(out).exists():
        note(f"image grid: {grid_file(out)}")
    if unusable := record["unusable"]:
        name, reason = next(iter(unusable.items()))
        raise DataError(f"{len(unusable)} inputs could not be restored; the first: {name}: {reason}")
