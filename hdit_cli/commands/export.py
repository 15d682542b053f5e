"""`hdit export`: a trained model as a folder for publication."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hdit_cli.console import align, cell, emit, note
from hdit_cli.options.shared import DeviceOption, DrawnWeightsOption, JsonOption
from hdit_core.errors import UsageError

if TYPE_CHECKING:
    from hdit_core.generate.export.export import ExportSettings

app = typer.Typer(add_completion=False)


SourceArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run, checkpoint folder or safetensors file.")]
FolderOption = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        "--to",
        metavar="DIR",
        help="Folder to create; or hf://OWNER/NAME to upload it to the Hugging Face hub, which needs the extra "
        "hdit-toolkit[hub] and the login of `hf auth login`.",
        rich_help_panel="Output",
    ),
]
DtypeOption = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option("--dtype", help="Weight precision; bfloat16 halves the size.", rich_help_panel="Output"),
]
FormatOption = Annotated[
    Literal["hdit", "k-diffusion"],
    typer.Option("--format", help="File format of the weights.", rich_help_panel="Output"),
]
DiffusersOption = Annotated[
    bool,
    typer.Option(
        "--diffusers",
        help="Export for the diffusers library instead, without image grid and model card: "
        "DiffusionPipeline.from_pretrained(DIR, trust_remote_code=True) loads it.",
        rich_help_panel="Output",
    ),
]
ProgramOption = Annotated[
    bool,
    typer.Option(
        "--program", help="Also export with torch.export and check it against the model.", rich_help_panel="Output"
    ),
]
PublicOption = Annotated[
    bool,
    typer.Option("--public", help="Make a new repository of the hub public.", rich_help_panel="Output"),
]
DatasetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset",
        metavar="OWNER/NAME",
        help="Data set on the Hugging Face hub that the model card names as the source of the training images; "
        "repeatable.",
        rich_help_panel="Output",
    ),
]
GridSeedOption = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Random seed of these samples.", show_default="0", rich_help_panel="Sampling"),
]
CountOption = Annotated[
    int | None,
    typer.Option(
        "--count",
        "-n",
        "--n",
        min=0,
        max=100,
        help="Samples in the image grid of the model card; 0: no grid.",
        show_default="16",
        rich_help_panel="Sampling",
    ),
]


@app.command()
def export(
    source: SourceArgument,
    to: FolderOption,
    weights: DrawnWeightsOption = None,
    dtype: DtypeOption = "float32",
    file_format: FormatOption = "hdit",
    diffusers: DiffusersOption = False,
    program: ProgramOption = False,
    count: CountOption = None,
    seed: GridSeedOption = None,
    dataset: DatasetOption = None,
    public: PublicOption = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Export a model to a folder or to the Hugging Face hub.

    Writes weights, recipe, and a model card with an image grid and a placeholder for your license.

    Examples:
      hdit export runs/faces --out faces-model --dtype bfloat16 --program
      hdit export runs/faces --out hf://me/faces --public
    """
    from hdit_core.generate.export.export import ExportSettings
    from hdit_core.generate.export.push import check_dataset, push

    _check_options(diffusers, program or file_format != "hdit", count, seed, dataset)
    datasets = tuple(map(check_dataset, dataset or ()))
    num_samples = 16 if count is None else count
    settings = ExportSettings(weights, dtype, file_format, num_samples, seed or 0, program, device, datasets)
    repository = _repository(to, public)
    with TemporaryDirectory() as temporary:
        folder = to if repository is None else Path(temporary) / "model"
        result = _export_as(diffusers, source, folder, settings)
        if repository is not None:
            result["folder"] = push(folder, repository, public=public)
    emit(result, json, _lines(result))
    note(f"choose a license and enter it in {result['folder']}/README.md")


def _repository(to: Path, public: bool) -> str | None:
    """Return the repository of the hub that the target names, None for a folder."""
    from hdit_core.generate.export.push import hub_repository

    repository = hub_repository(to)
    if public and repository is None:
        raise UsageError("--public: only a repository on the hub is public or private; give --out hf://OWNER/NAME")
    return repository


def _lines(result: dict[str, Any]) -> list[str]:
    facts = [(key, cell(value)) for key, value in result.items() if key != "files" and value not in (None, [])]
    return [
        *align(facts),
        *(f"{result['folder']}/{name}  {size_bytes:,} bytes" for name, size_bytes in result["files"].items()),
    ]


def _check_options(
    diffusers: bool, has_format: bool, count: int | None, seed: int | None, dataset: list[str] | None
) -> None:
    """Refuse options that have no effect with others, with a UsageError."""
    if diffusers and has_format:
        raise UsageError("--diffusers: has a format of its own; leave out --program and --format")
    if diffusers and not (count is seed is None):
        raise UsageError("--diffusers: writes no image grid; leave out --count and --seed")
    if diffusers and dataset:
        raise UsageError("--diffusers: writes no model card; leave out --dataset")
    if count == 0 and seed is not None:
        raise UsageError("--seed: there are no samples with --count 0; leave one of them out")


def _export_as(diffusers: bool, source: Path, folder: Path, settings: "ExportSettings") -> dict[str, Any]:
    from hdit_core.devices import pick_device
    from hdit_core.generate.export.diffusers_folder import export_diffusers
    from hdit_core.generate.export.export import DTYPES, export

    if not diffusers:
        return export(source, folder, settings)
    pick_device(settings.device)  # nothing is computed; an unknown device is refused as in the other format
    return export_diffusers(source, folder, settings.weights, DTYPES[settings.dtype])
