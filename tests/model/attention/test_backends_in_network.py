"""With every backend the network reproduces the reference's numbers, and torch.compile traces it."""

from functools import partial
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import flex_attention as torchs

from hdit_core.checkpoint import load_denoiser
from hdit_core.checkpoint.denoiser import attention_notes, setup_notes
from hdit_core.checkpoint.kdiffusion.state_dict import kdiffusion_names
from hdit_core.diffusion.loss import denoising_loss
from hdit_core.errors import UsageError
from hdit_core.model.attention import flex
from hdit_core.model.attention.neighborhood import neighborhood_attention
from hdit_core.model.hourglass import HourglassTransformer, attention_operator
from hdit_core.recipe.model import LevelRecipe
from tests.model.neighborhoods import brute_force
from tests.model.small_network import awake, inputs, level, recipe

REFERENCE = Path(__file__).parents[2] / "reference"
CONDITIONING = {"class_ids": "class_cond", "augment_cond": "aug_cond", "mapping_cond": "mapping_cond"}

BACKENDS = {
    "native": partial(neighborhood_attention, backend="native"),
    "tiled": partial(neighborhood_attention, backend="tiled"),
    "natten": brute_force,  # test_natten.py compares NATTEN with it
    "flex": partial(flex.attend_in_blocks, plain=flex._plain_attend),
}


@pytest.fixture
def unchecked():
    """Disable shape checks, which torch.compile cannot trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def use(network, attend):
    blocks = [module for module in network.modules() if hasattr(module, "operator")]
    local = [block for block in blocks if getattr(block.operator, "func", None) is neighborhood_attention]
    assert len(local) > 2
    for block in local:
        block.operator = partial(attend, kernel_size=block.operator.keywords["kernel_size"])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", BACKENDS)
def test_in_float32_outputs_and_gradients_equal_those_of_the_reference(name, monkeypatch):
    monkeypatch.setattr(torchs, "_validate_device", lambda *tensors: None)  # it refuses gradients on a CPU
    denoiser = load_denoiser(REFERENCE / "neighborhood.safetensors").requires_grad_(True)
    use(denoiser.network, BACKENDS[name])
    recorded = load_file(REFERENCE / "neighborhood.io.safetensors")
    io = {key.removeprefix("64x96."): tensor for key, tensor in recorded.items() if key.startswith("64x96.")}
    io = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in io.items()}
    cond = {ours: io[theirs] for ours, theirs in CONDITIONING.items() if theirs in io}

    found = denoiser.network(io["x"], io["sigma"], **cond)
    torch.testing.assert_close(found, io["model_output"], rtol=1e-5, atol=1e-5 * io["model_output"].abs().max().item())
    denoising_loss(denoiser, io["clean"], io["noise"], io["sigma"], **cond).mean().backward()
    for key, parameter in denoiser.network.named_parameters():
        if parameter.grad is not None:
            expected = io[f"grad_norm.{kdiffusion_names(key, denoiser.recipe)[0]}"].item()
            assert parameter.grad.norm().item() == pytest.approx(expected, rel=1e-4), key


def neighborhood_level(**changes):
    return LevelRecipe(**(level(1, 32, "neighborhood", kernel_size=3) | changes))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("backend", ["native", "tiled", "auto"])
def test_torch_compile_traces_forward_and_backward_without_a_graph_break(backend):
    attend = attention_operator(neighborhood_level(), 0, backend)
    torch._dynamo.reset()
    compiled = torch.compile(lambda q, k, v: attend(q * 2, k, v) + q, fullgraph=True, backend="aot_eager")
    leaves = [x.requires_grad_() for x in torch.randn(3, 2, 5, 9, 2, 16)]
    plain = attend(leaves[0] * 2, *leaves[1:]) + leaves[0]
    found = compiled(*leaves)
    torch.testing.assert_close(found, plain)
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(plain.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", ["native", "tiled"])
def test_a_network_that_moves_to_another_dtype_or_device_selects_a_backend_again(backend):
    network = awake(HourglassTransformer(recipe(attention_backend=backend))).double()
    given = inputs(network, dtype=torch.float64)
    out = network(**given)
    assert out.dtype == torch.float64
    expected = awake(HourglassTransformer(recipe())).double()(**given)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    on_meta = awake(HourglassTransformer(recipe())).to("meta")
    assert on_meta(**{key: value.to("meta") for key, value in given.items()}).device.type == "meta"


def test_a_network_trained_with_natten_loads_without_natten(tmp_path, changed):
    from hdit_core.checkpoint.safetensors_file import write_tensors

    trained = changed({"model.attention_backend": "natten"})
    network = awake(HourglassTransformer(trained.model))
    path = tmp_path / "model.safetensors"
    write_tensors(path, network.state_dict(), trained.model_dump_json())
    denoiser = load_denoiser(path)
    assert denoiser.recipe.model.attention_backend == "auto"
    assert len(attention_notes(denoiser)) == 1 and setup_notes(denoiser) == attention_notes(denoiser)
    assert attention_notes(denoiser)[0].startswith("neighborhood attention: ")
    assert "tiled" in attention_notes(load_denoiser(path, attention_backend="tiled"))[0]
    with pytest.raises(
        UsageError, match=r"model\.attention_backend = 'natten' cannot run here: it runs on cuda devices only"
    ):
        load_denoiser(path, attention_backend="natten")
