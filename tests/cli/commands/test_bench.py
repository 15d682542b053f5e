"""`hdit bench`: arguments, refusals and output, with invented figures or tiny measurements."""

import json

import pytest
import torch

from hdit_cli.main import main
from hdit_core.bench import attention, sample, scaling, train
from hdit_core.bench.attention import AttentionBench, AttentionFigure, Shape
from hdit_core.bench.sample import SampleFigure
from hdit_core.bench.scaling import ScalingFigure
from hdit_core.bench.timing import Timing
from hdit_core.bench.train import StepFigure
from hdit_core.recipe.write import recipe_toml

MIB = 2**20
HALF_A_SECOND = Timing((0.4, 0.5, 0.6))


@pytest.fixture
def fake(monkeypatch):
    """Return a function that replaces a measurement by a result, and returns its arguments."""

    def put(module, name, answer):
        calls = []

        def measure(*arguments, **options):
            calls.append((arguments, options))
            return answer

        monkeypatch.setattr(module, name, measure)
        return calls

    return put


def says(text, line):
    """Return whether a line of the text has these words and no others."""
    return line.split() in [each.split() for each in text.splitlines()]


def test_attention_prints_each_backend_with_its_lower_bound_and_those_that_cannot_run(fake, capsys):
    shape = Shape(16, 1, 2, 64, 7)
    figures = [
        AttentionFigure("tiled", shape, "forward", 0.125, HALF_A_SECOND, 3 * MIB),
        AttentionFigure("natten", shape, "forward+backward", 0.125, None, None, "forward only"),
    ]
    calls = fake(attention, "bench_attention", AttentionBench(2e9, {"flex": "it runs on cuda devices only"}, figures))
    assert main(["bench", "attention", "--sizes", "32,16", "--device", "cpu", "--threads", "3", "--seconds", "4"]) == 0

    (shapes, dtype, settings), _ = calls[0]
    assert (shapes, dtype) == ([Shape(16), Shape(32)], torch.float32)
    assert (settings.device, settings.threads, settings.rounds.limit_s) == (torch.device("cpu"), 3, 4)
    text = capsys.readouterr().out
    assert "Large matrix products: 2 GFLOP/s" in text
    assert "Not measured: flex: it runs on cuda devices only" in text
    assert "natten: forward only" in text
    assert says(text, "16x16 forward tiled 500 450 to 550 125 4.0 3")


def test_attention_of_a_tiny_shape_is_measured_against_its_lower_bound(capsys):
    sizes = ["--sizes", "8", "--kernel-size", "3", "--heads", "1", "--head-dim", "8"]
    assert main(["bench", "attention", *sizes, "--device", "cpu", "--threads", "1", "--seconds", "0", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    assert (document["machine"]["device"], document["machine"]["threads"]) == ("cpu", 1)
    tiled = [figure for figure in document["figures"] if figure["backend"] == "tiled"]
    assert [figure["direction"] for figure in tiled] == ["forward", "forward+backward"]
    for figure in tiled:
        assert figure["times_bound"] == pytest.approx(figure["time"]["median_s"] / figure["bound_s"])
        assert figure["bound_s"] == pytest.approx(figure["shape"]["flops"] / document["product_flops_per_s"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["attention", "--sizes", "8,x"], "--sizes 8,x: expected numbers separated by commas, for example 64,128"),
        (["attention", "--sizes", "0"], "--sizes 0: expected numbers"),
        (
            ["attention", "--sizes", "8", "--kernel-size", "4"],
            "--kernel-size 4: expected an odd number up to the small",
        ),
        (["attention", "--sizes", "5,8"], "--kernel-size 7: expected an odd number up to the smallest size, 5"),
        (
            ["scaling", "--width", "100"],
            "--width 100: scaling 768 to 100 turns the width 384 into 50, which is not a multiple of head_dim = 64",
        ),
        (["train", "--device", "cpu:x"], "--device cpu:x: this machine has no such device"),
        (["train", "--set", "train.batch_sise=4"], "batch_sise"),
        (["data", "no/such/folder"], "no/such/folder: expected a folder of images"),
    ],
)
def test_an_unsupported_input_is_one_line_with_the_fix(args, message, capsys):
    assert main(["bench", *args]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_train_prints_speed_utilization_waiting_and_memory(fake, capsys):
    figure = StepFigure(8, 10**9, "float32", 4e9, HALF_A_SECOND, 0.1, 7 * MIB)
    calls = fake(train, "bench_train", figure)
    assert main(["bench", "train", "mnist32", "--set", "train.batch_size=8", "--read-data", "--device", "cpu"]) == 0

    (recipe, settings), options = calls[0]
    assert (recipe.train.batch_size, settings.device, options["read_data"]) == (8, torch.device("cpu"), True)
    text = capsys.readouterr().out
    for line in (
        "step 500 ms (quartiles 450 to 550, 3 steps)",
        "images/s 16",
        "utilization 50.0 %",
        "data wait 20.0 %",
        "peak memory 7 MiB",
    ):
        assert says(text, line)


def test_train_measures_a_recipes_step_on_this_machine(tiny_recipe, tmp_path, capsys):
    path = tmp_path / "tiny.toml"
    path.write_text(recipe_toml(tiny_recipe))
    assert main(["bench", "train", str(path), "--device", "cpu", "--threads", "1", "--seconds", "0", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    assert (document["recipe"], document["images"], document["waiting"]) == (str(path), 8, None)
    assert document["images_per_s"] == pytest.approx(8 / document["time"]["median_s"])
    assert 0 < document["utilisation"] < 1


def test_a_step_too_large_for_the_machine_is_refused_with_the_settings_that_reduce_it(capsys):
    assert main(["bench", "train", "imagenet256", "--set", "train.batch_size=1000000", "--device", "cpu"]) == 2
    assert "measure a smaller one with --set train.batch_size=1" in capsys.readouterr().err


def test_sample_prints_images_per_second_and_evaluations_per_image(fake, capsys):
    fake(sample, "bench_sample", SampleFigure(4, 20, 10**9, "bfloat16", 4e9, HALF_A_SECOND, None))
    assert main(["bench", "sample", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    for line in ("NFE per image 20", "images/s 0.4", "peak memory - MiB"):
        assert says(text, line)
    assert "autoguidance with" not in text


def test_sample_takes_the_recipe_of_a_guide(fake, capsys):
    calls = fake(sample, "bench_sample", SampleFigure(4, 20, 10**9, "bfloat16", 4e9, HALF_A_SECOND, None))
    assert main(["bench", "sample", "imagenet128", "--guide", "mnist32", "--device", "cpu"]) == 0
    (recipe, _), options = calls[0]
    assert (recipe.model.image_size, options["guide"].model.image_size) == ((128, 128), (32, 32))
    assert says(capsys.readouterr().out, "autoguidance with mnist32")


def test_scaling_prints_every_size_the_skipped_ones_and_the_exponents(fake, capsys):
    figures = [
        ScalingFigure("HDiT-B/4", side, "forward", 1000, 10**9, Timing((side**2 * 1e-6,)), side**2)
        for side in (256, 512, 1024)
    ]
    figures.append(ScalingFigure("DiT-B/4", 1024, "forward", 1000, 10**9, None, None, "would take about 80 s"))
    calls = fake(scaling, "bench_scaling", iter(figures))
    assert main(["bench", "scaling", "--sizes", "64", "--most", "9", "--width", "256", "--device", "cpu"]) == 0

    (sizes, width, *_), options = calls[0]
    assert (sizes, width, options["most_s"]) == ([64], 256, 9)
    text = capsys.readouterr().out
    assert "DiT-B/4 at 1024x1024, forward: not measured: would take about 80 s" in text
    assert "HDiT-B/4, forward: time scales as pixels^1.00, memory as pixels^1.00 (from 256x256 to 1024x1024)\n" in text
