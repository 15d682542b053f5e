"""Pages of the documentation site that are generated when it is built (mkdocs.yml names this file).

- `index.md` is README.md, with its links to `docs/` rewritten.
- `commands.md` has the help page of every command.
- `hourglass.svg` shows the network of the recipe ffhq1024.
"""

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

    parts = [COMMANDS_INTRO]
    for path, text in _help_pages(get_command(app), "hdit", None):
        if path != "hdit":
            level = "#" * path.count(" ")
            parts.append(f"#{level} {path}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _help_pages(command: Any, path: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = command.context_class(command, info_name=path.rsplit(" ", 1)[-1], parent=parent)
    context.terminal_width = context.max_content_width = HELP_COLUMNS
    yield path, command.get_help(context).strip()
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            yield from _help_pages(command.get_command(context, name), f"{path} {name}", context)


def figure() -> str:
    """Return the figure of the megapixel network."""
    from hdit_core.recipe.read import read_recipe

    return hourglass_svg(read_recipe("ffhq1024").model)
