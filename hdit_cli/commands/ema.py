"""`hdit ema`: EMA weights of any length, reconstructed after training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hdit_cli.console import emit
from hdit_cli.options.shared import JsonOption
from hdit_core.errors import UsageError
from hdit_core.files import check_output

if TYPE_CHECKING:
    from hdit_core.checkpoint.ema.post_hoc import PostHoc


app = typer.Typer(add_completion=False)


@app.command()
def ema(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Run with snapshots of train.ema_profiles."),
    ],
    stds: Annotated[
        list[str],
        typer.Option("--length", "--std", metavar="LENGTH", help="EMA length (sigma_rel), up to 0.288; repeatable."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.safetensors", help="File to write.", show_default="in RUN/averages"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Reconstruct EMA weights of any length (EDM2).

    The run needs snapshots: train it with train.ema_profiles (which no built-in recipe sets). The output has two
    quality measures for each length: profile_error, the relative error of the reconstruction against an EMA that was
    tracked during training, and rounding, the factor by which it amplifies the 16-bit rounding error of the snapshots.

    Examples:
      hdit train ffhq1024 --out runs/faces --set 'train.ema_profiles=[0.05, 0.1]'
      hdit ema runs/faces --length 0.08
      hdit sample --ckpt runs/faces --weights 0.08
    """
    from hdit_core.checkpoint.ema.post_hoc import build_post_hoc_ema, plan_post_hoc_ema
    from hdit_core.checkpoint.ema.snapshots import parse_ema_std

    check_output("--out", out, ".safetensors")
    lengths = [parse_ema_std(std) for std in stds]
    if out is not None and len(lengths) > 1:
        raise UsageError(f"--out {out}: one file cannot hold {len(lengths)} EMAs; remove it, or give one --std")
    for length in lengths:
        plan_post_hoc_ema(run, length)  # refuse all of them before writing any
    emit([_row(build_post_hoc_ema(run, length, out)) for length in lengths], json)


def _row(made: "PostHoc") -> dict[str, Any]:
    return {
        "std": made.std,
        "num_images": made.num_images,
        "snapshots": made.num_snapshots,
        "profile_error": made.mixture.error,
        "rounding": made.mixture.gain,
        "file": str(made.path),
    }
