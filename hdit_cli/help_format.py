"""Help pages: options grouped in titled sections, and examples that are printed line by line, unwrapped.

All commands get this format, see `plugins.py`. An option names its section with Typer's
`rich_help_panel="Sampling"`; sections appear in the order of their first option, those without one under "Options",
first. Of several spellings, the first long one is shown, `--count` of `"--count", "-n", "--n"`; the others are old
names. A paragraph of the docstring that starts with "Example" is printed unchanged:

    Examples:
      hdit sample --ckpt runs/digits --count 100
      hdit sample --ckpt runs/digits --count 5000 --out - | \\
        hdit eval-fid - --ref data/digits
"""

import inspect
import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import DefaultPlaceholder

OTHER_OPTIONS = "Options"
TYPE_NAMES = {"float": "NUMBER", "int": "N", "path": "PATH", "str": "TEXT"}
MOST_NAME_COLUMNS = 26  # a longer name has its description below it
SELF_EVIDENT = ("at least 0", "at least 0.0", "at least 1")  # ranges of counts and seeds, which need no words
WITHOUT_LIMIT = 1e6  # an upper limit from which it only guards against typing errors
NO_BREAK_HYPHEN, NO_BREAK_SPACE = "\u2011", "\u00a0"
ORDINARY = {ord(NO_BREAK_HYPHEN): "-", ord(NO_BREAK_SPACE): " "}


def write_help_text(text: str, formatter: Any) -> None:
    """Write a docstring: wrapped text, and unwrapped examples."""
    with formatter.indentation():
        for paragraph in inspect.cleandoc(text).split("\n\n"):
            formatter.write_paragraph()
            if not paragraph.startswith("Example"):
                formatter.write_text(unbroken(paragraph))
                continue
            title, _, examples = paragraph.partition(":")
            lines = inspect.cleandoc(f"\n{examples.strip(chr(10))}" if "\n" in examples else examples).splitlines()
            indent = " " * formatter.current_indent
            formatter.write("\n".join([f"{indent}{title}:", *(f"{indent}  {line}" for line in lines)]) + "\n")


class HelpPage:
    """The methods of a command or a group of commands that write its help page."""

    def get_help(self, ctx: Any) -> str:
        """Return the help page; names with hyphens and `[default: ...]` are in one line each."""
        page: str = super().get_help(ctx)  # type: ignore[misc]  # of Typer's class
        return page.translate(ORDINARY)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line, required arguments without braces."""
        pieces: list[str] = super().collect_usage_pieces(ctx)  # type: ignore[misc]  # of Typer's class
        return [re.sub(r"^\{([^{}]+)\}", r"\1", piece) for piece in pieces]

    def format_help_text(self: Any, ctx: Any, formatter: Any) -> None:
        """Write the docstring."""
        write_help_text(self.help or "", formatter)

    def format_options(self: Any, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        room = formatter.width - MOST_NAME_COLUMNS - 4
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                default = "Arguments" if parameter.param_type_name == "argument" else OTHER_OPTIONS
                title = getattr(parameter, "rich_help_panel", None) or default
                names, text = first_spelling(plain_type(record[0])), plain_defaults(record[1])
                sections.setdefault(title, []).append((names, unbroken(text, room)))
        for title in _in_order(sections):
            with formatter.section(title):
                formatter.write_dl(sections[title], col_max=MOST_NAME_COLUMNS)


def _in_order(sections: dict[str, list[tuple[str, str]]]) -> list[str]:
    """Return the titles: arguments, options without a section, and the others; last if only --help has none."""
    last = len(sections.get(OTHER_OPTIONS, ())) < 2
    return sorted(sections, key=lambda title: {"Arguments": 0, OTHER_OPTIONS: 3 if last else 1}.get(title, 2))


class HelpGroup(HelpPage, TyperGroup):
    """A group of commands with such a help page."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options and the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the names of the commands and what each does."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        shown = [(name, command) for name, command in commands if command is not None and not command.hidden]
        if shown:
            room = formatter.width - 6 - max(len(name) for name, _ in shown)
            with formatter.section("Commands"):
                formatter.write_dl([(name, unbroken(command.get_short_help_str(room))) for name, command in shown])


class HelpCommand(HelpPage, TyperCommand):
    """A command with such a help page."""


def unbroken(text: str, room: int = 0) -> str:
    """Return a text that is not wrapped at hyphens, nor in a `[default: ...]` at its end of up to `room` characters."""
    start = text.rfind("  [") + 2
    if start > 1 and len(text) - start <= room:
        text = text[:start] + text[start:].replace(" ", NO_BREAK_SPACE)
    return text.replace("-", NO_BREAK_HYPHEN)


def first_spelling(names: str) -> str:
    """Return an option's names and metavar without further long names: `-n, --count N` of `-n, --count, --n N`."""
    return re.sub(r"(?<=, )(--[\w-]+)(?:, --[\w-]+)+|^(--[\w-]+)(?:, --[\w-]+)+", r"\1\2", names)


def plain_type(names: str) -> str:
    """Return an option's names and metavar; a type such as `<float range>` becomes a word in capitals."""
    word, _, type_name = names.partition(" <")
    if not type_name:
        return names
    if not word.startswith("-"):  # an argument, which is described by its name
        return word
    if "|" in type_name:  # choices
        return f"{word} {type_name.rstrip('>')}"
    return f"{word} {TYPE_NAMES.get(type_name.split()[0].rstrip('>'), 'VALUE')}"


def plain_defaults(text: str) -> str:
    """Return an option's help with its default and range in plain words: `[default: 4; 1 to 100]`."""
    help_text, gap, extra = text.rpartition("  [")
    if not gap and text.startswith("["):
        extra = text[1:]
    elif not gap:
        return text
    items = [_plain_item(item) for item in extra.removesuffix("]").split("; ")]
    items = [item for item in items if item not in SELF_EVIDENT]
    return f"{help_text}{gap.removesuffix('[')}[{'; '.join(items)}]" if items else help_text


def _plain_item(item: str) -> str:
    """Return a default or a range in words."""
    item = re.sub(r"^default: \((.*)\)$", r"default: \1", item)
    found = re.fullmatch(r"([0-9.e+-]+)<=x<=([0-9.e+-]+)", item)
    if found is not None:
        return f"{found[1]} to {found[2]}" if float(found[2]) < WITHOUT_LIMIT else f"at least {found[1]}"
    return re.sub(r"^x>=([0-9.e+-]+)$", r"at least \1", item)


def use_help_format(app: typer.Typer) -> None:
    """Have all commands of an app, and of the apps in it, show such help pages."""
    for command in app.registered_commands:
        if command.cls in (None, TyperCommand):
            command.cls = HelpCommand
    if isinstance(app.info.cls, DefaultPlaceholder):
        app.info.cls = HelpGroup
    for group in app.registered_groups:
        if group.typer_instance is not None:
            use_help_format(group.typer_instance)
