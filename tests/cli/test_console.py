import json
from pathlib import Path

import pytest

from hdit_cli import console
from hdit_cli.options.shared import image_size
from hdit_core.errors import UsageError


def test_json_is_one_document_with_paths_as_text(capsys):
    console.emit({"out": Path("a/b"), "sigma": 0.5, "name": "\x1b[31mé"}, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"out": "a/b", "sigma": 0.5, "name": "\x1b[31mé"}
    assert "\x1b" not in out
    assert err == ""


def test_json_contains_no_nan_or_infinity():
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.emit({"fid": float("nan")}, as_json=True)


def test_a_mapping_is_printed_as_a_key_and_a_value_a_line(capsys):
    console.emit({"images": 12000, "fid": 1.23456789, "exact": True, "note": None}, as_json=False)
    assert capsys.readouterr().out == "images  12,000\nfid     1.23457\nexact   yes\nnote    -\n"


def test_a_list_is_printed_with_commas(capsys):
    console.emit({"forked_from": ["a@10", "b@2000"], "classes": []}, as_json=False)
    assert capsys.readouterr().out == "forked_from  a@10, b@2000\nclasses                 -\n"


def test_a_list_of_mappings_is_a_table_with_numbers_to_the_right(capsys):
    console.emit([{"level": "a", "macs": 9}, {"level": "bcd", "macs": 12345}], as_json=False)
    assert capsys.readouterr().out == "level    macs\na           9\nbcd    12,345\n"


def test_an_empty_table_prints_nothing(capsys):
    console.emit([], as_json=False)
    assert capsys.readouterr().out == ""


def test_given_lines_replace_the_layout_and_control_characters_are_escaped(capsys):
    console.emit({"a": 1}, as_json=False, lines=["one", "\x1b[2Jtwo\u202e"])
    assert capsys.readouterr().out == "one\n\\x1b[2Jtwo\\u202e\n"


@pytest.mark.parametrize(("text", "pixels"), [("512", (512, 512)), ("64x96", (64, 96)), (" 8x1 ", (8, 1))])
def test_a_size_is_height_and_width(text, pixels):
    assert image_size(text) == pixels


@pytest.mark.parametrize("text", ["", "0", "-1", "64x", "x64", "1x2x3", "64 96", "٣", "1e3", "9" * 5000])
def test_an_invalid_size_is_refused(text):
    with pytest.raises(UsageError, match="expected pixels as N or HEIGHTxWIDTH"):
        image_size(text)


def test_only_the_main_rank_prints_and_half_a_launcher_silences_nobody(capsys, monkeypatch):
    launched = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    console.note("a note")
    console.emit({"a": 1}, False)
    with console.progress("work", total=2) as bar:
        bar.update(2)
    assert capsys.readouterr() == ("", "")
    monkeypatch.delenv("RANK")
    console.note("a note")
    console.emit({"a": 1}, True)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": 1} and err == "hdit: a note\n"
