import pytest
import torch

from hdit_core.bench import attention
from hdit_core.bench.attention import AttentionFigure, Shape, bench_attention
from hdit_core.bench.child_process import BenchSettings
from hdit_core.bench.timing import Rounds, Timing

FEW = BenchSettings(torch.device("cpu"), 1, Rounds(warm_up=0, least=1, most=1))


def in_this_process(function, *arguments, settings):
    """Replace `measure_in_child_process`: no new process, a made-up peak memory."""
    return function(*arguments), 1234


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(attention, "measure_in_child_process", in_this_process)
    monkeypatch.setattr(attention, "product_rate", lambda device, dtype: 1e9)


def test_the_lower_bound_is_two_products_forward_and_four_more_backward():
    shape = Shape(64)
    forward = 2 * 2 * 64 * 64 * 2 * 49 * 64  # products, operations, queries, heads, keys, features
    assert (shape.flops("forward"), shape.flops("forward+backward")) == (forward, 3 * forward)


def test_the_lower_bound_of_the_forward_pass_equals_torchs_count_for_as_many_keys():
    from torch.utils.flop_counter import FlopCounterMode

    shape = Shape(6, batch=2, heads=3, head_dim=8, kernel_size=5)
    queries, keys = torch.empty(2 * 3 * 36, 1, 8, device="meta"), torch.empty(2 * 3 * 36, 25, 8, device="meta")
    with FlopCounterMode(display=False) as counter:
        torch.bmm(torch.bmm(queries, keys.mT), keys)
    assert shape.flops("forward") == counter.get_total_flops()


def test_a_time_is_also_given_as_a_multiple_of_its_lower_bound():
    figure = AttentionFigure("tiled", Shape(64), "forward", 0.5, Timing((1.0, 2.0, 9.0)), 5)
    assert figure.times_bound == 4.0
    assert figure.to_json()["times_bound"] == 4.0
    assert AttentionFigure("natten", Shape(64), "forward", 0.5, None, None, "forward only").times_bound is None


def test_every_implementation_that_can_run_is_measured_at_every_shape_in_both_directions(here):
    shapes = [Shape(8, 1, 1, 8, 3), Shape(9, 2, 2, 8, 5)]
    found = bench_attention(shapes, torch.float32, FEW)

    assert "tiled" in {figure.backend for figure in found.figures}
    assert {figure.backend for figure in found.figures}.isdisjoint(found.unavailable)
    assert "natten" in found.unavailable
    for shape in shapes:
        mine = [figure for figure in found.figures if figure.shape == shape]
        assert {(figure.backend, figure.direction) for figure in mine} == {
            (figure.backend, direction) for figure in found.figures for direction in attention.DIRECTIONS
        }
        for figure in mine:
            assert figure.bound_s == shape.flops(figure.direction) / 1e9
            assert figure.timing.median_s > 0
            assert figure.peak_bytes == 1234
    assert [figure["shape"]["size"] for figure in found.to_json()["figures"]] == [
        figure.shape.size for figure in found.figures
    ]


def test_an_implementation_that_fails_says_so_and_the_others_are_measured(here, monkeypatch):
    class ForwardOnly:
        def attend(self, q, k, v, kernel_size):
            if q.requires_grad:
                raise RuntimeError("forward only\nand more")
            return q

    monkeypatch.setattr(attention, "availability", lambda place: {"half": None, "tiled": None})
    monkeypatch.setitem(attention.BACKENDS, "half", ForwardOnly())
    found = bench_attention([Shape(8, 1, 1, 8, 3)], torch.float32, FEW)

    by_place = {(figure.backend, figure.direction): figure for figure in found.figures}
    assert by_place["half", "forward+backward"].problem == "RuntimeError: forward only"
    assert by_place["half", "forward+backward"].timing is None
    assert by_place["half", "forward"].timing is not None
    assert by_place["tiled", "forward+backward"].timing is not None
