"""Gradient norms by part of the network, and the utilization of a machine."""

import pytest
import torch

from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.train.monitor.throughput import datasheet_flops, image_flops, peak_bytes, peak_flops_per_s
from hdit_core.train.optim.grad_norm import clip, grad_norms, norms_of, part_of
from tests.flops.measure import measured_macs


def test_every_parameter_belongs_to_a_part_of_the_network_and_squared_norms_add_up(tiny_recipe):
    network = HourglassTransformer(tiny_recipe.model)
    initialize(network, 0)
    numbers = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=numbers)
    norms = grad_norms(network.named_parameters(), 2)
    assert list(norms) == ["level 0", "level 1", "mapping", "patches"]
    whole = torch.nn.utils.get_total_norm([parameter.grad for parameter in network.parameters()])
    assert torch.stack(list(norms.values())).square().sum().sqrt().item() == pytest.approx(whole.item(), rel=1e-6)
    inner = [p.grad.square().sum() for name, p in network.named_parameters() if name.startswith("middle.")]
    assert norms["level 1"].item() == pytest.approx(torch.stack(inner).sum().sqrt().item(), rel=1e-6)


@pytest.mark.parametrize("factor", [0.5, 0.999999, 1.0, 1.000001, 2.0, float("inf"), float("nan")])
def test_gradient_clipping_is_bit_identical_to_torchs(tiny_recipe, factor):
    ours, theirs = (HourglassTransformer(tiny_recipe.model) for _ in range(2))
    numbers = torch.Generator().manual_seed(0)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        one.grad = torch.randn(one.shape, generator=numbers)
        other.grad = one.grad.clone()
    ours.patch_in.proj.weight.grad = theirs.patch_in.proj.weight.grad = None
    largest = 100.0
    norm = torch.nn.utils.get_total_norm([p.grad for p in theirs.parameters() if p.grad is not None])
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        if one.grad is not None:
            one.grad *= factor * largest / norm
            other.grad *= factor * largest / norm

    parameters = list(ours.parameters())[::-1]  # as an optimizer's groups have them: in another order
    found = clip(parameters, largest, norms_of(ours.parameters()))
    expected = torch.nn.utils.clip_grad_norm_(list(theirs.parameters())[::-1], largest)

    assert torch.equal(found, expected) or (found.isnan() and expected.isnan())
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad is other.grad is None or torch.allclose(one.grad, other.grad, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("merges.1.proj.weight", "level 1"),
        ("up.0.3.attention.scale", "level 0"),
        ("middle.0.feed_forward.up.weight", "level 2"),
        ("conditioning.classes.weight", "mapping"),
        ("out_norm.scale", "patches"),
        ("something.new", "something"),
    ],
)
def test_the_part_of_the_network_follows_from_the_name_of_a_parameter(name, part):
    assert part_of(name, 3) == part


def test_parameters_without_a_gradient_are_ignored(tiny_recipe):
    network = HourglassTransformer(tiny_recipe.model)
    network.patch_in.proj.weight.grad = torch.full_like(network.patch_in.proj.weight, 2.0)
    norms = grad_norms(network.named_parameters(), 2)
    assert norms.keys() == {"patches"} and norms["patches"].item() == pytest.approx(2 * (16 * 12) ** 0.5)


def test_a_training_image_costs_three_forward_passes_at_two_flops_per_mac(tiny_recipe):
    for size in ((16, 24), (32, 24)):
        assert image_flops(tiny_recipe.model, size) == 6 * sum(measured_macs(tiny_recipe.model, size).values())


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA RTX A6000", 155),
        ("NVIDIA H200", 989),
        ("Some GPU of 2031", None),
    ],
)
def test_a_gpu_is_found_by_the_name_that_torch_gives_it(name, tflops):
    assert datasheet_flops(name, torch.bfloat16) == (tflops and tflops * 1e12)
    assert datasheet_flops(name, torch.float32) is None


def test_a_cpu_has_no_peak_flops_and_reports_the_peak_memory_of_the_process():
    assert peak_flops_per_s(torch.device("cpu"), torch.bfloat16) is None
    assert 50e6 < peak_bytes(torch.device("cpu")) < 200e9
