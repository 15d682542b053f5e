"""The program of an exported network: runs without hdit, contains no pickle, and computes the same as the network."""

import copy
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch

from hdit_core.checkpoint import load_denoiser
from hdit_core.checkpoint.safetensors_file import write_tensors
from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.errors import CheckpointError
from hdit_core.generate.export import torch_program as program_module
from hdit_core.recipe.read import check_recipe
from tests.conftest import TINY
from tests.forked_command import run_hdit
from tests.generate.conditional import write_network
from tests.generate.export.exporting import random_state


def contents_of(folder):
    """Yield the name and the bytes of each file, including members of archives."""
    for path in folder.iterdir():
        yield path.name, path.read_bytes()
        if path.suffix == ".pt2":
            with zipfile.ZipFile(path) as archive:
                yield from ((name, archive.read(name)) for name in archive.namelist())


@pytest.mark.slow
def test_exported_files_name_no_folder_of_this_machine(with_program):
    secrets = [str(with_program.parent).encode(), b"secret", b"/hdit_core/"]
    found = [(name, secret) for name, content in contents_of(with_program) for secret in secrets if secret in content]
    assert not found
    recipe = tomllib.loads((with_program / "recipe.toml").read_text())
    assert recipe["data"]["path"] == "faces"


def test_a_program_with_different_outputs_is_refused(run, tmp_path, monkeypatch):
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
    """What the command exports with a program."""
    folder = tmp_path_factory.mktemp("program")
    tables, secret = copy.deepcopy(TINY), folder / "secret"
    tables["data"]["path"] = str(secret / "faces")
    tables["train"]["init_from"] = str(secret / "first")
    tables["evaluate"] = {"reference": str(secret / "held-out")}
    recipe = check_recipe(tables, "test")
    parts = {"model": {}, "ema": random_state(recipe)}
    save_checkpoint(folder / "run", recipe, State(step=3, num_images=24, data_hash="ab" * 32), parts)
    command = ["export", str(folder / "run"), "--to", str(folder / "out"), "--program", "--n", "2", "--device", "cpu"]
    done = run_hdit(*command, environment=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
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
    assert (
        "| program.pt2 | D(x=..., sigma=..., class_ids=...) for torch.export.load"
        in (with_program / "README.md").read_text()
    )


def test_the_program_contains_no_pickle(with_program):
    starts = {name: content[:2] for name, content in contents_of(with_program) if not name.endswith(".pt2")}
    assert len(starts) > 20
    assert not [name for name, start in starts.items() if start[:1] == b"\x80" or start == b"PK"]


@pytest.mark.slow
def test_the_program_of_an_unconditional_shifted_window_network_has_its_outputs(tmp_path):
    recipe = of_shifted_windows(check_recipe(TINY, "test"))
    write_tensors(tmp_path / "x.safetensors", random_state(recipe), recipe.model_dump_json())
    code = (
        "from pathlib import Path; from hdit_core.checkpoint import load_denoiser\n"
        "from hdit_core.generate.export.torch_program import write_program\n"
        "print(write_program(Path('x.pt2'), load_denoiser('x.safetensors')).relative_error)"
    )
    assert float(child(code, tmp_path)) < 1e-5


CONDITIONAL = {  # what the network takes: its recipe, its task, its command, and its inputs
    "condition": ({"condition_channels": 2}, "image-to-image", "hdit restore IMAGES --ckpt FOLDER", (2, 16, 24)),
    "mapping_cond": (
        {"condition_channels": 0, "mapping_cond_dim": 5},
        "unconditional-image-generation",
        "hdit sample --ckpt FOLDER --vectors VECTORS.npy",
        (5,),
    ),
}


@pytest.mark.slow
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
