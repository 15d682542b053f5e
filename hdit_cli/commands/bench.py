"""`hdit bench`: measures the machine at hand."""

import typer

app = typer.Typer(add_completion=False)
