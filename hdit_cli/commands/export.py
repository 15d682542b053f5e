"""`hdit export`: a trained network as a folder for others."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hdit_cli.console import align, emit, note
from hdit_cli.options.evaluation import DrawnWeightsOption
from hdit_cli.options.shared import DeviceOption, JsonOption, SeedOption

app = typer.Typer(add_completion=False)


class Dtype(StrEnum):
    """In which the weights are written."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Format(StrEnum):
    """Whose file of weights."""

    HDIT = "hdit"
    KDIFFUSION = "k-diffusion"


SourceArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run, checkpoint folder or file.")]
FolderOption = Annotated[Path, typer.Option("--to", metavar="DIR", help="The new folder.", show_default=False)]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Of the weights; bfloat16 takes half of the place.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Whose file of weights.")]
ProgramOption = Annotated[
    bool, typer.Option("--program", help="Also write a torch.export program, and run it against the network.")
]
SheetOption = Annotated[int, typer.Option("--n", min=0, max=100, metavar="N", help="Images on the sheet; 0: none.")]


@app.command()
def export(
    source: SourceArgument,
    to: FolderOption,
    weights: DrawnWeightsOption = None,
    dtype: DtypeOption = Dtype.FLOAT32,
    form: FormatOption = Format.HDIT,
    program: ProgramOption = False,
    samples: SheetOption = 16,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Write a network as a folder for others.

    It holds the weights, the recipe, a model card with the record of the training, and samples. load_denoiser(DIR)
    reads it, and `hdit sample --ckpt DIR` draws as the run is drawn by default. The card has a place for your license:
    fill it in.

    Example: hdit export runs/faces --to faces-model --dtype bfloat16 --program
    """
    from hdit_core.generate.export.export import ExportSettings
    from hdit_core.generate.export.export import export as export_network

    settings = ExportSettings(
        weights=weights,
        dtype=dtype.value,
        format=form.value,
        num_samples=samples,
        seed=seed,
        program=program,
        device=device,
    )
    result = export_network(source, to, settings, note)
    files = result["files"]
    lines = align([(key, str(value)) for key, value in result.items() if key != "files" and value is not None])
    emit(result, json, [*lines, *(f"{to / name}  {size_bytes:,} bytes" for name, size_bytes in files.items())])
    note(f"choose a license, and say so in {to / 'README.md'}")
