import subprocess
import sys
from importlib.util import find_spec

import pytest

from hdit_cli.main import main
from hdit_cli.plugins import discover_commands

HEAVY = ["torch", "numpy", "scipy", "matplotlib", "PIL", "rich", "webdataset", "safetensors", "cleanfid"]
ONE_COMMAND = """
    import typer
    app = typer.Typer(add_completion=False)

    @app.command()
    def greet(name: str) -> None:
        \"\"\"Greet somebody. At [great] length.\"\"\"
        typer.echo(f"hello {name}")
"""
TWO_COMMANDS = (
    ONE_COMMAND
    + """
    @app.command()
    def part() -> None:
        typer.echo("goodbye")
"""
)
DEFAULT_AND_COMMAND = """
    import typer
    app = typer.Typer(add_completion=False)

    @app.callback(invoke_without_command=True)
    def default(ctx: typer.Context, name: str = "you") -> None:
        if ctx.invoked_subcommand is None:
            typer.echo(f"hello {name}")

    @app.command()
    def part() -> None:
        typer.echo("goodbye")
"""


def heavy_imports(code, heavy=HEAVY):
    """Return which heavy packages a fresh interpreter has imported after it ran the code."""
    tail = f"\nprint('imported', *sorted(set({heavy}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", f"import sys\n{code}{tail}"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1].split()[1:]


def test_the_commands_of_hdit_are_entry_points_like_those_of_plugins():
    names = ["bench", "convert", "data", "doctor", "edit", "ema", "eval-fid", "export", "flops", "plan", "play"]
    names += ["prepare-data", "recipe", "restore", "runs", "sample", "slurm", "sweep", "train"]
    assert [name for name, points in discover_commands().items() if points[0].dist.name == "hdit-toolkit"] == names


def test_the_check_for_heavy_imports_sees_one():
    assert heavy_imports("import numpy") == ["numpy"]


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["recipe", "list"], ["recipe", "show", "mnist32"]])
def test_light_commands_import_nothing_heavy(args):
    assert heavy_imports(f"from hdit_cli.main import main; assert main({args}) == 0") == []


@pytest.mark.parametrize("name", discover_commands())
def test_the_help_of_every_command_imports_nothing_heavy(name):
    module = discover_commands()[name][0].value.partition(":")[0]
    if find_spec(module) is None:
        pytest.skip(f"{module} is not there yet")
    assert heavy_imports(f"from hdit_cli.main import main; assert main(['{name}', '--help']) == 0") == []


def test_the_list_of_all_commands_imports_not_even_pydantic():
    # Typer itself takes it to read the parameters of a command, but not to list commands
    assert heavy_imports("from hdit_cli.main import main; assert main(['--help']) == 0", [*HEAVY, "pydantic"]) == []


def test_a_module_with_one_command_is_the_command(install, capsys):
    install("polite", "greet", ONE_COMMAND)
    assert main(["greet", "Ann"]) == 0
    assert capsys.readouterr().out == "hello Ann\n"


def test_a_module_with_several_commands_is_a_group(install, capsys):
    install("polite", "talk", TWO_COMMANDS)
    assert main(["talk", "greet", "Ann"]) == 0
    assert main(["talk", "part"]) == 0
    assert capsys.readouterr().out == "hello Ann\ngoodbye\n"


def test_a_module_may_have_a_default_command_in_addition_to_its_subcommands(install, capsys):
    install("polite", "talk", DEFAULT_AND_COMMAND)
    assert main(["talk", "--name", "Ann"]) == 0
    assert main(["talk", "part"]) == 0
    assert capsys.readouterr().out == "hello Ann\ngoodbye\n"


def test_the_help_lists_a_plugin_with_its_first_sentence_and_keeps_brackets(install, capsys):
    install("polite", "greet", ONE_COMMAND)
    assert main(["--help"]) == 0
    assert "  greet         Greet somebody.\n" in capsys.readouterr().out
    assert main(["greet", "--help"]) == 0
    assert "At [great] length." in capsys.readouterr().out


BROKEN = {
    "raises at import": ("1 / 0", "app", "cannot be loaded: ZeroDivisionError: division by zero"),
    "misses a package": (
        "import no_such_thing",
        "app",
        "cannot be loaded: ModuleNotFoundError: No module named",
    ),
    "ends the process": ("raise SystemExit(3)", "app", "cannot be loaded: SystemExit: 3"),
    "is not Python": ("def", "app", "cannot be loaded: SyntaxError"),
    "lacks the name": ("app = 1", "main", "cannot be loaded: AttributeError"),
    "is not a typer.Typer": ("app = 1", "app", "cannot be loaded: TypeError: expected a typer.Typer, found int"),
    "has no command": (
        "import typer; app = typer.Typer()",
        "app",
        "cannot be loaded: RuntimeError: Could not get a command",
    ),
}


@pytest.mark.parametrize(("source", "attribute", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_listed_with_its_error_and_breaks_nothing_else(install, capsys, source, attribute, reason):
    install("wrong", "wrong", source, attribute)
    assert main(["--help"]) == 0
    listing = capsys.readouterr().out
    assert "(broken) wrong 1.0 (wrong:" in listing
    assert "recipe " in listing
    assert main(["recipe", "list"]) == 0
    capsys.readouterr()
    for args in ["wrong"], ["wrong", "--help"], ["wrong", "--any", "thing"]:
        assert main(args) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"hdit: error: hdit wrong: wrong 1.0 (wrong:{attribute}) {reason}")
        assert err.count("\n") == 1


def test_a_name_offered_twice_is_an_error_that_names_both_and_the_rest_works(install, capsys):
    install("first", "greet", ONE_COMMAND)
    install("second", "greet", ONE_COMMAND)
    assert main(["greet", "Ann"]) == 2
    err = capsys.readouterr().err
    assert "hdit greet: defined by first 1.0 (first:app) and by second 1.0 (second:app)" in err
    assert err.count("\n") == 1
    assert main(["--help"]) == 0
    assert main(["recipe", "list"]) == 0


def test_a_plugin_cannot_replace_a_command_of_hdit_silently(install, capsys):
    install("usurper", "train", ONE_COMMAND)
    assert main(["train", "Ann"]) == 2
    assert "defined by hdit-toolkit" in capsys.readouterr().err


def test_a_command_loads_only_its_own_plugin(install):
    install("wrong", "wrong", "raise SystemExit('loaded')")
    sys.modules.pop("wrong", None)
    assert main(["recipe", "list"]) == 0
    assert "wrong" not in sys.modules


def complete(monkeypatch, capsys, line):
    """Return what bash offers when Tab is pressed at the end of the line."""
    words = line.split(" ")
    monkeypatch.setenv("_HDIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit) as ended:
        main([])
    assert not ended.value.code
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("hdit re", ["recipe", "restore"]),
        ("hdit recipe ", ["list", "show", "schema", "reference", "check", "copy"]),
        ("hdit recipe show mnist32-s", ["mnist32-sr"]),
        ("hdit recipe copy imagenet2", ["imagenet256"]),
        ("hdit recipe check mnist32 ffh", ["ffhq1024"]),
        ("hdit recipe show --js", ["--json"]),
    ],
)
def test_the_shell_completes_commands_options_and_recipe_names(monkeypatch, capsys, line, offers):
    assert complete(monkeypatch, capsys, line) == offers


def test_the_shell_completes_beside_a_broken_plugin(install, monkeypatch, capsys):
    install("wrong", "recwrong", "1 / 0")
    assert complete(monkeypatch, capsys, "hdit rec") == ["recipe", "recwrong"]
    assert complete(monkeypatch, capsys, "hdit recwrong --x") == []


def test_completion_imports_nothing_heavy():
    code = """
import os
os.environ.update(_HDIT_COMPLETE="complete_bash", COMP_WORDS="hdit recipe show m", COMP_CWORD="3")
from hdit_cli.main import main
try:
    main([])
except SystemExit:
    pass
"""
    assert heavy_imports(code) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_of_the_shell_is_printed(monkeypatch, capsys, shell):
    monkeypatch.setenv("_HDIT_COMPLETE", f"source_{shell}")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert not ended.value.code
    assert "_HDIT_COMPLETE" in capsys.readouterr().out
