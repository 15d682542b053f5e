"""`load_denoiser` on k-diffusion's files reproduces k-diffusion's numbers in float64."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hdit_core.checkpoint import load_denoiser
from hdit_core.checkpoint.denoiser import build_denoiser
from hdit_core.checkpoint.kdiffusion.state_dict import kdiffusion_names
from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.diffusion.guidance import guided
from hdit_core.diffusion.loss import denoising_loss
from hdit_core.errors import CheckpointError
from hdit_core.flops.count import count
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.write import recipe_toml
from tests.conftest import REFERENCE
from tests.diffusion.sample_with import sample

CASES = [
    ("neighborhood", "64x64"),
    ("neighborhood", "64x96"),
    ("shifted_window", "64x64"),
    ("global", "32x32"),
    ("global", "48x32"),
]


NAMES = {"class_ids": "class_cond", "augment_cond": "aug_cond", "mapping_cond": "mapping_cond"}  # ours: the record's


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.fixture(scope="module")
def load():
    """Return a function: the denoiser of a reference checkpoint in float64, and its recording at a size."""

    def load_case(name, size):
        denoiser = load_denoiser(REFERENCE / f"{name}.safetensors", dtype=torch.float64)
        recorded = load_file(REFERENCE / f"{name}.io.safetensors")
        return denoiser, {key.removeprefix(f"{size}."): t for key, t in recorded.items() if key.startswith(f"{size}.")}

    return load_case


def conditioning(io, **without):
    return {ours: wide(io[theirs]) for ours, theirs in (NAMES | without).items() if theirs in io}


def wide(tensor):
    return tensor.double() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize(("name", "size"), CASES)
def test_network_and_denoiser_reproduce_the_recorded_images(load, name, size):
    denoiser, io = load(name, size)
    x, sigma = wide(io["x"]), wide(io["sigma"])
    close(denoiser.network(x, sigma, **conditioning(io)), io["model_output"])
    close(denoiser.network(x, sigma, **conditioning(io, augment_cond="")), io["model_output_no_aug"])
    close(denoiser(x, sigma, **conditioning(io)), io["denoised"])


@pytest.mark.parametrize("activation_checkpointing", [False, True])
@pytest.mark.parametrize(("name", "size"), CASES)
def test_the_loss_and_every_gradient_equal_the_recorded_ones(load, name, size, activation_checkpointing):
    denoiser, io = load(name, size)
    denoiser.requires_grad_(True)
    denoiser.network.activation_checkpointing = activation_checkpointing
    loss = denoising_loss(denoiser, wide(io["clean"]), wide(io["noise"]), wide(io["sigma"]), **conditioning(io))
    close(loss, io["loss"])
    loss.mean().backward()
    gradients = {key: p.grad for key, p in denoiser.network.named_parameters() if p.grad is not None}
    found = {kdiffusion_names(key, denoiser.recipe)[0]: gradient.norm().item() for key, gradient in gradients.items()}
    expected = {key.removeprefix("grad_norm."): norm.item() for key, norm in io.items() if key.startswith("grad_norm.")}
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("name", "size"), CASES[::2])
def test_in_bfloat16_loss_and_gradients_are_close_to_those_of_float32(name, size):
    denoiser = load_denoiser(REFERENCE / f"{name}.safetensors").requires_grad_(True)
    recorded = load_file(REFERENCE / f"{name}.io.safetensors")
    io = {key.removeprefix(f"{size}."): t for key, t in recorded.items() if key.startswith(f"{size}.")}
    io = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in io.items()}
    cond = {ours: io[theirs] for ours, theirs in NAMES.items() if theirs in io}
    losses, gradients = [], []
    for short in (False, True):
        denoiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            loss = denoising_loss(denoiser, io["clean"], io["noise"], io["sigma"], **cond)
        loss.mean().backward()
        losses.append(loss.detach())
        gradients.append({key: p.grad.clone() for key, p in denoiser.named_parameters() if p.grad is not None})
    assert loss.dtype == torch.float32 and not torch.equal(*losses)
    torch.testing.assert_close(losses[1], losses[0], rtol=5e-3, atol=0)
    for key, exact in gradients[0].items():
        if exact.ndim == 2:  # the others are small sums of large terms
            error = (gradients[1][key] - exact).norm() / exact.norm()
            assert error < 0.2, (key, error)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_the_counted_macs_equal_the_recorded_ones(load, name, size):
    denoiser, io = load(name, size)
    height, width = map(int, size.split("x"))
    assert count(denoiser.recipe.model, (height, width)).macs == int(io["mult_adds"])


@pytest.mark.parametrize(("name", "size"), [("neighborhood", "64x64"), ("global", "32x32")])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde"])
def test_guided_samples_equal_the_recorded_ones(load, name, size, sampler):
    denoiser, io = load(name, size)
    guide = {key.removeprefix("guided."): tensor for key, tensor in io.items() if key.startswith("guided.")}
    mapping_cond = torch.zeros_like(wide(io["mapping_cond"])) if "mapping_cond" in io else None
    denoise = guided(denoiser, guide["class"], float(guide["scale"]), mapping_cond=mapping_cond)
    sigmas = wide(guide["sigmas"])

    def no_noise(sigma, sigma_next):
        raise AssertionError("a deterministic sampler asked for noise")

    with torch.no_grad():
        images = sample(sampler, denoise, wide(guide["noise"]) * sigmas[0], sigmas, no_noise, eta=0.0, solver="heun")
    close(images, guide[{"dpmpp_2m": "dpmpp_2m", "dpmpp_2m_sde": "dpmpp_2m_sde_heun_eta0"}[sampler]])


def test_the_loaded_denoiser_is_in_eval_mode_and_has_its_recipe():
    denoiser = load_denoiser(REFERENCE / "neighborhood.safetensors")
    assert not denoiser.training and not any(p.requires_grad for p in denoiser.parameters())
    assert denoiser.recipe.model.num_classes == 5 and denoiser.recipe.model.levels[1].kernel_size == 5
    assert next(denoiser.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("patch_in.proj.weight"), "lacks the tensor"),
        (lambda state: state.update({"patch_in.proj.weight": torch.zeros(3, 5)}), "has shape"),
        (lambda state: state.update({"surplus.weight": torch.zeros(3)}), "which its config does not have"),
    ],
)
def test_tensors_of_another_network_are_refused_by_name(tmp_path, change, message):
    source = REFERENCE / "global.safetensors"
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    state = load_file(source)
    change(state)
    save_file(state, tmp_path / "broken.safetensors", metadata)
    with pytest.raises(CheckpointError, match=message):
        load_denoiser(tmp_path / "broken.safetensors")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "neither a recipe of hdit nor a config of k-diffusion"),
        ({"config": "{"}, "metadata is corrupt"),
        ({"config": json.dumps({"model": {"type": "image_v1"}})}, "image_v1"),
        ({"hdit": "1", "recipe": "[]"}, "corrupt"),
    ],
)
def test_files_of_other_programs_are_refused(tmp_path, metadata, message):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2, 3)}, path, metadata)
    with pytest.raises(CheckpointError, match=message):
        load_denoiser(path)


def test_a_path_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such run, checkpoint or file"):
        load_denoiser(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="neither a run with checkpoints nor a checkpoint"):
        load_denoiser(tmp_path)
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_denoiser(tmp_path / "text.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(100), r"a PyTorch pickle, not a safetensors file; convert it: hdit convert"),
        (b"\x80\x02\x8a" + bytes(100), "a PyTorch pickle"),
        (b"\n<!DOCTYPE html><html><head><title>Not Found</title>", "an HTML page, not a safetensors file; download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer.*; run `git lfs pull`"),
        (b"", "not a safetensors file, or truncated"),
        (b"\xff" * 200, "not a safetensors file, or truncated"),
    ],
)
def test_a_file_of_another_format_is_reported_with_its_format(tmp_path, content, message):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_denoiser(tmp_path / "weights.pth")


def test_weights_of_mixed_types_are_cast_to_the_widest_one(changed):
    recipe = changed({})
    shapes = HourglassTransformer(recipe.model).state_dict()
    state = {name: torch.full_like(tensor, 0.01) for name, tensor in shapes.items()}
    mixed = {name: tensor.half() if index % 2 else tensor for index, (name, tensor) in enumerate(state.items())}
    denoiser = build_denoiser(recipe, mixed, "mixed")
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.float32}
    height, width = recipe.model.image_size
    x, sigma = torch.zeros(2, recipe.model.channels, height, width), torch.ones(2)
    classes = torch.zeros(2, dtype=torch.int64) if recipe.model.num_classes else None
    assert denoiser(x, sigma, classes).isfinite().all()


def test_weights_of_whole_numbers_are_refused_by_name(changed):
    recipe = changed({})
    state = {name: torch.zeros_like(tensor) for name, tensor in HourglassTransformer(recipe.model).state_dict().items()}
    state["patch_in.proj.weight"] = state["patch_in.proj.weight"].to(torch.int8)
    with pytest.raises(CheckpointError, match=r"here: patch_in.proj.weight is torch.int8, .* a floating-point type$"):
        build_denoiser(recipe, state, "here")


def test_a_step_that_the_run_does_not_have_is_answered_with_those_that_it_has(tmp_path):
    for step in (20, 30):
        (tmp_path / "run" / "checkpoints" / f"step-{step:09d}").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"step-000000021: no such run, .*; the run has those of steps 30, 20$"):
        load_denoiser(tmp_path / "run@21")
    for step in ("x", "2" * 12):
        with pytest.raises(CheckpointError, match=rf"run@{step}: no such run, checkpoint or file$"):
            load_denoiser(tmp_path / f"run@{step}")


def test_a_run_without_a_checkpoint_reports_when_the_first_one_is_due(tmp_path, changed):
    (tmp_path / "recipe.toml").write_text(recipe_toml(changed({"train.checkpoint_every_images": 32})))
    with pytest.raises(CheckpointError, match="no checkpoint yet; the first one is saved after 32 images"):
        load_denoiser(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("mapping_width", 2**40), ("channels", 2**62)])
def test_a_file_whose_recipe_has_absurd_sizes_is_refused(tmp_path, tiny_recipe, key, value):
    network = HourglassTransformer(tiny_recipe.model)
    tables = tiny_recipe.model_dump(mode="json", exclude_none=True)
    tables["model"][key] = value
    write_tensors(tmp_path / "x.safetensors", network.state_dict(), json.dumps(tables))
    with pytest.raises(CheckpointError, match=r"x.safetensors: its recipe has a network that is too large"):
        load_denoiser(tmp_path / "x.safetensors")
