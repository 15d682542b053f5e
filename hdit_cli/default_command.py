"""A command with its own arguments and with subcommands: `hdit eval-fid samples/` and `hdit eval-fid stats data/`.

The first argument is the name of a subcommand or belongs to the default command; a folder of that name is `./stats`.

    app = typer.Typer(cls=DefaultGroup, help="...")
    @app.command(DEFAULT, cls=DefaultCommand)
"""

from typing import Any

from hdit_cli.help_format import HelpCommand, HelpGroup

DEFAULT = "default"  # its name in the group, which is not used on the command line


class DefaultGroup(HelpGroup):
    """A group whose default command is run if the arguments do not start with the name of a subcommand."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the subcommands."""
        return [name for name in super().list_commands(ctx) if name != DEFAULT]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; without a subcommand, those of the default command."""
        return super().parse_args(ctx, args if self._named(ctx, args) else [DEFAULT, *args])

    def chosen(self, ctx: Any, args: list[str]) -> tuple[Any, list[str]]:
        """Return the command that these arguments call, and the command's arguments."""
        named = self._named(ctx, args)
        return self.get_command(ctx, args[0] if named else DEFAULT), args[named:]

    def _named(self, ctx: Any, args: list[str]) -> bool:
        return bool(args) and args[0] in self.list_commands(ctx)


class DefaultCommand(HelpCommand):
    """The default command; help and error messages show the name of the group."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of the command instead of that of the group."""
        if parent is not None:
            info_name, parent, extra = parent.info_name, parent.parent, {**extra, "obj": parent}
        return super().make_context(info_name, args, parent=parent, **extra)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write its options and the subcommands of the group."""
        super().format_options(ctx, formatter)
        if isinstance(ctx.obj, type(ctx)) and isinstance(ctx.obj.command, HelpGroup):  # not options' own object
            ctx.obj.command.format_commands(ctx.obj, formatter)
