"""`hdit play`: serves a local page that samples, edits and compares models."""

from pathlib import Path
from typing import Annotated

import typer

from hdit_cli.console import note
from hdit_cli.options.shared import INPUT, CheckpointOption, DeviceOption, DrawnWeightsOption

PORT = 7860
SERVER = "Server"

CompareOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--compare",
        metavar="CKPT",
        help="Another model to compare with; repeatable. The other checkpoints of the same run need no option.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
HostOption = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Address to listen on; 0.0.0.0 lets other machines use the page.",
        rich_help_panel=SERVER,
    ),
]
PortOption = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Port; 0 is any free one.", rich_help_panel=SERVER)
]

app = typer.Typer(add_completion=False)


@app.command()
def play(
    *,
    ckpt: CheckpointOption,
    compare: CompareOption = None,
    weights: DrawnWeightsOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = PORT,
    device: DeviceOption = "auto",
) -> None:
    """Sample, edit and compare models in a browser.

    Serves a local web page, until Ctrl-C, which also shows a run while it trains. Without --host, only this machine can
    open it. The page has no password, fetches nothing from other servers, and gives no access to files. Needs the
    extra: pip install 'hdit-toolkit[play]'.

    Examples:
      hdit play --ckpt runs/digits
      hdit play --ckpt runs/digits --compare runs/digits-larger --port 8000
    """
    from hdit_core.devices import pick_device
    from hdit_core.play.models import Models
    from hdit_core.play.page.server import LOOPBACK, check_gradio, serve

    check_gradio()
    note(f"loading {ckpt}")
    models = Models([str(path) for path in (ckpt, *(compare or ()))], weights, pick_device(device))
    if host not in LOOPBACK:
        note(f"--host {host}: everybody who can reach this address can use the page; it has no password")
    try:
        serve(models, host, port, lambda address: typer.echo(f"{address} (Ctrl-C ends)"))
    except KeyboardInterrupt:
        note("ended")
