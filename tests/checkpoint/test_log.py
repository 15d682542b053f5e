"""The log of a run continues from the step that is resumed, and survives a line truncated by a crash."""

import json

import pytest

from hdit_core import jsonl
from hdit_core.checkpoint.layout import log_file, scores_file
from hdit_core.checkpoint.log import cut_back_log, cut_back_scores, read_log, read_scores


def test_lines_after_the_resumed_step_are_removed(tmp_path):
    for step in range(1, 6):
        jsonl.append(log_file(tmp_path), {"step": step, "loss": 1 / step})
    with log_file(tmp_path).open("a") as file:
        file.write('{"step": 6, "lo')
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2, 3, 4, 5]
    cut_back_log(tmp_path, 3)
    jsonl.append(log_file(tmp_path), {"step": 4, "loss": 9.0})
    assert [record["loss"] for record in read_log(tmp_path)] == [1, 1 / 2, 1 / 3, 9.0]


@pytest.mark.parametrize(
    "spoilt", [b"\xff\xfe", b"\x00" * 9, b"[" * 100_000, b'{"step": Infinity}', b'{"step": null}', b"7"]
)
def test_a_damaged_line_is_skipped_and_the_log_continues(tmp_path, spoilt):
    jsonl.append(log_file(tmp_path), {"step": 1})
    with log_file(tmp_path).open("ab") as file:
        file.write(spoilt + b"\n")
    jsonl.append(log_file(tmp_path), {"step": 2})
    assert read_log(tmp_path) == [{"step": 1}, {"step": 2}]
    cut_back_log(tmp_path, 2)
    jsonl.append(log_file(tmp_path), {"step": 3})
    assert log_file(tmp_path).read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_a_damaged_line_of_the_scores_does_not_end_a_resumed_run(tmp_path):
    lines = [{"step": step, "num_images": 8 * step, "fid5k": 1 / step} for step in (1, 2, 3)]
    with scores_file(tmp_path).open("wb") as file:
        file.write(b"\xff\xfe not UTF-8\n" + b"".join(json.dumps(line).encode() + b"\n" for line in lines) + b'{"st')
    assert cut_back_scores(tmp_path, 2) == lines[:2] == read_scores(tmp_path)


@pytest.mark.parametrize("value", [None, "x", [1], {"a": 1}, True, float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["loss", "lr", "images_per_s", "peak_bytes", "loss_by_sigma"])
def test_a_value_of_another_form_is_left_out(tmp_path, key, value):
    good = {"step": 1, "num_images": 8, "loss": 0.5, "loss_by_sigma": [{"sigma": [0.1, 1.0], "images": 3, "loss": 0.4}]}
    for record in (good, good | {key: value}):
        with log_file(tmp_path).open("a") as file:
            file.write(json.dumps(record) + "\n")
    first, second = read_log(tmp_path)
    assert first == good and second == {name: kept for name, kept in good.items() if name != key}


@pytest.mark.parametrize("value", [None, "x", 1.5, 10**30, float("nan")])
def test_a_line_without_a_number_of_images_is_left_out(tmp_path, value):
    log_file(tmp_path).write_text(json.dumps({"step": 1, "num_images": value}) + "\n")
    assert read_log(tmp_path) == []


def test_a_score_that_is_no_finite_number_is_left_out(tmp_path):
    scores_file(tmp_path).write_text('{"step": 1, "num_images": 8, "fid": NaN, "kid": 0.5, "remarks": [Infinity]}\n')
    assert read_scores(tmp_path) == [{"step": 1, "num_images": 8, "kid": 0.5}]
