"""The tutorial's commands, one after the other in one folder: each finds what those before it have made."""

import re
import shlex

import pytest

from hdit_cli.main import main
from tests.documents.shell_lines import ROOT, shell_lines

FEWER = (
    (r"prepare-data mnist ", "prepare-data mnist-test "),
    (r"(hdit train my\.toml --out .*)", r"\1 --set train.num_images=320 --set train.sample_every_images=0"),
    (r"--count \d+", "--count 20 --steps 3"),
)
COMMANDS = [line for line in shell_lines(ROOT / "docs/tutorial.md") if line.text.startswith("hdit ")]


@pytest.mark.slow
def test_the_commands_of_the_tutorial_work_in_their_order(tmp_path, monkeypatch, capsys):
    assert len(COMMANDS) > 8
    monkeypatch.chdir(tmp_path)
    for line in COMMANDS:
        text = line.text
        for pattern, replacement in FEWER:
            text = re.sub(pattern, replacement, text)
        code = main(shlex.split(text)[1:])
        assert code in ((0, 1) if text == "hdit doctor" else (0,)), f"{text}\n{capsys.readouterr().err}"
    made = {"sheet.png", "my.toml", "curves.png", "report.html", "runs", "samples", "data"}
    assert {path.name for path in tmp_path.iterdir()} == made
