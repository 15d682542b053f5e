import itertools

import fsspec
import pytest
import torch

from hdit_core.bench import sample as sampling
from hdit_core.bench import train as training
from hdit_core.bench.child_process import BenchSettings, OutOfMemory
from hdit_core.bench.sample import SampleFigure, bench_sample, evaluation_flops, evaluations
from hdit_core.bench.timing import Rounds, Timing
from hdit_core.bench.train import StepFigure, bench_train, random_batches, rounds_for
from hdit_core.data.loader.order import BlockOrder
from hdit_core.errors import DataError, UsageError
from hdit_core.flops.count import count
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.sample import SampleRecipe
from hdit_core.train.step import dataloader

CPU = torch.device("cpu")
FEW = BenchSettings(CPU, 1, Rounds(warm_up=1, least=2, most=2))


def in_this_process(function, *arguments, settings):
    """Replace `measure_in_child_process`: no new process, a made-up peak memory."""
    return function(*arguments), 1234


@pytest.fixture(autouse=True)
def here(monkeypatch):
    for module in training, sampling:
        monkeypatch.setattr(module, "measure_in_child_process", in_this_process)
        monkeypatch.setattr(module, "product_rate", lambda device, dtype: 1e12)


def test_images_per_second_utilization_and_waiting_follow_from_the_median_step():
    timing = Timing((1.0, 2.0, 50.0))
    figure = StepFigure(8, 600, "float32", rate=1000.0, timing=timing, waited_s=0.5, peak_bytes=7)
    assert (figure.images_per_s, figure.utilisation, figure.waiting) == (4.0, 0.3, 0.25)
    assert figure.to_json() == {
        "images": 8,
        "flops": 600,
        "dtype": "float32",
        "product_flops_per_s": 1000.0,
        "time": timing.to_json(),
        "images_per_s": 4.0,
        "utilisation": 0.3,
        "waiting": 0.25,
        "peak_bytes": 7,
    }


def test_the_measured_step_is_the_trainers_and_counts_three_forward_passes(tiny_recipe, caplog):
    caplog.set_level("INFO", logger="hdit")
    found = bench_train(tiny_recipe, FEW)
    assert (found.images, found.dtype, found.peak_bytes, found.waiting) == (8, "float32", 1234, None)
    assert found.flops == 8 * 3 * count(tiny_recipe.model).flops
    assert len(found.timing.runs_s) == 2
    assert caplog.messages[0].startswith("training: 8 images per step")


def test_micro_batches_follow_the_recipe(changed):
    found = bench_train(changed({"train.micro_batch_size": 3}), FEW)
    assert len(found.timing.runs_s) == 2


def test_with_a_data_set_its_images_are_read_and_the_waiting_is_measured(trained):
    found = bench_train(trained({}), FEW, read_data=True)
    assert 0 < found.waiting < 1


def test_a_remote_data_set_is_read_in_the_recipes_order_and_with_its_tolerance(
    trained, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = fsspec.filesystem("memory")
    store.put(str(tiny_data), "/bench/tiny", recursive=True)
    loads, load = [], dataloader.load_batches
    monkeypatch.setattr(dataloader, "load_batches", lambda *a, **options: loads.append(options) or load(*a, **options))
    try:
        recipe = trained({"data.path": "memory://bench/tiny", "data.order": "blocks", "data.max_damaged": 3})
        figure = bench_train(recipe, FEW, read_data=True)
    finally:
        store.rm("/bench", recursive=True)
    assert len(figure.timing.runs_s) == 2
    assert isinstance(loads[0]["order"], BlockOrder) and loads[0]["quarantine"].limit == 3


def test_a_data_set_that_does_not_fit_the_recipe_is_refused(trained):
    with pytest.raises(DataError, match=r"has 3 classes, model\.num_classes is"):
        recipe = trained({"model.num_classes": 5})
        bench_train(recipe, FEW, read_data=True)


def test_a_step_that_would_take_minutes_is_refused_before_it_starts(tiny_recipe, monkeypatch):
    monkeypatch.setattr(training, "product_rate", lambda device, dtype: 1e5)
    with pytest.raises(
        UsageError, match=r"a training step of 8 images takes at least .* measure a smaller one with --set train"
    ):
        bench_train(tiny_recipe, FEW)
    monkeypatch.setattr(sampling, "product_rate", lambda device, dtype: 1e5)
    with pytest.raises(UsageError, match=r"one evaluation of 4 images takes .* --set sample\.batch_size=1"):
        bench_sample(tiny_recipe, FEW)


def test_a_step_longer_than_the_time_limit_is_timed_once():
    settings = BenchSettings(CPU, 1, Rounds(warm_up=1, least=3, most=9, limit_s=10.0))
    assert rounds_for(settings, 9.0) == settings
    assert rounds_for(settings, 11.0).rounds == Rounds(warm_up=1, least=1, most=9, limit_s=10.0)


def test_a_step_that_does_not_fit_is_refused_with_the_settings_to_reduce(tiny_recipe, monkeypatch):
    def full(function, *arguments, settings):
        if function.__name__ == "_measure":
            raise OutOfMemory("does not fit into the 3.0 GiB of free memory")
        return in_this_process(function, *arguments, settings=settings)

    for module in training, sampling:
        monkeypatch.setattr(module, "measure_in_child_process", full)
    with pytest.raises(
        OutOfMemory,
        match=r"8 images of 16x24, in micro-batches of 8, does not fit .* memory; try --set train\.micro_batch",
    ):
        bench_train(tiny_recipe, FEW)
    with pytest.raises(OutOfMemory, match=r"a batch of 4 images of 16x24 does not .* try --set sample\.batch_size=1"):
        bench_sample(tiny_recipe, FEW)


def test_noise_replaces_images_with_every_kind_of_conditioning(tiny_recipe):
    first, second = itertools.islice(random_batches(tiny_recipe, [range(5, 8), range(8, 11)]), 2)
    assert first.images.shape == first.noise.shape == (3, 3, 16, 24)
    assert first.images.abs().max() <= 1
    assert first.class_ids.max() < 3
    assert first.augment_cond.any()
    assert (first.numbers.tolist(), second.numbers.tolist()) == ([5, 6, 7], [8, 9, 10])


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [("euler", 5), ("dpmpp_3m_sde", 5), ("heun", 9), ("dpmpp_2m", 5), ("dpm_adaptive", None)],
)
def test_the_measured_denoiser_calls_are_those_of_the_sampler(sampler, calls):
    assert evaluations(SampleRecipe(sampler=sampler, steps=5)) == calls


def test_guidance_is_two_passes_in_one_evaluation(changed):
    plain = bench_sample(changed({}), FEW)
    guided = bench_sample(changed({"sample.guidance": 2.0}), FEW)
    assert plain.flops == 4 * count(changed({}).model).flops
    assert guided.flops == 2 * plain.flops
    assert (guided.images, guided.evaluations, guided.peak_bytes) == (4, 4, 1234)


def test_a_guide_adds_one_forward_pass_of_its_network_at_the_models_size(changed, monkeypatch):
    recipe = changed({})
    model = recipe.model.model_copy(update={"image_size": (32, 32), "num_classes": 0})
    guide = recipe.model_copy(update={"model": model})
    asked = []
    real = HourglassTransformer.forward

    def forward(self, x, *rest):
        asked.append((self.recipe.num_classes, tuple(x.shape)))
        return real(self, x, *rest)

    monkeypatch.setattr(HourglassTransformer, "forward", forward)
    led = bench_sample(recipe, FEW, guide=guide)
    assert set(asked) == {(3, (4, 3, 16, 24)), (0, (4, 3, 16, 24))}
    assert led.flops == 4 * (count(recipe.model).flops + count(changed({"model.num_classes": 0}).model).flops)


@pytest.mark.parametrize(
    ("sample", "with_guide", "passes"),
    [({}, True, 2), ({"guidance": 2.0}, True, 3), ({"guidance": 0.0}, False, 1), ({"guidance": 0.0}, True, 3)],
)
def test_the_flops_of_an_evaluation_include_all_its_passes(changed, sample, with_guide, passes):
    recipe = changed({f"sample.{key}": value for key, value in sample.items()})
    work = evaluation_flops(recipe, recipe if with_guide else None)
    assert work == passes * 4 * count(recipe.model).flops


CONDITIONAL = {
    "model.condition_channels": 2,
    "model.mapping_cond_dim": 3,
    "data.augment_prob": 0.0,
    "train.condition_dropout": 0.1,
}


def test_a_conditional_network_is_measured_in_training_and_sampling_with_all_passes_of_its_guidance(changed):
    plain = changed(CONDITIONAL)
    assert len(bench_train(plain, FEW).timing.runs_s) == 2
    guided = changed(CONDITIONAL | {"sample.condition_guidance": 2.0, "sample.vector_guidance": 0.5})
    assert evaluation_flops(guided) == 3 * evaluation_flops(plain)
    assert len(bench_sample(guided, FEW).timing.runs_s) == 2


def test_guidance_of_the_recipe_is_measured_whatever_its_interval(changed):
    recipe = changed({"sample.guidance": 2.0, "sample.guidance_interval": [3.0, 4.0]})
    calls = []
    conditioned = SamplingPipeline.conditioned

    def counted(pipeline, classes, inputs):
        denoise = conditioned(pipeline, classes, inputs)
        assert pipeline.settings.guidance_interval is None
        return lambda *x: calls.append(denoise(*x))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SamplingPipeline, "conditioned", counted)
        bench_sample(recipe, FEW)
    assert calls


def test_a_guide_with_other_inputs_is_refused(changed):
    with pytest.raises(UsageError, match=r"the guide's model.num_classes is 5, the model's is 3; expected equal"):
        bench_sample(changed({}), FEW, guide=changed({"model.num_classes": 5}))


def test_finished_images_per_second_count_all_evaluations():
    figure = SampleFigure(6, 3, 500, "float32", rate=1000.0, timing=Timing((2.0,)), peak_bytes=None)
    assert (figure.images_per_s, figure.utilisation) == (1.0, 0.25)
    adaptive = SampleFigure(6, None, 500, "float32", rate=1000.0, timing=Timing((2.0,)), peak_bytes=None)
    assert adaptive.images_per_s is None


def test_cuda_graphs_of_a_network_on_a_cpu_are_refused(here, tiny_recipe):
    with pytest.raises(UsageError, match="--cuda-graphs: CUDA graphs need a CUDA device, the network is on cpu"):
        bench_sample(tiny_recipe, FEW, graphed=True)
