import pytest
import torch

from hdit_core.bench import scaling
from hdit_core.bench.child_process import BenchSettings, OutOfMemory
from hdit_core.bench.scaling import ScalingFigure, at_size, bench_scaling, cut, exponents, networks
from hdit_core.bench.timing import Rounds, Timing
from hdit_core.flops.baselines import HDIT_B4
from hdit_core.flops.count import count

ONCE = BenchSettings(torch.device("cpu"), 1, Rounds(warm_up=0, least=1, most=1))


def figures_of(time, memory, sizes=(64, 128, 256, 512)):
    """Return the figures of a network that takes `time(pixels)` seconds and `memory(pixels)` bytes."""
    return [
        ScalingFigure("HDiT-B/4", size, "forward", 1, 1, Timing((time(size**2),)), round(memory(size**2)))
        for size in sizes
    ]


def test_the_exponent_of_a_power_law_is_found():
    (law,) = exponents(figures_of(lambda n: 3e-6 * n**1.25, lambda n: 50 * n**0.75))
    assert law.time == pytest.approx(1.25)
    assert law.memory == pytest.approx(0.75, abs=1e-4)
    assert (law.from_px, law.to_px) == (256, 512)


def test_small_sizes_are_measured_but_not_used_in_the_fit():
    figures = figures_of(lambda n: 2e-6 * n if n >= 256**2 else 1.0, lambda n: n)
    (law,) = exponents(figures)
    assert law.time == pytest.approx(1)
    assert next(exponents(figures, from_px=64)).time < 0.5


def test_without_large_sizes_the_fit_uses_the_two_largest_and_a_single_size_has_none():
    (law,) = exponents(figures_of(lambda n: 1e-9 * n**2 if n > 64**2 else 1.0, lambda n: n, sizes=(64, 128, 256)))
    assert (law.from_px, law.to_px, law.time) == (128, 256, pytest.approx(2))
    assert list(exponents(figures_of(float, float, sizes=(256,)))) == []


def test_the_full_width_is_the_papers_network_without_its_classes():
    mine, papers = networks(HDIT_B4.levels[-1].width)["HDiT-B/4"], HDIT_B4
    assert mine.levels == papers.levels
    assert count(mine).at(0) == count(papers).at(0)


def test_a_narrowed_network_has_all_widths_divided_equally():
    model = networks(128)["HDiT-B/4"]
    assert [(level.width, level.hidden, level.depth) for level in model.levels] == [(64, 192, 2), (128, 384, 11)]
    assert model.mapping_width == 128
    assert networks(128)["DiT-B/4"].levels[0].width == 128


def test_a_width_that_leaves_half_a_head_is_refused():
    with pytest.raises(ValueError, match="turns the width 384 into 96, which is not a multiple of head_dim = 64"):
        cut(HDIT_B4, 192)


def test_hdit_grows_by_a_level_for_each_doubling_and_dit_does_not():
    both = networks(128)
    assert [len(at_size("HDiT-B/4", both["HDiT-B/4"], size).levels) for size in (64, 128, 256, 1024)] == [2, 2, 3, 5]
    assert [len(at_size("DiT-B/4", both["DiT-B/4"], size).levels) for size in (64, 1024)] == [1, 1]
    assert at_size("DiT-B/4", both["DiT-B/4"], 512).image_size == (512, 512)


def measured_by(answer):
    def measured(function, *arguments, settings):
        return answer(function, *arguments)

    return measured


def test_both_networks_are_measured_in_both_directions_at_every_size(monkeypatch):
    monkeypatch.setattr(
        scaling, "measure_in_child_process", measured_by(lambda function, *given: (function(*given), 99))
    )
    found = list(bench_scaling((32,), 128, torch.float32, ONCE))
    assert [(figure.network, figure.direction) for figure in found] == [
        (name, direction) for name in ("HDiT-B/4", "DiT-B/4") for direction in ("forward", "forward+backward")
    ]
    forward, both = found[:2]
    assert both.flops == 3 * forward.flops
    assert forward.flops == count(at_size("HDiT-B/4", networks(128)["HDiT-B/4"], 32)).flops
    assert all(figure.timing.median_s > 0 and figure.peak_bytes == 99 for figure in found)
    assert found[0].to_json()["size"] == 32


def test_a_size_that_would_take_too_long_is_skipped_and_reported(monkeypatch, caplog):
    monkeypatch.setattr(scaling, "measure_in_child_process", measured_by(lambda *given: (Timing((1.0,)), 1)))
    caplog.set_level("INFO", logger="hdit")
    found = list(bench_scaling((128, 256), 128, torch.float32, ONCE, most_s=5.0))
    problems = {(figure.network, figure.size_px): figure.problem for figure in found}
    work = [count(at_size("DiT-B/4", networks(128)["DiT-B/4"], size)).macs for size in (128, 256)]
    assert problems == {
        ("HDiT-B/4", 128): None,
        ("HDiT-B/4", 256): None,
        ("DiT-B/4", 128): None,
        ("DiT-B/4", 256): f"would take about {work[1] / work[0]:.0f} s",
    }
    assert caplog.messages[-1].endswith(problems["DiT-B/4", 256])


def test_a_size_that_does_not_fit_ends_no_run_and_larger_sizes_are_skipped(monkeypatch):
    tried = []

    def full(function, model, *rest):
        tried.append(model.image_size[0])
        raise OutOfMemory("does not fit into the 3.0 GiB of free memory")

    monkeypatch.setattr(scaling, "measure_in_child_process", measured_by(full))
    found = list(bench_scaling((64, 128), 128, torch.float32, ONCE))
    assert set(tried) == {64}
    assert {figure.problem for figure in found if figure.size_px == 64} == {
        "does not fit into the 3.0 GiB of free memory"
    }
    assert {figure.problem for figure in found if figure.size_px == 128} == {"the previous size did not fit"}
