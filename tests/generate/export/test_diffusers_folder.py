"""An export for diffusers computes what hdit computes: the network, and the samplers that diffusers has."""

import json
import math

import numpy as np
import pytest
import torch

from hdit_core.checkpoint.denoiser import load_denoiser
from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.diffusion.guidance import guided
from hdit_core.diffusion.samplers.registry import sample_by
from hdit_core.diffusion.samplers.schedule import sampling_sigmas
from hdit_core.errors import UsageError
from hdit_core.generate.export.diffusers_folder import export_diffusers
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.randomness import stream
from tests.generate.export.exporting import exported

LEVELS = [
    {"depth": 2, "width": 16, "head_dim": 8, "attention": "neighborhood", "kernel_size": 3, "d_ff": 24},
    {"depth": 2, "width": 32, "head_dim": 16, "attention": "shifted-window", "window_size": 2, "d_ff": 40},
    {"depth": 1, "width": 48, "head_dim": 16, "attention": "global", "d_ff": 48},
]


@pytest.fixture
def model(changed, tmp_path):
    """A file with a network of all kinds of attention, random weights everywhere; the grid is 16x8."""
    sample = {"sampler": "dpmpp_2m", "steps": 6, "sigma_max": 20.0, "sigma_min": 0.02}
    recipe = changed(
        {"model.levels": LEVELS, "model.image_size": [32, 16], "model.patch_size": 2}
        | {f"sample.{key}": value for key, value in sample.items()}
    )
    network = HourglassTransformer(recipe.model)
    state = network.state_dict()
    for name, tensor in state.items():
        values = torch.from_numpy(stream(0, name, 0).standard_normal(tensor.shape, "float32"))
        tensor.copy_(values.abs() if name.endswith("scale") else values / math.sqrt(max(1, tensor.shape[-1])))
    write_tensors(tmp_path / "model.safetensors", state, recipe.model_dump_json())
    return tmp_path / "model.safetensors"


@pytest.fixture
def load(importable_torchvision, tmp_path, monkeypatch):
    """Return a function that loads an exported folder as diffusers does."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers, of the extra dev")

    def loaded(folder):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return loaded


@pytest.fixture
def pipeline(model, load, tmp_path):
    """The exported pipeline."""
    export_diffusers(model, tmp_path / "exported")
    return load(tmp_path / "exported")


def noise(count, shape):
    return torch.from_numpy(np.random.default_rng(1).standard_normal((count, *shape), "float32"))


@pytest.mark.parametrize("class_ids", [None, [0, 2]])
def test_the_exported_network_has_the_same_outputs(model, pipeline, class_ids):
    core = load_denoiser(model).double()
    network = pipeline.transformer.double()
    x, sigma = noise(2, (3, 32, 16)).double(), torch.tensor([0.3, 7.0], dtype=torch.float64)
    labels = torch.tensor(class_ids or [core.recipe.model.num_classes] * 2)
    expected = core.network(x, sigma, labels)
    found = network(x, sigma.log() / 4, None if class_ids is None else labels).sample
    assert expected.std() > 0.1
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize(
    ("sampler", "scheduler"), [("euler", "EDMEulerScheduler"), ("dpmpp_2m", "EDMDPMSolverMultistepScheduler")]
)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_samples_equal_those_of_hdit(model, load, tmp_path, sampler, scheduler, guidance):
    core = load_denoiser(model)
    settings = core.recipe.sample.model_copy(update={"sampler": sampler})
    path = tmp_path / "sampled.safetensors"
    recipe = core.recipe.model_copy(update={"sample": settings})
    write_tensors(path, core.network.state_dict(), recipe.model_dump_json())
    export_diffusers(path, tmp_path / sampler)
    loaded = load(tmp_path / sampler)
    assert type(loaded.scheduler).__name__ == scheduler
    start, labels = noise(2, (3, 32, 16)), [0, 1]
    found = loaded(labels, latents=start, num_inference_steps=6, guidance_scale=guidance, output_type="pt").images
    denoise = guided(core, torch.tensor(labels), guidance)
    with torch.inference_mode():
        expected = sample_by(
            settings, denoise, start * settings.sigma_max, sampling_sigmas(settings), lambda *levels: start
        )
    assert expected.std() > 0.1
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_the_pipeline_returns_images_and_has_no_guidance_without_classes(pipeline, changed, tmp_path):
    (picture,) = pipeline([1], num_inference_steps=2, guidance_scale=1.5).images
    assert picture.size == (16, 32)
    config = json.loads((tmp_path / "exported" / "transformer" / "config.json").read_text())
    assert config["num_classes"] == 3
    pipeline.transformer.register_to_config(num_classes=0)
    with pytest.raises(ValueError, match="needs classes"):
        pipeline(num_images=1, guidance_scale=1.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("diffusion.objective", "flow"),
        ("model.norm", "layer"),
        ("model.mapping_cond_dim", 4),
        ("model.time", "t"),
        ("model.input_offset", 1.0),
    ],
)
def test_an_unsupported_network_is_refused_with_the_key(changed, tmp_path, key, value):
    recipe = changed({key: value})
    network = HourglassTransformer(recipe.model)
    write_tensors(tmp_path / "model.safetensors", network.state_dict(), recipe.model_dump_json())
    with pytest.raises(UsageError, match=f"--diffusers: {key} is '?{value}'?; the exported code supports"):
        export_diffusers(tmp_path / "model.safetensors", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_the_readme_names_the_weights_that_are_exported(run, tmp_path):
    assert export_diffusers(run, tmp_path / "raw", "model")["weights"] == "model"
    exported(run, tmp_path / "model", weights="model", num_samples=0)
    assert export_diffusers(tmp_path / "model", tmp_path / "again")["weights"] == "model"
    for name in ("raw", "again"):
        assert "exported by hdit (model weights)." in (tmp_path / name / "README.md").read_text()
    with pytest.raises(UsageError, match="model: has the weights model, not ema; leave out --weights"):
        export_diffusers(tmp_path / "model", tmp_path / "ema", "ema")


def test_weights_of_an_unknown_kind_are_not_called_ema(model, tmp_path):
    assert export_diffusers(model, tmp_path / "out")["weights"] == "unknown"
    assert "exported by hdit. " in (tmp_path / "out" / "README.md").read_text()


def test_settings_without_a_counterpart_are_reported(changed, tmp_path, notes):
    sample = {"sampler": "dpmpp_2m", "guidance": 2.0, "guidance_interval": [0.2, 5.0], "schedule": "vp"}
    recipe = changed({f"sample.{key}": value for key, value in sample.items()})
    network = HourglassTransformer(recipe.model)
    write_tensors(tmp_path / "model.safetensors", network.state_dict(), recipe.model_dump_json())
    export_diffusers(tmp_path / "model.safetensors", tmp_path / "exported")
    assert [note.partition(" =")[0] for note in notes] == ["sample.guidance_interval", "sample.schedule"]


def test_a_class_that_the_network_does_not_have_is_refused(pipeline):
    with pytest.raises(ValueError, match=r"class_labels = \[4\]: expected 0 to 2, or 3 for no class"):
        pipeline([4], num_inference_steps=2)
    pipeline.transformer.register_to_config(num_classes=0)
    with pytest.raises(ValueError, match=r"class_labels = \[1\]: this network has no classes"):
        pipeline([1], num_inference_steps=2)
