"""Pages of the documentation site that are generated when it is built (mkdocs.yml names this file).

- `index.md` is README.md, with its links to `docs/` rewritten.
- `commands.md` has the help page of every command.
- `hourglass.svg` shows the network of the recipe ffhq1024.
"""

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))

from figure import hourglass_svg  # noqa: E402

HELP_COLUMNS = 80
COMMANDS_INTRO = """# Commands

The help page of every command, as `hdit COMMAND --help` prints it. Results go to stdout, messages and progress to
stderr; most commands take `--json`.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {"index.md": overview(), "commands.md": commands(), "hourglass.svg": figure()}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def overview() -> str:
    """Return the README with links that are valid within `docs/`, and named by titles where they are named by files."""
    text = re.sub(r"\[docs/([\w-]+\.md)\]", lambda match: f"[{_title(match[1])}]", (ROOT / "README.md").read_text())
    return re.sub(r'(\]\(|src=")docs/', r"\1", text)


def _title(name: str) -> str:
    """Return the heading of a page."""
    return (ROOT / "docs" / name).read_text().partition("\n")[0].removeprefix("# ")


def commands() -> str:
    """Return the help pages of all commands."""
    from typer.main import get_command

    from hdit_cli.main import app

    command = get_command(app)
    parts = [COMMANDS_INTRO]
    for words in _command_paths(command, (), None):
        text = _help_text(command, words)
        parts.append(f"#{'#' * len(words)} hdit {' '.join(words)}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _command_paths(command: Any, words: tuple[str, ...], parent: Any) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command and subcommand below a command."""
    context = command.context_class(command, info_name=words[-1] if words else "hdit", parent=parent)
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield (*words, name)
        yield from _command_paths(command.get_command(context, name), (*words, name), context)


def _help_text(command: Any, words: tuple[str, ...]) -> str:
    """Return what `hdit WORDS --help` prints in a terminal of 80 columns."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        width = HELP_COLUMNS - 2  # click leaves two columns free
        command.main([*words, "--help"], prog_name="hdit", standalone_mode=False, terminal_width=width)
    return printed.getvalue().strip()


def figure() -> str:
    """Return the figure of the megapixel network."""
    from hdit_core.recipe.read import read_recipe

    return hourglass_svg(read_recipe("ffhq1024").model)
