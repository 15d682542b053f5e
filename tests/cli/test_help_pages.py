"""The help pages of all commands, on a terminal of 80 columns."""

import re

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from hdit_cli.default_command import DEFAULT
from hdit_cli.main import app, main

COLUMNS = 80
OLD_NAMES = {
    ("sample",): ["--n", "--seeds", "--vector"],
    ("restore",): ["--vector"],
    ("edit", "vary"): ["--n", "--init"],
    ("edit", "likelihood"): ["--n"],
    ("eval-fid",): ["--n", "--inception-weights"],
    ("eval-fid", "stats"): ["--n"],
    ("sweep",): ["--n", "--ema", "--interval"],
    ("export",): ["--n", "--to"],
    ("convert",): ["--to"],
    ("ema",): ["--std"],
    ("flops",): ["--res", "--kernel", "--patch"],
    ("plan",): ["--utilisation"],
    ("data", "show"): ["--images"],
    ("bench", "data"): ["--images"],
    ("train",): ["--watch"],
}


def commands(command=None, words=()):
    """Yield the words and the command of every help page, hidden ones left out."""
    command = get_command(app) if command is None else command
    yield words, command
    if isinstance(command, TyperGroup):
        with command.make_context(words[-1] if words else "hdit", [], resilient_parsing=True) as context:
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                if not inner.hidden and name != DEFAULT:
                    yield from commands(inner, (*words, name))


COMMANDS = dict(commands())


@pytest.fixture
def page(request, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    assert main([*request.param, "--help"]) == 0
    return capsys.readouterr().out


every_page = pytest.mark.parametrize("page", COMMANDS, indirect=True, ids=lambda words: " ".join(words) or "hdit")


@every_page
def test_lines_fit_and_no_word_is_broken_at_a_hyphen(page):
    lines = page.splitlines()
    assert [line for line in lines if len(line) > COLUMNS] == []
    assert [line for line in lines if re.search(r"\w-$", line)] == []


@every_page
def test_a_default_is_on_one_line_and_no_range_is_stated_that_goes_without_saying(page):
    assert len(re.findall(r"\[default: [^\]\n]+\]", page)) == page.count("[default:")
    assert not re.search(r"at least [01](\.0)?[;\]]|1000000|\(", "".join(re.findall(r"\[default:.*?\]", page)))


@every_page
def test_the_summaries_of_commands_are_whole_sentences(page):
    summaries = page.partition("\nCommands:\n")[2].splitlines()
    assert [line for line in summaries if line.endswith("...")] == []


@every_page
def test_usage_has_no_braces_and_the_page_no_second_spelling(page):
    assert "{" not in page.partition("\n\n")[0]
    assert not re.search(r"^  (-\w, )?--[\w-]+, --", page, re.MULTILINE)


@pytest.mark.parametrize("words, names", OLD_NAMES.items(), ids=lambda value: " ".join(value))
def test_old_names_of_options_are_accepted_and_not_shown(words, names, capsys):
    assert main([*words, "--help"]) == 0
    page = capsys.readouterr().out
    command = COMMANDS[words]
    command = command.commands[DEFAULT] if DEFAULT in getattr(command, "commands", {}) else command
    accepted = {name for parameter in command.params for name in parameter.opts}
    assert set(names) <= accepted
    assert [name for name in names if re.search(rf"{name}(?![\w-])", page)] == []


def test_the_number_of_images_is_called_count_everywhere_with_n_as_its_short_form():
    counts = [parameter.opts for command in COMMANDS.values() for parameter in command.params if "-n" in parameter.opts]
    assert len(counts) > 8 and all(names[:2] == ["--count", "-n"] for names in counts)


def test_eval_fid_lists_its_subcommands_after_its_own_options(capsys):
    assert main(["eval-fid", "--help"]) == 0
    page = capsys.readouterr().out
    assert page.index("--ref DATA") < page.index("\nCommands:\n  stats ") < page.index("\n  compare ")


@pytest.mark.parametrize(
    "words", [("eval-fid", "stats"), ("sweep",), ("edit", "likelihood"), ("export",)], ids=" ".join
)
def test_help_speaks_of_no_option_that_the_command_lacks(words):
    names = {name for parameter in COMMANDS[words].params for name in parameter.opts}
    texts = [parameter.help or "" for parameter in COMMANDS[words].params]
    texts += [str(parameter.show_default) for parameter in COMMANDS[words].params]
    found = {
        name for text in texts for name in re.findall(r"(?<![\w-])--[a-z-]+", text.replace("sample --weights", ""))
    }
    assert found - names == set()


@pytest.mark.parametrize(
    "words, statement",
    [
        (["restore"], "--class ID Class index for all images. [default: no class]"),
        (["sample"], "Sample i has the i-th; after the last one they repeat from the first"),
        (["sample"], "the grid is FOLDER-grid.png"),
        (["sweep"], "saved statistics (.npz). [default: the run's data]"),
        (["eval-fid"], "dinov2 (needs the extra hdit-toolkit[dinov2] and --extractor-weights)"),
        (["prepare-data"], "- for paths on stdin (a tar has to be a file)"),
        (["prepare-data"], "run it once, after all tasks, with the same SOURCE and options"),
        (["plan"], "Required without --measured."),
        (["slurm", "train"], "GPUs per node; 0: no GPUs."),
        (["export"], "DiffusionPipeline.from_pretrained(DIR, trust_remote_code=True)"),
        (["recipe", "reference"], "hdit recipe reference train.lr"),
    ],
)
def test_help_states_what_a_newcomer_could_not_guess(words, statement, capsys):
    assert main([*words, "--help"]) == 0
    assert statement in " ".join(capsys.readouterr().out.split())


def test_batch_scripts_show_the_arguments_of_their_command(capsys):
    assert main(["slurm", "prepare-data", "--help"]) == 0
    assert "slurm prepare-data [OPTIONS] SOURCE [OPTIONS OF hdit prepare-data]" in capsys.readouterr().out


def test_the_pages_cover_all_commands():
    assert len(COMMANDS) > 45
