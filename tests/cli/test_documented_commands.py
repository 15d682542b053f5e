"""The commands in the README, the docs, the recipes and the help pages are valid."""

import re
import shlex
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from hdit_cli.main import app, main
from hdit_cli.plugins import discover_commands
from hdit_core.recipe.read import shipped_recipes

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INCOMPLETE = ("MissingParameter", "BadOptionUsage")  # as in `hdit runs compare`, a name in a sentence
BENCH_COMMANDS = ("attention", "train", "sample", "scaling", "data")
RECIPE_COMMANDS = ("list", "show", "schema", "reference", "check", "copy")
RUNS_COMMANDS = ("list", "show", "compare")
EDIT_COMMANDS = ("vary", "inpaint", "interpolate", "invert", "likelihood")
COMMANDS = [[name] for name in discover_commands() if name not in ("recipe", "runs")]
GROUPS = {"recipe": RECIPE_COMMANDS, "bench": BENCH_COMMANDS, "runs": RUNS_COMMANDS, "edit": EDIT_COMMANDS}
COMMANDS += [[group, name] for group, names in GROUPS.items() for name in names]


def commands_in(text):
    """Return the commands on lines of their own, indented, in `sh` blocks, or after a comment's label."""
    text = text.replace("\\\n", " ")
    lines = re.findall(r"^(?:    |# \w+ +)(hdit .+)$", text, re.MULTILINE)
    lines += [line for block in re.findall(r"^```sh\n(.+?)^```", text, re.M | re.S) for line in block.splitlines()]
    return [line for line in lines if line.startswith("hdit ")]


def named_in(text):
    """Return the commands between backticks of sentences, which may be incomplete."""
    return re.findall(r"`(hdit [^`\s]+ [^`\n]+)`", text)


def understand(line):
    """Parse a command line as hdit does, and run nothing."""
    name, *rest = shlex.split(line.partition(" > ")[0], comments=True)
    command, ctx = get_command(app), None
    while True:
        ctx = command.make_context(name, rest, parent=ctx)
        if not isinstance(command, TyperGroup):
            return
        name, command, rest = command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])


@pytest.mark.parametrize("path", [*DOCUMENTS, *shipped_recipes().values()], ids=lambda path: path.name)
def test_every_documented_command_is_valid(path):
    text = path.read_text()
    for line in [line for line in commands_in(text) if "--help" not in line]:
        for command in re.split(r" \| | && ", line):
            if command != "sbatch":
                understand(command)
    for line in [line for line in named_in(text) if "--help" not in line]:
        try:
            understand(line)
        except Exception as problem:
            if type(problem).__name__ not in INCOMPLETE:
                raise


def test_an_invalid_command_is_found():
    with pytest.raises(Exception, match="No such option: --batch-size"):
        understand("hdit train mnist32 --batch-size 3")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_has_a_valid_example(command, capsys):
    assert main([*command, "--help"]) == 0
    text = re.sub(r"\\\n +", "", capsys.readouterr().out)
    examples = re.findall(r"^    (hdit .+)$", text.partition("  Example")[2], re.MULTILINE)
    assert any(example.startswith(f"hdit {' '.join(command)}") for example in examples)
    for part in [part for example in examples for part in re.split(r" && | \| ", example)]:
        if part.startswith("hdit "):
            understand(part)
