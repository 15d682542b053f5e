"""CUDA graphs of the network, with a capture that repeats the forward pass in place of a graph."""

import pytest
import torch

from hdit_core.model.cuda_graph import use_cuda_graphs
from hdit_core.model.hourglass import HourglassTransformer
from tests.model.small_network import awake, inputs, recipe


class Repeats:
    """Captures by repeating: like a graph's, its output is one tensor that each replay overwrites."""

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, forward):
        self.captures += 1
        output = forward()

        def replay():
            self.replays += 1
            output.copy_(forward())

        return output, replay


@pytest.fixture
def networks():
    """A network, and the same with graphs."""
    plain, graphed = (awake(HourglassTransformer(recipe(num_classes=4))).eval() for _ in range(2))
    return plain, graphed


def call(network, batch, image_size=None):
    given = inputs(network, batch, image_size)
    return network(given["x"], given["sigma"], given["class_ids"], given["augment_cond"], None, None)


def test_outputs_are_those_of_the_network_and_each_shape_is_captured_once(networks):
    plain, graphed = networks
    capture = Repeats()
    assert use_cuda_graphs(graphed, capture) is None
    with torch.no_grad():
        for batch in (2, 1, 2, 1):
            assert torch.equal(call(graphed, batch), call(plain, batch))
    assert (capture.captures, capture.replays) == (2, 4)


def test_an_output_stays_when_the_next_one_is_computed(networks):
    plain, graphed = networks
    use_cuda_graphs(graphed, Repeats())
    with torch.no_grad():
        first = call(graphed, 2)
        given = inputs(graphed, 2)
        graphed(3 * given["x"], given["sigma"], given["class_ids"], None, None, None)
        graphed(given["x"] + 1, given["sigma"], given["class_ids"], given["augment_cond"], None, None)
        assert torch.equal(first, call(plain, 2))


def test_another_image_size_drops_the_graphs_whose_rotations_may_be_freed(networks):
    plain, graphed = networks
    capture = Repeats()
    use_cuda_graphs(graphed, capture)
    with torch.no_grad():
        for size in ((64, 32), (32, 64), (64, 32)):
            assert torch.equal(call(graphed, 1, size), call(plain, 1, size))
    assert capture.captures == 3


def test_precision_and_inference_mode_have_graphs_of_their_own(networks):
    capture = Repeats()
    use_cuda_graphs(networks[1], capture)
    with torch.no_grad():
        call(networks[1], 1)
        with torch.autocast("cpu", torch.bfloat16):
            call(networks[1], 1)
    with torch.inference_mode():
        call(networks[1], 1)
    assert capture.captures == 3


def test_forward_passes_with_gradients_are_not_captured(networks):
    capture = Repeats()
    use_cuda_graphs(networks[1], capture)
    call(networks[1], 1).sum().backward()
    assert capture.captures == 0
    assert networks[1].patch_in.proj.weight.grad is not None


def test_a_network_on_a_cpu_and_additive_positions_are_refused():
    network = HourglassTransformer(recipe())
    assert use_cuda_graphs(network) == "CUDA graphs need a CUDA device, the network is on cpu"
    additive = HourglassTransformer(recipe(positions="additive"))
    assert "positions = 'additive'" in use_cuda_graphs(additive, Repeats())
