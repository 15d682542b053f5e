"""A network as a folder for others: loads back, says what it is, hides what is nobody's business; and its program."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from hdit_core.checkpoint import load_denoiser
from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.diffusion.precondition import ModelSource
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.generate.export import export as export_module
from hdit_core.generate.export import torch_program as program_module
from hdit_core.generate.export.export import ExportSettings, export
from hdit_core.generate.generate import collect, generate
from hdit_core.generate.settings import open_denoiser, write_defaults
from hdit_core.images import sheet
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.randomness import stream
from hdit_core.recipe.read import check_recipe
from tests.conftest import TINY
from tests.generate.conditional import write_network


@pytest.fixture
def recipe(changed, tmp_path):
    return changed({"data.path": str(tmp_path / "secret" / "faces"), "sample.steps": 2})


def random_state(recipe):
    """Random weights everywhere."""
    network = HourglassTransformer(recipe.model)
    for name, tensor in network.state_dict().items():
        values = torch.from_numpy(stream(0, name, 0).standard_normal(tensor.shape, "float32") * 0.2)
        tensor.copy_(values.abs() if "scale" in name else values)
    return network.state_dict()


@pytest.fixture
def state(recipe):
    return random_state(recipe)


@pytest.fixture
def run(recipe, state, tmp_path):
    """A run of two checkpoints, with a log."""
    for step in (3, 5):
        parts = {"model": state, "ema": {name: tensor * 0.9 for name, tensor in state.items()}}
        saved = State(step=step, num_images=8 * step, data_hash="ab" * 32, elapsed_s=7200.0, world_size=2)
        save_checkpoint(tmp_path / "run", recipe, saved, parts)
    lines = [{"step": 1, "loss": 9.0}, {"step": 4, "loss": 0.5}, {"step": 5, "loss": 0.25}]
    text = "\n".join([*map(json.dumps, lines), "cut sho", "[1]", '{"step": 7, "loss": 99}', '{"step": "x"}'])
    (tmp_path / "run" / "log.jsonl").write_text(text)
    scores = [{"step": 5, "num_images": 40, "fid5k": 12.5}, {"step": 7, "num_images": 56, "fid5k": 3.0}]
    (tmp_path / "run" / "scores.jsonl").write_text("\n".join(map(json.dumps, scores)) + "\n")
    return tmp_path / "run"


def exported(run, to, **settings):
    return export(run, to, ExportSettings(**{"num_samples": 3, "device": "cpu"} | settings))


def test_what_was_exported_loads_back_to_the_averaged_weights(run, state, tmp_path):
    result = exported(run, tmp_path / "out")
    found = load_denoiser(tmp_path / "out").network.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name] * 0.9) for name in state)
    assert sorted(result["files"]) == ["README.md", "recipe.toml", "samples.png", "weights.safetensors"]
    raw = exported(run, tmp_path / "raw", weights="model", num_samples=0)
    assert torch.equal(load_denoiser(tmp_path / "raw").network.patch_in.proj.weight, state["patch_in.proj.weight"])
    assert "samples.png" not in raw["files"]


def test_in_bfloat16_only_what_may_be_rounded_is(run, tmp_path):
    exported(run, tmp_path / "out", dtype="bfloat16")
    found = load_denoiser(tmp_path / "out").network.state_dict()
    types = {name.rpartition(".")[2] == "frequencies": tensor.dtype for name, tensor in found.items()}
    assert types == {True: torch.float32, False: torch.bfloat16}
    wide = load_denoiser(run)
    x, sigma, classes = torch.randn(2, 3, 16, 24), torch.tensor([0.5, 3.0]), torch.tensor([0, 2])
    near = load_denoiser(tmp_path / "out", dtype=torch.float32)(x, sigma, classes)
    assert 0 < (near - wide(x, sigma, classes)).abs().max() < 0.2


def test_k_diffusions_format_is_read_back_too(run, tmp_path):
    exported(run, tmp_path / "out", format="k-diffusion", num_samples=0)
    with safe_open(tmp_path / "out" / "weights.safetensors", "pt") as file:
        assert "config" in file.metadata() and "hdit" not in file.metadata()
    x, sigma, classes = torch.randn(2, 3, 16, 24), torch.tensor([0.5, 3.0]), torch.tensor([0, 2])
    assert torch.equal(load_denoiser(tmp_path / "out")(x, sigma, classes), load_denoiser(run)(x, sigma, classes))


@pytest.mark.parametrize("form", ["hdit", "k-diffusion"])
def test_an_export_draws_as_its_run_does_by_default(run, tmp_path, form):
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


def test_the_card_tells_the_record_of_the_weights_and_not_of_later_steps(run, tmp_path):
    exported(run, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    for line in ("| images seen | 40 |", "| steps | 5 |", f"| data set (manifest hash) | {'ab' * 32} |"):
        assert line in text
    assert f"| final loss | {(9.0 + 0.5 + 0.25) / 3:.5g} |" in text and "| fid5k | 12.5 |" in text
    assert "| time | 2.00 hours on 2 ranks |" in text
    front = text.split("---\n")[1]
    assert re.search(r"^license: other$", front, re.MULTILINE) and "- class-conditional" in front
    older = run / "checkpoints" / "step-000000003"
    exported(older, tmp_path / "older", num_samples=0)
    text = (tmp_path / "older" / "README.md").read_text()
    assert "| steps | 3 |" in text and "| final loss | 9 |" in text and "No scores were measured" in text


def contents_of(folder):
    """Yield the name and the bytes of each file, and of what lies packed in it."""
    for path in folder.iterdir():
        yield path.name, path.read_bytes()
        if path.suffix == ".pt2":
            with zipfile.ZipFile(path) as archive:
                yield from ((name, archive.read(name)) for name in archive.namelist())


def test_nothing_that_is_exported_names_a_folder_of_this_machine(with_program):
    secrets = [str(with_program.parent).encode(), b"secret", b"/hdit_core/"]
    found = [(name, secret) for name, content in contents_of(with_program) for secret in secrets if secret in content]
    assert not found
    recipe = tomllib.loads((with_program / "recipe.toml").read_text())
    assert recipe["data"]["path"] == "faces"


@pytest.mark.parametrize("form", ["hdit", "k-diffusion"])
def test_an_export_names_its_run_step_and_weights_wherever_it_is_used(run, tmp_path, form):
    result = exported(run, tmp_path / "out", weights="model", format=form, num_samples=0)
    assert (result["run"], result["step"], result["weights"]) == ("run", "5", "model")
    assert {"| run | run |", "| weights | model |"} <= set((tmp_path / "out" / "README.md").read_text().splitlines())
    denoiser, defaults = open_denoiser(tmp_path / "out")
    assert denoiser.source == ModelSource("run", 5, 40, "model")
    assert "weights=ema" not in (defaults.note(None) or "")
    with pytest.raises(UsageError, match="out: has the weights model, not ema; leave out --weights"):
        open_denoiser(tmp_path / "out", "ema")
    again = exported(tmp_path / "out", tmp_path / "again", num_samples=0)
    assert (again["run"], again["weights"]) == ("run", "model")


def test_of_a_file_of_weights_nothing_is_claimed(recipe, state, tmp_path):
    write_tensors(tmp_path / "x.safetensors", state, recipe.model_dump_json())
    exported(tmp_path / "x.safetensors", tmp_path / "out", num_samples=0)
    assert "Unknown apart from the recipe" in (tmp_path / "out" / "README.md").read_text()


def test_the_same_export_has_the_same_bytes(run, tmp_path):
    for name in ("a", "b"):
        exported(run, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_is_not_replaced(run, tmp_path, kind):
    target = tmp_path / "there"
    {"folder": target.mkdir, "file": target.touch, "link": lambda: target.symlink_to(tmp_path / "x")}[kind]()
    with pytest.raises(UsageError, match="there: already exists and is never replaced; choose another name with --to"):
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


def test_a_program_with_other_answers_is_refused(run, tmp_path, monkeypatch):
    denoiser = load_denoiser(run)

    class Other:
        def module(self):
            return lambda x, sigma, class_ids: denoiser(x, sigma, class_ids) * 1.01

    monkeypatch.setattr(torch.export, "load", lambda path: Other())
    with pytest.raises(CheckpointError, match=r"the program's outputs differ by .*; expected equality up to rounding"):
        program_module.check(tmp_path / "x.pt2", denoiser)


def child(code, folder):
    """Run lines in a process of their own: while torch traces, the checks of shapes in this one would pin the batch."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True, env=environment, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def of_shifted_windows(recipe):
    """Return the recipe with shifted windows, and without classes."""
    outer = recipe.model.levels[0].model_copy(update={"attention": "shifted-window", "window_size": 4})
    model = recipe.model.model_copy(update={"levels": (outer, *recipe.model.levels[1:]), "num_classes": 0})
    return recipe.model_copy(update={"model": model})


@pytest.fixture(scope="module")
def with_program(tmp_path_factory):
    """What the command exports with a program; beside it, by how much that of a network of another kind is off."""
    folder = tmp_path_factory.mktemp("program")
    recipe = check_recipe(TINY | {"data": TINY["data"] | {"path": str(folder / "secret" / "faces")}}, "test")
    parts = {"model": {}, "ema": random_state(recipe)}
    save_checkpoint(folder / "run", recipe, State(step=3, num_images=24, data_hash="ab" * 32), parts)
    other = of_shifted_windows(recipe)
    write_tensors(folder / "x.safetensors", random_state(other), other.model_dump_json())
    command = ["export", str(folder / "run"), "--to", str(folder / "out"), "--program", "--n", "2", "--device", "cpu"]
    code = (
        f"from hdit_cli.main import main; assert main({command}) == 0\n"
        "from pathlib import Path; from hdit_core.checkpoint import load_denoiser\n"
        "from hdit_core.generate.export.torch_program import write_program\n"
        "error = write_program(Path('x.pt2'), load_denoiser('x.safetensors')).relative_error\n"
        "Path('error').write_text(str(error))"
    )
    child(code, folder)
    return folder / "out"


def test_the_program_runs_where_there_is_no_hdit_in_batches_of_any_size(with_program, tmp_path):
    denoiser = load_denoiser(with_program)
    x, sigma, classes = torch.randn(7, 3, 16, 24), torch.rand(7) + 0.1, torch.arange(7) % 4
    torch.save([x, sigma, classes, denoiser(x, sigma, classes)], tmp_path / "expected.pt")
    code = (
        "import sys, torch; sys.modules['hdit_core'] = None\n"
        "x, sigma, classes, expected = torch.load('expected.pt')\n"
        f"program = torch.export.load({str(with_program / 'program.pt2')!r}).module()\n"
        "for n in (1, 7):\n"
        "    found = program(x=x[:n], sigma=sigma[:n], class_ids=classes[:n])\n"
        "    print((found - expected[:n]).abs().max().item())"
    )
    errors = [float(line) for line in child(code, tmp_path).split()]
    assert len(errors) == 2 and max(errors) < 1e-4
    assert "| program.pt2 | D(x, sigma, class) for torch.export.load" in (with_program / "README.md").read_text()


def test_the_program_holds_no_pickle(with_program):
    starts = {name: content[:2] for name, content in contents_of(with_program) if not name.endswith(".pt2")}
    assert len(starts) > 20
    assert not [name for name, start in starts.items() if start[:1] == b"\x80" or start == b"PK"]


def test_the_program_of_a_network_of_shifted_windows_without_classes_answers_as_it_does(with_program):
    assert float((with_program.parent / "error").read_text()) < 1e-5


CONDITIONAL = {  # what the network takes: its recipe, its task, its command, and its inputs
    "condition": ({"condition_channels": 2}, "image-to-image", "hdit restore IMAGES --ckpt FOLDER", (2, 16, 24)),
    "mapping_cond": (
        {"condition_channels": 0, "mapping_cond_dim": 5},
        "unconditional-image-generation",
        "hdit sample --ckpt FOLDER --vector VECTORS.npy",
        (5,),
    ),
}


@pytest.mark.parametrize("takes", CONDITIONAL)
def test_a_conditional_network_is_exported_with_its_program_and_without_samples(tmp_path, takes):
    model, task, command, shape = CONDITIONAL[takes]
    write_network(tmp_path / "net", **model)
    arguments = ["export", "net", "--to", "to", "--program", "--device", "cpu"]
    child(f"from hdit_cli.main import main; assert main({arguments}) == 0", tmp_path)
    card = (tmp_path / "to" / "README.md").read_text()
    assert f"pipeline_tag: {task}\n" in card and command in card and "![samples]" not in card
    x, sigma, given = torch.randn(2, 3, 16, 24), torch.tensor([0.5, 2.0]), torch.rand(2, *shape)
    expected = load_denoiser(tmp_path / "to")(x, sigma, **{takes: given})
    program = torch.export.load(tmp_path / "to" / "program.pt2").module()
    torch.testing.assert_close(program(x=x, sigma=sigma, **{takes: given}), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(program(x=x, sigma=sigma, **{takes: 1 - given}), expected, atol=1e-3)
