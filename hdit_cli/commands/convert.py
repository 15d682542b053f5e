"""`hdit convert`: converts weights between the formats of k-diffusion and hdit."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hdit_cli.console import emit, note
from hdit_cli.options.shared import JsonOption, WeightsOption

app = typer.Typer(add_completion=False)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Run, checkpoint folder or file.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Safetensors file to write; never overwritten.")],
    to: Annotated[Literal["hdit", "k-diffusion"], typer.Option("--format", "--to", help="Format to write.")] = "hdit",
    weights: WeightsOption = None,
    trust_pickle: Annotated[
        bool,
        typer.Option(
            "--i-trust-this-pickle",
            help="Read a .pth or .ckpt checkpoint; pickles can execute arbitrary code.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Convert weights from and to the format of k-diffusion.

    The conversion is lossless. Reads and writes k-diffusion inference checkpoints (safetensors); also reads its
    training checkpoints (.pth), and flows of PMRF (.ckpt, or its folder on the Hugging Face hub).

    Example: hdit convert kdiffusion.safetensors flowers.safetensors
    """
    from hdit_core.checkpoint.convert import convert_weights

    result = convert_weights(source, target, to=to, weights=weights, trust_pickle=trust_pickle)
    note(f"wrote {target}")
    emit(result, json)
