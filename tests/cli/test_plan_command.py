"""`hdit plan`: what it prints, what it refuses, and that it stays light."""

import json
import subprocess
import sys

import pytest

from hdit_cli.main import main

HEAVY = {"torch", "numpy", "scipy", "matplotlib", "PIL"}


def test_the_table_has_a_row_for_each_number_of_levels_and_the_bill_below(capsys):
    assert main(["plan", "ffhq1024", "--gpu", "h100", "--count", "64", "--price", "2.5"]) == 0
    out, err = capsys.readouterr()

    assert "levels computed again" in out and "none (the recipe's)" in out and "all" in out
    assert "256 images, 4 on each of 64 devices" in out
    assert "80 GB, of which 92% are filled" in err and "17% of 989 TFLOP/s" in err


def test_the_document_has_the_same_numbers(capsys):
    assert main(["plan", "imagenet256", "--gpu", "h100", "--count", "8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    chosen, train = document["chosen"], document["num_images"]
    assert document["parallel"] == "ddp" and chosen["fits"]
    assert chosen["memory"]["total"] == sum(v for part, v in chosen["memory"].items() if part != "total")
    assert chosen["memory"]["total"] <= document["usable_bytes"]
    assert document["days"] * 86_400 * chosen["images_per_s"] == pytest.approx(train)


def test_a_measured_speed_takes_the_data_sheet_s_place(tmp_path, capsys):
    path = tmp_path / "bench.json"
    found = {"machine": {"device": "cpu"}, "recipe": "mnist32", "flops": 1e9, "time": {"median_s": 1}, "peak_bytes": 0}
    path.write_text(json.dumps(found))
    assert main(["plan", "mnist32", "--measured", str(path), "--memory", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    assert (document["flops_per_s"], document["usable_bytes"], document["kilowatt_hours"]) == (1e9, 2 * 10**9, None)


def test_without_anything_to_go_by_it_says_what_is_missing(capsys):
    assert main(["plan", "mnist32"]) == 2
    assert "--gpu or --measured: one of them has to say" in capsys.readouterr().err


def test_it_imports_nothing_heavy():
    code = (
        "import sys; from hdit_cli.main import main; "
        "assert main(['plan', 'mnist32', '--gpu', 'l4', '--json']) == 0; "
        f"heavy = {HEAVY!r} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
