"""A command with subcommands beside its own arguments: `hdit eval-fid samples/` and `hdit eval-fid stats data/`.

The first argument is a subcommand's name or belongs to the default command; a folder of that name is `./stats`.

    app = typer.Typer(cls=DefaultGroup, help="...")
    @app.command(DEFAULT, cls=DefaultCommand)
"""

from typing import Any

from hdit_cli.help_format import HelpCommand, HelpGroup

DEFAULT = "default"  # the name under which a group knows it; on the command line it has none


class DefaultGroup(HelpGroup):
    """A group whose default command takes whatever does not begin with another's name."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in super().list_commands(ctx) if name != DEFAULT]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if self._named(ctx, args) else [DEFAULT, *args])

    def chosen(self, ctx: Any, args: list[str]) -> tuple[Any, list[str]]:
        """Return the subcommand or the default command that these words call, and those that it is given."""
        named = self._named(ctx, args)
        return self.get_command(ctx, args[0] if named else DEFAULT), args[named:]

    def _named(self, ctx: Any, args: list[str]) -> bool:
        return bool(args) and args[0] in self.list_commands(ctx)


class DefaultCommand(HelpCommand):
    """The default command; help and complaints call it by the group's name."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        inside = parent is not None
        return super().make_context(
            parent.info_name if inside else info_name, args, parent=parent.parent if inside else None, **extra
        )
