"""`hdit convert`: weights between k-diffusion's format and ours."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hdit_cli.console import emit, note
from hdit_cli.options.shared import JsonOption, WeightsOption

app = typer.Typer(add_completion=False)


class Format(StrEnum):
    """Whose file is written."""

    HDIT = "hdit"
    KDIFFUSION = "k-diffusion"


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Run, checkpoint folder or file.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The safetensors file to write; never replaced.")],
    to: Annotated[Format, typer.Option(help="Whose format.")] = Format.HDIT,
    weights: WeightsOption = "ema",
    trust_pickle: Annotated[
        bool,
        typer.Option(
            "--i-trust-this-pickle",
            help="Read a .pth training checkpoint of k-diffusion, a format that can be made to run commands.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Convert weights from and to k-diffusion, losslessly.

    Of k-diffusion's files, inference checkpoints (safetensors) are read and written.

    Example: hdit convert kdiffusion.safetensors flowers.safetensors
    """
    from hdit_core.checkpoint.convert import convert_weights

    result = convert_weights(source, target, to=to.value, weights=weights, trust_pickle=trust_pickle)
    note(f"wrote {target}")
    emit(result, json)
