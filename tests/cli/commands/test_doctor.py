"""`hdit doctor`: lines for people, JSON for programs, and exit code 1 for a problem."""

import json

import pytest

from hdit_cli.main import main
from hdit_core.bench import doctor
from hdit_core.bench.doctor import Finding


@pytest.fixture
def findings(monkeypatch):
    found = [Finding("torch", "2.13.0"), Finding("memory", "3.0 GB", "note", "little")]
    monkeypatch.setattr(doctor, "examine", lambda device, folder: iter(found))
    return found


def test_each_finding_is_a_line_with_its_advice_below(findings, capsys):
    assert main(["doctor", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok    torch   2.13.0",
        "note  memory  3.0 GB",
        "         little",
        "",
        "problem: 0, note: 1, ok: 1",
    ]


def test_json_has_every_field_and_a_problem_is_exit_code_1(findings, capsys):
    findings.append(Finding("/dev/shm", "64 MB free", "problem", "too little"))

    assert main(["doctor", "--device", "cpu", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[2] == {
        "subject": "/dev/shm", "found": "64 MB free", "verdict": "problem", "advice": "too little",
    }  # fmt: skip
