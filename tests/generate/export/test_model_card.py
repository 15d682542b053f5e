"""The card of an exported network: the contents of its record, with class names as plain text."""

import re
from dataclasses import replace
from importlib.metadata import version

import pytest

from hdit_core.checkpoint.layout import log_file, scores_file
from hdit_core.checkpoint.lineage import Fork
from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.data.format.manifest import read_manifest
from hdit_core.generate.export.lineage import run_parts, total_time_s
from hdit_core.generate.export.markdown import as_text
from hdit_core.generate.export.model_card import CardFacts, card
from hdit_core.generate.export.training_record import TrainingRecord, training_record
from hdit_core.jsonl import append
from hdit_core.train.run import train

HOSTILE = (
    "../../etc/passwd",
    "a\0b",
    "\x1b[31mred\x07",
    "x" * 300,
    "\u202egnp.exe",
    "| cell | <script>alert(1)</script>",
    "](javascript:alert(1))",
    "---\nlicense: mit\n---",
    "\ud800",
    "=cmd|' /C calc'!A0",
)
FACTS = CardFacts("ema", "float32", "weights.safetensors", "hdit", "0" * 64, 7)


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name)[:20])
def test_a_hostile_class_name_is_plain_text_in_the_card(tiny_recipe, name):
    text = card(tiny_recipe, TrainingRecord(classes=(name, "cat")), FACTS)
    text.encode()  # it can be written
    (row,) = [line for line in text.split("\n") if line.startswith("| 0 |")]
    cells = re.split(r"(?<!\\)(?:\\\\)*\|", row)
    assert len(cells) == 4 and len(row) < 700
    assert not re.search(r"[<>\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", row)
    assert not re.search(r"(?<!\\)(?:\\\\)*[\[\]`*_(]", cells[2])
    assert text.count("\n---\n") == 1 and text.startswith("---\nlicense: other\n")


def test_a_log_that_cannot_be_read_is_not_taken_for_an_empty_one(trained, tmp_path):
    recipe = trained({"train.num_images": 8})
    train(recipe, tmp_path)
    assert training_record(tmp_path, recipe).loss is not None
    log_file(tmp_path).unlink()
    log_file(tmp_path).mkdir()
    with pytest.raises(OSError, match=r"log\.jsonl"):
        training_record(tmp_path, recipe)


def test_the_card_names_the_package_that_reads_the_model(tiny_recipe):
    usage = card(tiny_recipe, TrainingRecord(), FACTS).partition("## Usage")[2].partition("##")[0]
    assert f"`hdit-toolkit`, version {version('hdit-toolkit')} or newer" in usage


def test_a_plain_class_name_stays_readable():
    assert as_text("golden retriever") == "golden retriever" and as_text("café") == "café"


def test_class_names_come_only_from_the_data_set_of_the_training(trained, tiny_data, tmp_path):
    recipe, manifest = trained({}), read_manifest(tiny_data)
    parts = {"model": {}, "ema": {}}
    for name, data_hash in (("own", manifest.root), ("other", "0" * 64)):
        save_checkpoint(tmp_path / name, recipe, State(step=1, num_images=8, data_hash=data_hash), parts)
    assert training_record(tmp_path / "own", recipe).classes == ("class0", "class1", "class2")
    assert training_record(tmp_path / "other", recipe).classes == ()


def test_the_card_names_at_most_a_hundred_classes(tiny_recipe):
    text = card(tiny_recipe, TrainingRecord(classes=tuple(f"c{number}" for number in range(1000))), FACTS)
    assert "| 99 | c99 |" in text and "| 100 |" not in text and "and 900 more in classes.json" in text


def test_the_card_shows_the_last_scores_up_to_its_checkpoint(trained, tiny_data, tmp_path):
    recipe, state = trained({}), State(step=2, num_images=16, data_hash=read_manifest(tiny_data).root)
    save_checkpoint(tmp_path, recipe, state, {"model": {}, "ema": {}})
    for step, value in ((1, 12.5), (2, 9.25), (3, 1.0)):  # as `hdit_core/train/evaluation.py` writes them
        append(scores_file(tmp_path), {"step": step, "num_images": 8 * step, "fid5k": value, "kid": value / 100})
    record = training_record(tmp_path, recipe)
    assert record.scores == {"fid5k": 9.25, "kid": 0.0925}
    assert "| fid5k | 9.25 |" in card(recipe, record, FACTS)


@pytest.mark.parametrize("reference", [None, "/secret/held-out"])
def test_hubs_read_the_scores_with_what_they_depend_on(trained, reference):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    recipe = trained({"evaluate.reference": reference, "train.eval_num_images": 500, "evaluate.extractor": "dinov2"})
    state = State(step=2, num_images=16, data_hash="f2" * 32)
    text = card(recipe, TrainingRecord(state, scores={"fd500": 9.25, "kd": 0.0925}), replace(FACTS, run="digits"))
    results = hub.ModelCard(text).data.eval_results
    assert [(result.metric_type, result.metric_value) for result in results] == [("fd500", 9.25), ("kd", 0.0925)]
    assert results[0].metric_args == {"samples": 500, "seed": 0, "weights": "ema", "extractor": "dinov2"}
    assert results[0].task_type == "unconditional-image-generation" and "secret" not in text
    assert results[0].dataset_name == ("held-out" if reference else "data")
    assert results[0].dataset_args == (None if reference else {"manifest": "f2" * 32})


def test_the_card_of_a_forked_run_names_every_part_with_its_data_and_the_totals(changed):
    recipe = changed({"train.batch_size": 64, "train.lr": 1e-4, "data.path": "/secret/faces"})
    first = Fork(
        run="/secret/a",
        step=100,
        num_images=3200,
        elapsed_s=3600.0,
        changes={
            "train.batch_size": (32, 64),
            "data.path": ("/secret/emoji", "/secret/faces"),
            "data set": ("e1", "f2"),
        },
    )
    second = Fork(
        run="/secret/b",
        step=150,
        num_images=6400,
        elapsed_s=5400.0,
        reset=("optimizer", "counter"),
        changes={"train.lr": (1e-3, 1e-4)},
    )
    state = State(step=10, num_images=640, data_hash="f2" + "0" * 62, elapsed_s=1800.0)
    text = card(recipe, TrainingRecord(state, 0.5, lineage=(first, second)), replace(FACTS, run="c"))
    for row in ("| images seen | 7,040 |", "| steps | 160 |", "| time | 2.0 hours on 1 rank |", "| batch size | 64 |"):
        assert row in text
    assert "| 1 | a | 3,200 | 100 | 32 | emoji (e1) | 60.0 minutes |" in text
    assert "| 2 | b | 3,200 | 50 | 64 | faces (f200000000000000) | 30.0 minutes |" in text
    assert "| 3 | c | 640 | 10 | 64 | faces (f200000000000000) | 30.0 minutes |" in text
    assert (
        "- Part 2: from a at step 100 (3,200 images); `train.batch_size` 32 to 64; `data.path` emoji to faces" in text
    )
    assert "- Part 3: from b at step 150 (6,400 images); optimizer, counter reset; `train.lr` 0.001 to 0.0001" in text
    assert "secret" not in text


def test_a_fork_of_an_older_version_has_unknown_times(changed):
    fork = Fork(run="a", step=100, num_images=3200)
    state = State(step=150, num_images=4800, data_hash="f2" * 32, elapsed_s=1800.0)
    parts = run_parts((fork,), changed({}), state, "b")
    assert [part.elapsed_s for part in parts] == [None, None] and total_time_s(parts) is None
    assert [part.start for part in parts] == [None, "from a at step 100 (3,200 images); no setting changed"]


def test_all_batch_sizes_of_a_part_are_named(changed):
    growth = [{"after_images": 960, "batch_size": 64}, {"after_images": 1920, "batch_size": 128}]
    recipe = changed({"train.batch_size": 32, "train.batch_growth": growth, "train.num_images": 2304})
    fork = Fork(run="a", step=40, num_images=1280, changes={"train.batch_growth[1].after_images": (None, 1920)})
    state = State(step=60, num_images=2304, data_hash="f2" * 32)
    assert [part.batch_size for part in run_parts((fork,), recipe, state, "b")] == ["32, then 64", "64, then 128"]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"model.channels": 5}, '    images = generate("FOLDER", 64).images'),
        ({}, '    images = generate("FOLDER", 64).to_pil()'),
        (
            {"model.condition_channels": 3, "model.mapping_cond_dim": 4, "data.augment_prob": 0.0},
            "    hdit restore IMAGES --ckpt FOLDER --vectors VECTORS.npy --out restored",
        ),
    ],
)
def test_the_card_has_the_call_for_what_the_network_takes_and_gives(changed, values, line):
    assert line in card(changed(values), TrainingRecord(), FACTS).splitlines()
