"""The command `hdit`: finds the subcommand, runs it, and turns errors into one line and an exit code.

A subcommand raises `HditError` for problems that a user can fix, and `typer.Exit(code)` for an exit code of its own;
any other exception is a bug and keeps its traceback.
"""

import errno
import os
import re
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from hdit_cli.console import printable, show_log_messages
from hdit_cli.help_format import HelpGroup
from hdit_cli.plugins import discover_commands, load_command
from hdit_cli.ranks import wait_for_main_rank
from hdit_core.errors import (
    HditError,
    OtherRankFailed,
    RecipeError,
    StoppedEarly,
    UsageError,
    did_you_mean,
    is_out_of_memory,
)

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
OUTPUT_CLOSED = 141  # 128 + SIGPIPE

# System errors without a path that are caused by the environment; any other one without a path is a bug of hdit.
ENVIRONMENT_ERRORS = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP, errno.EMFILE,
    errno.ENAMETOOLONG, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
    errno.ENFILE, errno.ENOLCK, errno.ENOMEM, errno.ENOSYS, errno.ENOTSUP, errno.ENXIO, errno.ENODEV, errno.ESTALE,
    errno.ETIMEDOUT, errno.EREMOTEIO,
}  # fmt: skip


class CommandGroup(HelpGroup):
    """The subcommands of every installed package; a module is loaded when its command is run or listed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._offers = discover_commands()

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return list(self._offers)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, loaded when it is first used."""
        if cmd_name not in self.commands and cmd_name in self._offers:
            self.commands[cmd_name] = load_command(cmd_name, self._offers[cmd_name])
        return self.commands.get(cmd_name)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; without any, print the help on stderr. `help COMMAND` is `COMMAND --help`."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(UsageError.exit_code)
        if args[:1] == ["help"] and "help" not in self._offers:
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command of the arguments, or suggest the nearest name."""
        if args[0] not in self._offers and not args[0].startswith("-") and not ctx.resilient_parsing:
            names = f"; there are {', '.join(self._offers)}"
            ctx.fail(f"no command '{args[0]}'" + (did_you_mean(args[0], self._offers) or names))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and exit quietly if the reader of its output has exited."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            if not _stdout_has_no_reader():  # a bug, which Typer would hide as a closed output
                raise RuntimeError("a pipe to another process broke") from error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(OUTPUT_CLOSED) from None
        return result


def _stdout_has_no_reader() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hdit {version('hdit-toolkit')}")
        raise typer.Exit


app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback()
def hdit(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Train, sample from and evaluate Hourglass Diffusion Transformers (pixel-space image diffusion).

    Typical workflow: prepare-data, train, sample, eval-fid. A recipe is a TOML file with the settings of a run; `hdit
    recipe list` prints the built-in ones. `hdit help COMMAND` describes a command.
    """


def _print_error(kind: str, lines: Sequence[str], exit_code: int) -> int:
    for line in lines:
        typer.echo(f"hdit: {kind}: {printable(line)}", err=True)
    return exit_code


def _usage_message(error: typer.TyperException) -> str:
    """Return Typer's message about a misspelled option, a missing argument etc. in one line."""
    message = error.message if getattr(error, "possibilities", None) else error.format_message()
    ctx = getattr(error, "ctx", None)
    hint = f" (see '{ctx.command_path} --help')" if ctx else ""
    message = message[:1].lower() + message[1:].replace("Value error, ", "")  # pydantic's prefix
    return " ".join(f"{message.rstrip('.')}{_suggestion(error)}{hint}".split())


def _suggestion(error: typer.TyperException) -> str:
    """Return a suggestion for an unknown option: a recipe key of that name, or the nearest option; `""` if none."""
    name, ctx = getattr(error, "option_name", ""), getattr(error, "ctx", None)
    if ctx is None or not hasattr(error, "possibilities"):
        return ""
    options = {option: parameter for parameter in ctx.command.params for option in parameter.opts}
    if (hyphenated := name.replace("_", "-")) in options:
        return did_you_mean(name, [hyphenated])
    if "--set" in options:
        from hdit_core.recipe.validation_errors import keys_named

        table = options["--set"].metavar.partition(".")[0]  # `TABLE` means any table
        for key in keys_named(name.lstrip("-").replace("-", "_")):
            if table in ("TABLE", key.partition(".")[0]):
                return f"; it is a recipe key, which is set with --set {key}=VALUE"
    return did_you_mean(name, error.possibilities or ())


def _replace_closed_streams() -> None:
    """Discard results and notes if a daemon or `>&-` closed stdout or stderr, which are then None in Python."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  until the process ends


def _expand_home(args: Sequence[str]) -> list[str]:
    """Expand `~/` in arguments: a shell does so at the start of a word, but not in `--out=~/runs` or in quotes."""
    home = os.path.expanduser("~")  # noqa: PTH111  `Path.home` fails without one
    return [re.sub(r"^(--[\w-]+=)?~(?=/|$)", lambda match: f"{match[1] or ''}{home}", arg) for arg in args]


def _run(args: Sequence[str] | None) -> int:
    try:
        args = _expand_home(sys.argv[1:] if args is None else args)
        result = get_command(app).main(args, prog_name="hdit", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    except typer.TyperException as error:
        return _print_error("error", [_usage_message(error)], error.exit_code)
    return result if isinstance(result, int) else 0


def main(args: Sequence[str] | None = None) -> int:
    """Run `hdit` and return its exit code (0, 2 usage, 3 data, 4 checkpoint, 5 numerical, 75 stopped early)."""
    _replace_closed_streams()
    show_log_messages()
    try:
        return _run(args)
    except StoppedEarly as error:
        return _print_error("stopped early", [str(error)], error.exit_code)
    except OtherRankFailed as error:
        wait_for_main_rank()
        return error.exit_code  # the other rank reports the reason
    except HditError as error:
        lines = str(error).splitlines() if isinstance(error, RecipeError) else [str(error)]
        return _print_error("error", lines, error.exit_code)
    except OSError as error:
        paths = [
            os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes | Path)
        ]
        if not paths and error.errno not in ENVIRONMENT_ERRORS:
            raise
        where = f"{' -> '.join(paths)}: " if paths else ""
        return _print_error("error", [f"{where}{error.strerror or error}"], HditError.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200] or "no details"
        line = f"out of memory ({reason}); use smaller images or a smaller batch size"
        return _print_error("error", [line], HditError.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
