"""Help pages: options grouped in titled sections, and examples that are printed line by line, unwrapped.

All commands get this format, see `plugins.py`. An option names its section with Typer's
`rich_help_panel="Sampling"`; sections appear in the order of their first option, those without one under "Options",
last. A paragraph of the docstring that starts with "Example" is printed unchanged:

    Examples:
      hdit sample --ckpt runs/digits --n 100
      hdit sample --ckpt runs/digits --out - | hdit eval-fid - --ref data/digits
"""

import inspect
import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import DefaultPlaceholder

OTHER_OPTIONS = "Options"
TYPE_NAMES = {"float": "NUMBER", "int": "N", "path": "PATH", "str": "TEXT"}


def write_help_text(text: str, formatter: Any) -> None:
    """Write a docstring: wrapped text, and unwrapped examples."""
    with formatter.indentation():
        for paragraph in inspect.cleandoc(text).split("\n\n"):
            formatter.write_paragraph()
            if not paragraph.startswith("Example"):
                formatter.write_text(paragraph)
                continue
            title, _, examples = paragraph.partition(":")
            lines = [line.strip() for line in examples.splitlines() if line.strip()]
            indent = " " * formatter.current_indent
            formatter.write("\n".join([f"{indent}{title}:", *(f"{indent}  {line}" for line in lines)]) + "\n")


class HelpGroup(TyperGroup):
    """A group of commands whose help page has unwrapped examples."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the docstring."""
        write_help_text(self.help or "", formatter)


class HelpCommand(TyperCommand):
    """A command whose help page has sections and unwrapped examples."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line, required arguments without braces."""
        return [re.sub(r"^\{(\w+)\}", r"\1", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the docstring."""
        write_help_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                default = "Arguments" if parameter.param_type_name == "argument" else OTHER_OPTIONS
                title = getattr(parameter, "rich_help_panel", None) or default
                sections.setdefault(title, []).append((plain_type(record[0]), plain_defaults(record[1])))
        others = sections.pop(OTHER_OPTIONS, [])
        for title, records in [*sections.items(), (OTHER_OPTIONS, others)]:
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


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
    text = re.sub(r"\[default: \((.*?)\)(?=[;\]])", r"[default: \1", text)
    text = re.sub(r"(?<=[;\[ ])([0-9.e+-]+)<=x<=([0-9.e+-]+)(?=[;\]])", r"\1 to \2", text)
    return re.sub(r"(?<=[;\[ ])x>=([0-9.e+-]+)(?=[;\]])", r"at least \1", text)


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
