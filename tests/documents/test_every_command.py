"""Every command of the README and the docs runs, on small data, or is listed with the reason why it does not."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from hdit_cli.main import main
from hdit_core.recipe import read as recipes
from tests.documents.sandbox import Sandbox, smaller
from tests.documents.shell_lines import DOCUMENTS, NOT_RUN, ROOT, all_lines, is_command, shell_lines

LINES = all_lines()
RUN = list({line.text: line for line in LINES if line.reason is None}.values())
SHELL = re.compile(r"[|>&$']|--program|^hdit bench ")
"""What bash has to run; torch.export, to which the checks of shapes in test processes are constraints; and benchmarks,
which set the number of threads."""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    return Sandbox(tmp_path_factory.mktemp("documents"))


@pytest.fixture
def tiny_recipes(sandbox, monkeypatch):
    """Return a function that makes every built-in recipe the tiny one."""

    def replace():
        names = dict.fromkeys(recipes.shipped_recipes(), sandbox.source / "tiny.toml")
        monkeypatch.setattr(recipes, "shipped_recipes", lambda: names)

    return replace


def in_shell(text, folder):
    """Run a command line in bash, with the hdit of this environment."""
    script = f'set -e -o pipefail\nhdit() {{ "{sys.executable}" -m hdit_cli "$@"; }}\n{text}\n'
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN, ids=str)
def test_every_documented_command_that_is_not_listed_runs(line, sandbox, tiny_recipes, tmp_path, monkeypatch, capsys):
    text = smaller(line.text)
    monkeypatch.chdir(tmp_path)
    sandbox.provide(tmp_path, text)
    if SHELL.search(text):
        code, said = in_shell(text, tmp_path)
    else:
        if text.startswith("hdit train "):
            tiny_recipes()
        code, said = main(shlex.split(text)[1:]), capsys.readouterr().err
    allowed = (0, 1) if text == "hdit doctor" else (0,)  # 1: this machine has a problem, for example a small /dev/shm
    assert code in allowed, f"{text}\n{said}"


def test_most_commands_are_run():
    assert len(RUN) > 90 and len(LINES) - len([line for line in LINES if line.reason is None]) < 80


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_every_reason_still_has_a_command(pattern):
    assert any(re.search(pattern, line.text) for line in LINES)


def test_readers_are_told_which_commands_are_not_run():
    page = (ROOT / "docs/reproducibility.md").read_text().partition("## The commands in these pages")[2]
    assert re.findall(r"^- (.+)$", page.replace("`", ""), re.MULTILINE) == list(dict.fromkeys(NOT_RUN.values()))


def test_programs_that_a_document_runs_exist(tmp_path):
    for line in LINES:
        for script in re.findall(r"\bbenchmarks/[\w/]+\.(?:py|sh|toml)", line.text):
            assert (ROOT / script).is_file(), line


def test_commands_are_found_in_all_kinds_of_blocks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text `hdit a`\n\n    hdit b \\\n        --c   # comment\n    ls -l\n    no-such-program x\n\n"
        "```sh\nhdit d\n```\n\n```console\n$ hdit e\noutput\n```\n\n```python\nhdit = 1\n```\n"
    )
    assert sorted(line.text for line in shell_lines(page)) == ["hdit b --c", "hdit d", "hdit e", "ls -l"]
    assert is_command("A=1 sh x") and not is_command("a.ckpt: b") and len(DOCUMENTS) > 15
