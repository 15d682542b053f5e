"""`hdit train`: a recipe becomes a run."""

from pathlib import Path
from typing import Annotated

import typer

from hdit_cli.console import emit, note, progress
from hdit_cli.options import DeviceOption, JsonOption, RecipeArgument, SetOption

app = typer.Typer(add_completion=False)


@app.command()
def train(
    recipe: RecipeArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="RUN", help="Folder of the run.", show_default="runs/NAME-OF-RECIPE"),
    ] = None,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Train a recipe; the same command again resumes it.

    A signal (SIGTERM, SIGINT, SIGUSR1, ...) or a file STOP in the run's folder saves and ends with exit code 75.

    Example: hdit train mnist32 --out runs/digits --set train.batch_size=128
    """
    from hdit_core.recipe.read import read_recipe

    checked = read_recipe(recipe, overrides or ())
    run = out or Path("runs") / Path(recipe).stem

    from hdit_core.distributed import speaks
    from hdit_core.train.run import train as train_run
    from hdit_core.train.watching import Progress, Watcher

    if not speaks():
        train_run(checked, run, device=device)
        return
    with progress("train", total=checked.train.num_images) as bar:

        def show(now: Progress) -> None:
            bar.update(now.num_images, now.total_images, f"loss {now.loss:.4f}, gradient {now.grad_norm:.2f}")

        state = train_run(checked, run, device=device, watcher=Watcher(show, note))
        bar.update(state.num_images, remark=bar.remark)  # a run that was done before reports no step
    result = {"run": str(run), "step": state.step, "num_images": state.num_images, "elapsed_s": state.elapsed_s}
    emit(result, json)
