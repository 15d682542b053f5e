"""A group with a default command: the first argument is a subcommand's name or an argument."""

import typer
from typer.testing import CliRunner

from hdit_cli.default_command import DEFAULT, DefaultCommand, DefaultGroup

app = typer.Typer(cls=DefaultGroup)


@app.command(DEFAULT, cls=DefaultCommand)
def greet(name: str = typer.Argument("nobody"), loud: bool = False) -> None:
    """Greet."""
    typer.echo(f"{'HELLO' if loud else 'hello'} {name}")


@app.command()
def part(name: str) -> None:
    """Part."""
    typer.echo(f"bye {name}")


def output(*args):
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    return result.output


def test_an_argument_that_is_no_subcommand_is_passed_to_the_default_command():
    assert output("anna") == "hello anna\n"
    assert output() == "hello nobody\n"
    assert output("--loud", "anna") == "HELLO anna\n"


def test_a_subcommand_is_called_by_its_name():
    assert output("part", "anna") == "bye anna\n"


def test_a_path_in_place_of_a_subcommand_is_an_argument():
    assert output("./part") == "hello ./part\n"


def test_the_default_command_has_no_name_on_the_command_line():
    assert output(DEFAULT) == f"hello {DEFAULT}\n"


def test_the_help_is_that_of_the_default_command_under_the_groups_name():
    assert "Greet." in output("--help") and f" {DEFAULT} " not in output("--help")
