"""The estimates of a run: properties, the paper's runs, and refusals."""

import json
from dataclasses import replace

import pytest

from hdit_core.errors import UsageError
from hdit_core.flops.activations import FLOAT32
from hdit_core.plan.benchmark_result import BenchmarkResult, read_benchmark_result
from hdit_core.plan.gpu_specs import GPUS, find_gpu
from hdit_core.plan.plan import BUSY_TOKENS, Cluster, plan, training_flops
from hdit_core.plan.report import as_dict, parallel
from hdit_core.plan.roofline import EFFICIENCY, LAUNCHES_S, roofline, traffic_bytes
from hdit_core.plan.sharding import optimizer_numbers
from hdit_core.recipe.read import read_recipe

FFHQ, IMAGENET = read_recipe("ffhq1024"), read_recipe("imagenet256")
CLUSTER = Cluster(devices=4, usable_bytes=20 * 10**9, flops_per_s=50e12, watts=300.0, price_per_hour=2.0)


@pytest.mark.parametrize(
    ("recipe", "gpu", "images_per_s", "utilisation"),
    [(FFHQ, "a100", 9.3, 0.037), (IMAGENET, "h100", 141, 0.17)],
    ids=["FFHQ-1024 on an A100", "ImageNet-256 on an H100"],
)
def test_the_papers_runs_have_their_known_utilization(recipe, gpu, images_per_s, utilisation):
    reached = images_per_s * training_flops(recipe) / (find_gpu(gpu).tflops * 1e12)

    assert reached == pytest.approx(utilisation, rel=0.02)


@pytest.mark.parametrize(
    ("recipe", "gpu", "images_per_s", "share", "bound"),
    [(FFHQ, "a100", 9.3, 0.045, "memory traffic"), (IMAGENET, "h100", 141, 0.17, "products")],
    ids=["FFHQ-1024 on an A100", "ImageNet-256 on an H100"],
)
def test_the_papers_runs_are_the_ends_of_the_efficiency_range(recipe, gpu, images_per_s, share, bound):
    found = roofline(recipe, find_gpu(gpu), training_flops(recipe), 4)

    assert share in EFFICIENCY and found.bound == bound
    assert images_per_s * found.seconds == pytest.approx(share, rel=0.02)


def test_the_range_is_for_all_devices_and_the_costs_use_its_middle():
    cluster = replace(CLUSTER, flops_per_s=None, gpu=find_gpu("h100"))
    bill = plan(FFHQ, cluster)
    assert bill.chosen is not None and bill.range_seconds is not None and bill.seconds is not None

    slow, fast = bill.chosen.range_per_s
    assert bill.chosen.checkpointed == 0
    one = roofline(FFHQ, find_gpu("h100"), training_flops(FFHQ), bill.chosen.images)
    assert (slow, fast) == pytest.approx([4 * rate for rate in one.images_per_s])
    assert bill.chosen.images_per_s**2 == pytest.approx(slow * fast)
    assert bill.range_seconds == pytest.approx([FFHQ.train.num_images / rate for rate in (fast, slow)])
    assert as_dict(bill)["chosen"]["roofline"]["bound"] == one.bound


def test_a_small_network_is_bound_by_its_kernel_launches_and_large_batches_hide_them():
    cluster = replace(CLUSTER, flops_per_s=None, gpu=find_gpu("h100"), devices=1)
    bill = plan(read_recipe("mnist32"), cluster)
    assert bill.chosen is not None and bill.chosen.roofline is not None and bill.range_seconds is not None
    assert bill.chosen.roofline.bound == "kernel launches"
    train = read_recipe("mnist32").train
    steps, layers = train.num_images / train.batch_size, 2 * 2 + 2
    assert bill.range_seconds == pytest.approx([steps * layers * layer_s for layer_s in reversed(LAUNCHES_S)])
    large = plan(read_recipe("mnist32", ["train.batch_size=8192"]), cluster)
    assert large.chosen is not None and large.chosen.roofline is not None
    assert large.chosen.roofline.bound == "memory traffic"


def test_recomputed_activations_count_in_the_memory_traffic():
    none, all_levels = traffic_bytes(FFHQ), traffic_bytes(FFHQ, len(FFHQ.model.levels))
    assert 1.4 < all_levels / none <= 1.5


def test_time_energy_and_price_follow_from_speed():
    bill = plan(FFHQ, CLUSTER)

    assert bill.chosen is not None and bill.seconds is not None
    assert bill.chosen.images_per_s == pytest.approx(4 * 50e12 / training_flops(FFHQ, bill.chosen.checkpointed))
    assert bill.seconds * bill.chosen.images_per_s == pytest.approx(FFHQ.train.num_images)
    assert bill.kilowatt_hours == pytest.approx(bill.seconds / 3600 * 4 * 0.3)
    assert bill.price == pytest.approx(bill.seconds / 3600 * 4 * 2.0)


def test_recomputation_costs_another_forward_pass():
    none, all_levels = training_flops(FFHQ), training_flops(FFHQ, len(FFHQ.model.levels))

    assert 1.3 < all_levels / none < 4 / 3  # patches, merges and the mapping network are kept


@pytest.mark.parametrize("recipe", [FFHQ, IMAGENET], ids=["ffhq1024", "imagenet256"])
def test_the_largest_batch_fits_and_one_image_more_does_not(recipe):
    for choice in plan(recipe, CLUSTER).choices:
        assert choice.largest

        def total(images, choice=choice):
            one = recipe.model_copy(update={"train": recipe.train.model_copy(update={"micro_batch_size": images})})
            unlimited = plan(one, replace(CLUSTER, usable_bytes=None))
            return unlimited.choices[choice.checkpointed].memory.total

        assert total(choice.largest) <= CLUSTER.usable_bytes < total(choice.largest + 1)
        assert choice.images <= choice.largest and choice.memory.total <= CLUSTER.usable_bytes


def test_among_settings_that_keep_a_gpu_busy_the_least_recomputation_is_chosen():
    bill = plan(IMAGENET, CLUSTER)
    rows, columns = IMAGENET.model.grid(0)
    enough = BUSY_TOKENS / (rows * columns)

    assert bill.chosen is not None and bill.chosen.images >= enough
    assert all(choice.images < enough for choice in bill.choices[: bill.chosen.checkpointed])


def test_a_network_is_sharded_only_if_it_does_not_fit_into_one_device():
    roomy, tight = (replace(CLUSTER, memory_bytes=gb * 10**9) for gb in (24, 22))  # 5 x 4 x 557,416,522 is 11.1 GB

    assert parallel(plan(IMAGENET, roomy)) == "ddp"
    assert parallel(plan(IMAGENET, tight)) == "fsdp"
    assert parallel(plan(IMAGENET, CLUSTER)) == "ddp"  # nothing follows from unknown values
    assert parallel(plan(IMAGENET, replace(tight, devices=1))) == "one device"


def test_muon_is_planned_with_its_optimizer_state():
    muon = IMAGENET.model_copy(update={"train": IMAGENET.train.model_copy(update={"optimizer": "muon"})})

    planned, of_adam = (plan(one, CLUSTER).choices[0].memory.optimizer for one in (muon, IMAGENET))
    assert planned == FLOAT32 * optimizer_numbers(muon) < 0.7 * of_adam


def test_a_network_that_fits_with_no_setting_is_reported():
    bill = plan(IMAGENET, replace(CLUSTER, devices=1, usable_bytes=10**9))

    assert (bill.chosen, bill.seconds, bill.price) == (None, None, None)
    assert as_dict(bill)["chosen"] is None


def test_a_device_count_that_does_not_divide_the_batch_is_refused_with_the_nearest_that_does():
    with pytest.raises(
        UsageError, match=r"--count 3: a step of 256 images cannot be divided equally among 3 devices; use 2 or 4"
    ):
        plan(FFHQ, replace(CLUSTER, devices=3))


def test_gpus_have_names_memory_and_power_and_an_unknown_one_is_refused_with_the_nearest_name():
    assert all(gpu.memory_gb > 0 and gpu.tflops > 0 and gpu.watts > 0 for gpu in GPUS.values())
    assert find_gpu("H100").memory_gb == 80
    with pytest.raises(UsageError, match=r"--gpu h1000: unknown; did you mean 'h100'\?; known: a100-40gb, a100"):
        find_gpu("h1000")


GOOD = {
    "machine": {"device": "cpu", "processor": "a processor"},
    "recipe": "mnist32",
    "images": 4,
    "flops": 2e9,
    "time": {"median_s": 0.5},
    "peak_bytes": None,
}


def test_a_measured_speed_is_the_flops_of_a_step_divided_by_its_time(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(GOOD))
    found = read_benchmark_result(path)

    assert (found.flops_per_s, found.flops_per_image, found.on_cpu, found.peak_bytes) == (4e9, 5e8, True, None)


@pytest.mark.parametrize(
    ("machine", "threads"),
    [
        ({"threads": 6, "system": "Linux x86_64"}, 6),
        ({"threads": 6, "system": "Darwin arm64"}, 0),
        ({"threads": 6, "system": "Windows AMD64"}, 0),
        ({"device": "cuda", "threads": 6, "system": "Linux x86_64"}, 0),
        ({}, 0),
    ],
)
def test_fused_blocks_are_planned_for_processors_with_mkl(machine, threads, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(GOOD | {"machine": GOOD["machine"] | machine}))

    assert read_benchmark_result(path).fused_threads == threads


def test_a_measurement_is_matched_to_the_planned_network_by_its_flops():
    def same_network_result(recipe, flops):
        timed = BenchmarkResult("cpu", "a processor", "mine.toml", 4, float(flops), 0.5, 10**9)
        return plan(recipe, replace(CLUSTER, measured=timed)).same_network_result

    flops = 4 * training_flops(FFHQ)
    assert same_network_result(FFHQ, flops) and same_network_result(IMAGENET, flops) is None
    again = FFHQ.model_copy(update={"train": FFHQ.train.model_copy(update={"activation_checkpointing": True})})
    assert same_network_result(again, flops)  # what is computed again is not counted by the benchmark either


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "[" * 100_000]
    + [json.dumps(GOOD | wrong) for wrong in ({"flops": "many"}, {"time": {"median_s": 0}}, {"images": 0})],
    ids=["empty", "a list", "nothing", "deep", "words", "no time", "no images"],
)
def test_a_file_that_is_not_a_benchmark_is_refused(tmp_path, text):
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"bench.json: not a file of `hdit bench train RECIPE --json`"):
        read_benchmark_result(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_benchmark_result(tmp_path / "missing.json")
