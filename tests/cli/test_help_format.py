"""Help pages have titled sections, examples that can be copied, and no types of Python."""

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from hdit_cli.help_format import first_spelling, plain_defaults, plain_type, use_help_format

LONG = "hdit act " + " ".join(f"--option{number} value{number}" for number in range(12))


@pytest.fixture
def page():
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    def act(
        first: Annotated[str, typer.Argument(metavar="IMAGES", help="What to read.")],
        plain: Annotated[float, typer.Option(min=0, max=1, help="A share.")] = 0.5,
        speed: Annotated[int, typer.Option(min=1, rich_help_panel="Performance", help="How fast.")] = 4,
        out: Annotated[str | None, typer.Option(metavar="FILE", rich_help_panel="Output", show_default="none")] = None,
    ) -> None:
        """Replaced below."""

    act.__doc__ = f"""Act on images.

    Examples:
      {LONG}
      hdit act b
    """
    app.registered_commands[0].callback = act
    use_help_format(app)
    return CliRunner().invoke(app, ["--help"]).output


def test_options_are_printed_by_section_and_those_without_one_first(page):
    positions = [page.index(title) for title in ("Arguments:", "Options:", "--plain", "Performance:", "Output:")]
    assert positions == sorted(positions)
    assert page.index("Performance:") < page.index("--speed") < page.index("Output:") < page.index("--out FILE")


def test_examples_are_printed_one_per_line_at_any_length(page):
    assert f"  Examples:\n    {LONG}\n    hdit act b\n" in page


def test_types_and_ranges_are_printed_in_words(page):
    assert "<" not in page and "x>=" not in page
    assert "--plain NUMBER" in page and "[default: 0.5; 0 to 1]" in " ".join(page.split())
    assert "[default: 4]" in page and "[default: none]" in page
    assert "  IMAGES  " in page and "[OPTIONS] IMAGES" in page


def test_typers_notation_of_defaults_and_types_is_replaced_and_other_text_is_kept():
    assert plain_defaults("Keeps (a) <b> x>=1.  [default: (the recipe's); x>=2]") == (
        "Keeps (a) <b> x>=1.  [default: the recipe's; at least 2]"
    )
    assert plain_defaults("Price.  [x>=0]") == "Price." and plain_defaults("[0.1<=x<=1000000000]") == "[at least 0.1]"
    assert plain_defaults("Of [a].") == "Of [a]." and plain_defaults("A.  [required]") == "A.  [required]"
    assert plain_type("-o, --out PATH") == "-o, --out PATH" and plain_type("--set <list[str]>") == "--set VALUE"


def test_the_first_long_spelling_of_an_option_is_shown():
    assert (
        first_spelling("-n, --count, --n N") == "-n, --count N" and first_spelling("-V, --version") == "-V, --version"
    )
    assert first_spelling("--utilization, --utilisation SHARE") == "--utilization SHARE"
    assert first_spelling("--compile / --no-compile") == "--compile / --no-compile"


def test_continued_examples_keep_their_indentation():
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    def act(part: str = "a-b") -> None:
        """Act.

        Example:
          hdit act \\
            --part b
        """

    use_help_format(app)
    page = CliRunner().invoke(app, ["--help"]).output
    assert "  Example:\n    hdit act \\\n      --part b\n" in page and "[default: a-b]" in page


def test_choices_are_shown_in_their_command_line_form():
    assert plain_type("--dtype <float32|bfloat16>") == "--dtype float32|bfloat16"
    assert plain_type("--scale <float range>") == "--scale NUMBER"
