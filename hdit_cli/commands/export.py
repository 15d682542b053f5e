"""`hdit export`: a trained model as a folder for publication."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hdit_cli.console import align, emit, note
from hdit_cli.options.evaluation import DrawnWeightsOption
from hdit_cli.options.shared import DeviceOption, JsonOption, SeedOption

app = typer.Typer(add_completion=False)


SourceArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run, checkpoint folder or safetensors file.")]
FolderOption = Annotated[
    Path,
    typer.Option("--to", "--out", "-o", metavar="DIR", help="The folder to create.", rich_help_panel="Output"),
]
DtypeOption = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option("--dtype", help="Weight precision; bfloat16 halves the size.", rich_help_panel="Output"),
]
FormatOption = Annotated[
    Literal["hdit", "k-diffusion"],
    typer.Option("--format", help="File format of the weights.", rich_help_panel="Output"),
]
ProgramOption = Annotated[
    bool,
    typer.Option(
        "--program", help="Also export with torch.export and check it against the model.", rich_help_panel="Output"
    ),
]
CountOption = Annotated[
    int,
    typer.Option(
        "--count",
        "--n",
        "-n",
        min=0,
        max=100,
        help="Images on the sample sheet; 0: no sheet.",
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
    program: ProgramOption = False,
    count: CountOption = 16,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Export a model as a folder for publication.

    load_denoiser(DIR) loads it, and hdit sample --ckpt DIR samples with the run's default settings. The model card has
    a placeholder for your license.

    Example: hdit export runs/faces --to faces-model --dtype bfloat16 --program
    """
    from hdit_core.generate.export.export import ExportSettings
    from hdit_core.generate.export.export import export as export_model

    settings = ExportSettings(weights, dtype, file_format, count, seed, program, device)
    result = export_model(source, to, settings)
    files = result["files"]
    lines = align([(key, str(value)) for key, value in result.items() if key != "files" and value is not None])
    emit(result, json, [*lines, *(f"{to / name}  {size_bytes:,} bytes" for name, size_bytes in files.items())])
    note(f"choose a license and enter it in {to / 'README.md'}")
