"""An exported model loads again, describes itself, and contains nothing private."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from hdit_core.checkpoint import load_denoiser
from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.diffusion.precondition import ModelSource
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.generate.export import export as export_module
from hdit_core.generate.generate import collect, generate
from hdit_core.generate.settings import open_denoiser, write_defaults
from hdit_core.images import sheet
from tests.generate.export.exporting import exported, random_state


def test_an_export_loads_back_to_the_ema_weights(run, state, tmp_path):
    result = exported(run, tmp_path / "out")
    found = load_denoiser(tmp_path / "out").network.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name] * 0.9) for name in state)
    assert sorted(result["files"]) == ["README.md", "recipe.toml", "samples.png", "weights.safetensors"]
    raw = exported(run, tmp_path / "raw", weights="model", num_samples=0)
    assert torch.equal(load_denoiser(tmp_path / "raw").network.patch_in.proj.weight, state["patch_in.proj.weight"])
    assert "samples.png" not in raw["files"]


def test_in_bfloat16_all_weights_except_the_frequencies_are_rounded(run, tmp_path):
    exported(run, tmp_path / "out", dtype="bfloat16")
    found = load_denoiser(tmp_path / "out").network.state_dict()
    types = {name.rpartition(".")[2] == "frequencies": tensor.dtype for name, tensor in found.items()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    wide = load_denoiser(run)
    x, sigma, classes = torch.randn(2, 3, 16, 24), torch.tensor([0.5, 3.0]), torch.tensor([0, 2])
    near = load_denoiser(tmp_path / "out", dtype=torch.float32)(x, sigma, classes)
    assert 0 < (near - wide(x, sigma, classes)).abs().max() < 0.2


def test_an_export_in_k_diffusions_format_is_read_back(run, tmp_path):
    exported(run, tmp_path / "out", format="k-diffusion", num_samples=0)
    with safe_open(tmp_path / "out" / "weights.safetensors", "pt") as file:
        assert "config" in file.metadata() and "hdit" not in file.metadata()
    x, sigma, classes = torch.randn(2, 3, 16, 24), torch.tensor([0.5, 3.0]), torch.tensor([0, 2])
    assert torch.equal(load_denoiser(tmp_path / "out")(x, sigma, classes), load_denoiser(run)(x, sigma, classes))


@pytest.mark.parametrize("form", ["hdit", "k-diffusion"])
def test_an_export_has_the_sampling_defaults_of_its_run(run, tmp_path, form):
    found = {"guidance": 2.0, "sampler": "heun", "churn": {"amount": 0.5}}
    write_defaults(run, "model", found, "a sweep")
    result = exported(run, tmp_path / "out", format=form)
    of_run, of_export = (open_denoiser(path)[0] for path in (run, tmp_path / "out"))
    assert of_export.recipe.sample == of_run.recipe.sample and of_run.recipe.sample.churn.amount == 0.5
    assert result["weights"] == "model"
    assert torch.equal(of_export.network.patch_in.proj.weight, of_run.network.patch_in.proj.weight)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "2 steps of `heun`" in card and "guidance scale 2." in card
    assert all(f"| {name} |" in card or name in ("README.md", "samples.png") for name in result["files"])

    images_u8, classes = collect(generate(of_run, range(3)))
    expected = sheet(images_u8, [str(number) for number in classes])
    assert (np.asarray(Image.open(tmp_path / "out" / "samples.png")) == expected).all()
    assert exported(run, tmp_path / "ema", weights="ema", num_samples=0)["weights"] == "ema"


def test_the_card_describes_training_up_to_its_checkpoint(run, tmp_path):
    exported(run, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    for line in ("| images seen | 40 |", "| steps | 5 |", f"| data set (manifest hash) | {'ab' * 32} |"):
        assert line in text
    assert f"| final loss | {(9.0 + 0.5 + 0.25) / 3:.5g} |" in text and "| fid5k | 12.5 |" in text
    assert "| time | 2.0 hours on 2 ranks |" in text
    front = text.split("---\n")[1]
    assert re.search(r"^license: other$", front, re.MULTILINE) and "- class-conditional" in front
    older = run / "checkpoints" / "step-000000003"
    exported(older, tmp_path / "older", num_samples=0)
    text = (tmp_path / "older" / "README.md").read_text()
    assert "| steps | 3 |" in text and "| final loss | 9 |" in text and "No scores were measured" in text


def test_the_card_names_the_data_sets_of_the_hub_that_are_given(run, tmp_path):
    exported(run, tmp_path / "out", num_samples=0, datasets=("me/faces", "mnist"))
    front = (tmp_path / "out" / "README.md").read_text().split("---\n")[1]
    assert "datasets:\n- me/faces\n- mnist\n" in front


@pytest.mark.parametrize("form", ["hdit", "k-diffusion"])
def test_an_export_names_its_run_step_and_weights_wherever_it_is_used(run, tmp_path, form):
    result = exported(run, tmp_path / "out", weights="model", format=form, num_samples=0)
    assert (result["run"], result["step"], result["weights"]) == ("run", 5, "model")
    assert {"| run | run |", "| weights | model |"} <= set((tmp_path / "out" / "README.md").read_text().splitlines())
    denoiser, defaults = open_denoiser(tmp_path / "out")
    assert denoiser.source == ModelSource("run", 5, 40, "model")
    assert "weights=ema" not in (defaults.note(None) or "")
    with pytest.raises(UsageError, match="out: has the weights model, not ema; leave out --weights"):
        open_denoiser(tmp_path / "out", "ema")
    again = exported(tmp_path / "out", tmp_path / "again", num_samples=0)
    assert (again["run"], again["weights"]) == ("run", "model")


def test_the_card_of_a_weights_file_claims_nothing_about_training(recipe, state, tmp_path):
    write_tensors(tmp_path / "x.safetensors", state, recipe.model_dump_json())
    exported(tmp_path / "x.safetensors", tmp_path / "out", num_samples=0)
    assert "Unknown apart from the recipe" in (tmp_path / "out" / "README.md").read_text()


def test_the_same_export_has_the_same_bytes(run, tmp_path):
    for name in ("a", "b"):
        exported(run, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_existing_files_are_not_replaced(run, tmp_path, kind):
    target = tmp_path / "there"
    {"folder": target.mkdir, "file": target.touch, "link": lambda: target.symlink_to(tmp_path / "x")}[kind]()
    with pytest.raises(UsageError, match=r"--out .*there: already exists and is never replaced; choose another name"):
        exported(run, target)
    assert not (tmp_path / "x").exists()


def test_a_failed_export_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(path, denoiser):
        path.touch()
        raise CheckpointError("off")

    monkeypatch.setattr(export_module, "write_program", fail)
    with pytest.raises(CheckpointError, match="off"):
        exported(run, tmp_path / "out", program=True, num_samples=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_the_samples_of_images_that_are_no_pictures_show_their_first_channels(changed, tmp_path, channels):
    recipe = changed({"model.channels": channels, "sample.steps": 2})
    write_tensors(tmp_path / "x.safetensors", random_state(recipe), recipe.model_dump_json())
    exported(tmp_path / "x.safetensors", tmp_path / "out")
    assert Image.open(tmp_path / "out" / "samples.png").mode == ("L" if channels == 2 else "RGB")


@pytest.mark.parametrize("form", ["hdit", "k-diffusion"])
def test_weights_that_a_source_does_not_have_are_refused(run, tmp_path, form):
    exported(run, tmp_path / "out", num_samples=0)
    with pytest.raises(UsageError, match="out: has the weights ema, not model; leave out --weights"):
        exported(tmp_path / "out", tmp_path / "raw", format=form, weights="model", num_samples=0)
    assert not (tmp_path / "raw").exists()


def test_an_export_of_an_export_keeps_the_names_of_the_classes(run, tmp_path):
    exported(run, tmp_path / "out", num_samples=0)
    (tmp_path / "out" / "classes.json").write_text('["ant", "bee", "cat"]')
    exported(tmp_path / "out", tmp_path / "again", dtype="bfloat16", num_samples=0)
    assert json.loads((tmp_path / "again" / "classes.json").read_text()) == ["ant", "bee", "cat"]
    assert "| 1 | bee |" in (tmp_path / "again" / "README.md").read_text()
