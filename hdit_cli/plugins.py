"""Subcommands from installed packages: the entry-point group `hdit.commands`.

A package adds `hdit NAME` by declaring, in its `pyproject.toml`,

    [project.entry-points."hdit.commands"]
    NAME = "its.module:app"

where `app` is a `typer.Typer(add_completion=False)`. One command in it makes `hdit NAME ARGUMENTS`, several make
`hdit NAME SUBCOMMAND`, and `@app.callback(invoke_without_command=True)` in addition makes both. The commands of hdit
itself are registered the same way. `hdit --help` loads all these modules, so heavy imports belong inside functions.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from hdit_cli.help_format import use_help_format
from hdit_core.errors import UsageError

GROUP = "hdit.commands"
EntryPoints = dict[str, list[EntryPoint]]  # the packages that define each name; more than one is an error


class BrokenCommand(TyperCommand):
    """Replaces a plugin that cannot be used, and reports the reason when it is called."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, help=reason, short_help=f"(broken) {reason}", rich_markup_mode=None)
        self.reason = reason

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Report the reason why the plugin cannot be used."""
        if ctx.resilient_parsing:  # the shell is completing
            return super().parse_args(ctx, [])
        raise UsageError(f"hdit {self.name}: {self.reason}")


def discover_commands() -> EntryPoints:
    """Return the names that installed packages define, sorted, with their entry points."""
    offers: EntryPoints = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, _origin(point))):
        offers.setdefault(point.name, []).append(point)
    return offers


def load_command(name: str, points: list[EntryPoint]) -> Any:
    """Return the command of a name: a Typer command or group, or a `BrokenCommand` that reports the problem."""
    if len(points) > 1:
        return BrokenCommand(name, f"defined by {' and by '.join(map(_origin, points))}; uninstall all but one")
    try:
        return _command(name, points[0].load())
    except (Exception, SystemExit) as error:  # a broken plugin must not break the other commands
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return BrokenCommand(name, f"{_origin(points[0])} cannot be loaded: {reason}")


def _command(name: str, app: Any) -> Any:
    if not isinstance(app, typer.Typer):
        raise TypeError(f"expected a typer.Typer, found {type(app).__name__}")
    app.rich_markup_mode = None  # `[height, width]` in a help text is not markup
    app._add_completion = False  # `hdit` itself has it
    use_help_format(app)
    command = get_command(app)
    command.name = name
    return command


def _origin(point: EntryPoint) -> str:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
    return f"{package} ({point.value})"
