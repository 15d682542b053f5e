"""`hdit doctor`: checks this machine and the installation, with a verdict per line."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hdit_cli.console import align, emit
from hdit_cli.options.shared import DeviceOption, JsonOption

if TYPE_CHECKING:
    from hdit_core.bench.doctor import Finding

app = typer.Typer(add_completion=False)


@app.command()
def doctor(device: DeviceOption = "auto", json: JsonOption = False) -> None:
    """Check this machine and the installation of hdit.

    Checks device, torch, CUDA, Triton, NATTEN, compiler, cores, memory, disk, shared memory, Slurm and ranks.

    Each line has a verdict: ok, note (a limitation) or problem (runs fail, or are much slower). The exit code is 1
    if there is a problem.

    Examples:
      hdit doctor
      srun --gpus 1 hdit doctor --json
    """
    from hdit_core.bench.doctor import examine
    from hdit_core.devices import pick_device

    findings = list(examine(pick_device(device), Path.cwd()))
    emit([finding.to_json() for finding in findings], json, _lines(findings))
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(1)


def _lines(findings: list["Finding"]) -> list[str]:
    """Return a row per finding, its advice below, and the count of each verdict."""
    lines = []
    for finding, row in zip(findings, align([(f.verdict, f.subject, f.found) for f in findings]), strict=True):
        lines += [row, f"{'':9}{finding.advice}"] if finding.advice else [row]
    counts = {verdict: sum(f.verdict == verdict for f in findings) for verdict in ("problem", "note", "ok")}
    return [*lines, "", ", ".join(f"{verdict}: {number}" for verdict, number in counts.items())]
