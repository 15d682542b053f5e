"""`hdit plan`: output, refusals, and imports that stay light."""

import json
import subprocess
import sys

import pytest

from hdit_cli.main import main
from hdit_core.plan.plan import training_flops
from hdit_core.recipe.read import read_recipe

HEAVY = {"torch", "numpy", "scipy", "matplotlib", "PIL"}


def test_the_table_has_a_row_for_each_number_of_levels_and_the_costs_below(capsys):
    assert main(["plan", "ffhq1024", "--gpu", "h100", "--count", "64", "--price", "2.5"]) == 0
    out, err = capsys.readouterr()

    assert "checkpointed levels" in out and "none (the recipe's)" in out and "all" in out
    assert "256 images, 4 per device on 64 devices" in out
    assert "80 GB, 92% usable" in err
    assert "0.045 to 0.17 of the slower of products at 989 TFLOP/s and memory traffic at 3.35 TB/s" in err


def test_without_a_utilization_speed_time_energy_and_price_are_ranges(capsys):
    assert main(["plan", "ffhq1024", "--gpu", "h100", "--count", "64", "--price", "2.5"]) == 0
    bill = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[-5:])
    assert bill["speed"].endswith(" images/s, bound by memory traffic")
    assert all(" to " in bill[name] for name in ("speed", "time", "energy", "price"))


@pytest.mark.parametrize("option", ["--utilization", "--utilisation"])
def test_a_utilization_gives_one_speed(option, capsys):
    assert main(["plan", "ffhq1024", "--gpu", "h100", option, "0.2"]) == 0
    out, err = capsys.readouterr()
    assert "20% of 989 TFLOP/s" in err and " to " not in out


def test_a_small_network_is_said_to_wait_for_kernel_launches_and_no_figure_is_zero(capsys):
    assert main(["plan", "mnist32", "--gpu", "h100"]) == 0
    out, err = capsys.readouterr()
    assert "bound by kernel launches" in out and "0.15 to 1 ms per layer and micro-batch are assumed" in err
    bill = dict(line.split(maxsplit=1) for line in out.splitlines()[-4:])
    assert not bill["time"].startswith("0.0 ") and not bill["energy"].startswith("0.0 ")


def test_a_growing_batch_is_shown_from_its_first_to_its_last_size(capsys):
    assert main(["plan", "imagenet256", "--gpu", "h100", "--count", "8"]) == 0
    assert "256 images, growing to 2048, at most 256 per device on 8 devices" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--memory", "24"]])
def test_without_hardware_the_error_names_the_ways_to_give_it(options, capsys):
    assert main(["plan", "mnist32", *options]) == 2
    error = capsys.readouterr().err
    assert "--gpu h100" in error and "hdit bench train mnist32 --json > bench.json" in error and error.count("\n") == 1


@pytest.mark.parametrize("option", ["--memory", "--price"])
def test_an_infinite_amount_is_refused(option, capsys):
    assert main(["plan", "mnist32", "--gpu", "h100", option, "inf", "--json"]) == 2
    assert f"'{option}': Input should be less than or equal to" in capsys.readouterr().err


def test_the_document_has_the_same_numbers(capsys):
    assert main(["plan", "imagenet256", "--gpu", "h100", "--count", "8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    chosen, train = document["chosen"], document["num_images"]
    assert document["parallel"] == "ddp" and chosen["fits"]
    assert chosen["memory"]["total"] == sum(v for part, v in chosen["memory"].items() if part != "total")
    assert chosen["memory"]["total"] <= document["usable_bytes"]
    assert document["days"] * 86_400 * chosen["images_per_s"] == pytest.approx(train)


@pytest.fixture
def measured(tmp_path):
    """Return a function that writes what `hdit bench train mnist32` printed, here or there."""
    per_image = training_flops(read_recipe("mnist32"))

    def write(flops=8 * per_image, device="cpu", peak=3 << 29):
        machine = {"device": device, "processor": "a processor"}
        step = {"images": 8, "flops": flops, "time": {"median_s": 1}, "peak_bytes": peak}
        (tmp_path / "bench.json").write_text(json.dumps({"machine": machine, "recipe": "mnist32", **step}))
        return str(tmp_path / "bench.json")

    return write


def test_a_measured_speed_replaces_the_data_sheets(measured, capsys):
    assert main(["plan", "mnist32", "--measured", measured(1e9), "--memory", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    assert (document["flops_per_s"], document["usable_bytes"], document["kilowatt_hours"]) == (1e9, 2 * 10**9, None)
    assert document["measured"]["recipe"] == "mnist32" and document["measured"]["same_network"] is False


def test_the_measured_peak_is_shown_next_to_the_bound_for_the_same_network(measured, capsys):
    assert main(["plan", "mnist32", "--measured", measured(), "--memory", "2"]) == 0
    out, err = capsys.readouterr()
    assert "measured  peak 1.50 GiB (whole process), 8 images per step" in out
    assert "measured on a processor (cpu) with mnist32, 8 images per step" in err and "another network" not in err

    assert main(["plan", "mnist32", "--measured", measured(device="cuda:0"), "--gpu", "h100"]) == 0
    assert "measured  peak 1.50 GiB (device), 8 images per step" in capsys.readouterr().out
    assert main(["plan", "mnist32", "--measured", measured(peak=None), "--memory", "2"]) == 0
    assert "GiB of" not in capsys.readouterr().out


def test_a_speed_of_another_network_or_of_a_cpu_for_gpus_is_noted(measured, capsys):
    assert main(["plan", "ffhq1024", "--measured", measured(), "--gpu", "h100"]) == 0
    out, err = capsys.readouterr()
    assert "another network (mnist32: 0.5493 GFLOP per image; this recipe: 1,236)" in err
    assert "the speed was measured on a CPU; memory and power are from --gpu" in err
    assert "GiB of" not in out


def test_unknown_memory_is_reported_with_the_option_that_sets_it(measured, capsys):
    assert main(["plan", "mnist32", "--measured", measured()]) == 0
    out, err = capsys.readouterr()
    assert "the memory per device is unknown; give --memory GB or --gpu to see what fits" in err
    assert " ? " in out


def test_given_memory_has_precedence_over_the_data_sheets(capsys):
    assert main(["plan", "mnist32", "--gpu", "h100", "--memory", "16", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "h100: 80 GB, 16 GB usable" in err and json.loads(out)["usable_bytes"] == 16 * 10**9


def test_the_command_imports_nothing_heavy():
    code = (
        "import sys; from hdit_cli.main import main; "
        "assert main(['plan', 'mnist32', '--gpu', 'l4', '--json']) == 0; "
        f"heavy = {HEAVY!r} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)
