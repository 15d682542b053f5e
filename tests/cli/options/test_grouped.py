"""A dataclass among the parameters of a command becomes one option per field."""

import inspect
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import typer
from typer.testing import CliRunner

from hdit_cli.options.grouped import grouped_options


@dataclass(frozen=True)
class Place:
    row: Annotated[int, typer.Option("--row", help="Which row.")]
    column: Annotated[int, typer.Option("--column")] = 7


@pytest.fixture
def run():
    """Return a function that runs a command with a group of options, and the arguments of its calls."""
    app, calls = typer.Typer(), []

    @app.command()
    @grouped_options
    def act(
        *, name: Annotated[str, typer.Argument()], place: Place, loud: Annotated[bool, typer.Option("--loud")] = False
    ) -> None:
        """Act there."""
        calls.append((name, place, loud))

    return lambda *words: CliRunner().invoke(app, list(words)), calls


def test_the_command_gets_its_option_group_made_of_options_and_defaults(run):
    call, calls = run
    assert call("a", "--row", "3").exit_code == 0
    assert call("b", "--row", "4", "--column", "5", "--loud").exit_code == 0
    assert calls == [("a", Place(3), False), ("b", Place(4, 5), True)]


def test_a_field_without_a_default_is_an_option_that_must_be_given(run):
    call, calls = run
    found = call("a")
    assert found.exit_code == 2 and "--row" in found.output and not calls


def test_the_help_shows_the_fields_of_an_option_group_in_its_place(run):
    text = run[0]("--help").output
    places = [text.index(word) for word in ("Act there.", "--row", "Which row.", "--column", "--loud")]
    assert places == sorted(places) and "place" not in text.lower().replace("act there", "")


def test_two_options_of_one_name_are_a_value_error():
    def act(*, place: Place, row: int) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'row'"):
        grouped_options(act)


def test_a_group_names_the_section_of_its_options_without_one():
    @dataclass(frozen=True)
    class Group:
        SECTION: ClassVar[str] = "Sampling"
        steps: Annotated[int, typer.Option(help="Steps.")] = 5
        batch: Annotated[int, typer.Option(help="Size.", rich_help_panel="Performance")] = 5

    def act(*, group: Group) -> None: ...

    parameters = inspect.signature(grouped_options(act)).parameters.values()
    assert [parameter.annotation.__metadata__[0].rich_help_panel for parameter in parameters] == [
        "Sampling",
        "Performance",
    ]
