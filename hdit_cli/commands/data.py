"""`hdit data`: looks at a prepared data set."""

import typer

app = typer.Typer(add_completion=False)
