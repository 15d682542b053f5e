"""`hdit sample --compile`: the same images from compiled layers, only if requested or worthwhile."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hdit_cli.main import main
from hdit_core.model import compile as compiled
from hdit_core.model import cuda_graph
from hdit_core.train.run import train

# torch.compile cannot look through the check of shapes that is on in this process
CHILD = """
import sys
from functools import partial
from hdit_cli.main import main
from hdit_core.model import compile as compiled
compiled.compile_network = partial(compiled.compile_network, backend="eager")
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def run(trained, tmp_path):
    train(trained({"train.num_images": 8, "sample.steps": 2}), tmp_path / "run")
    return tmp_path / "run"


def command(run, out, *options):
    return [
        "sample",
        "--ckpt",
        str(run),
        "--n",
        "3",
        "--batch-size",
        "2",
        "--out",
        str(out),
        "--device",
        "cpu",
        *options,
    ]


def images(out):
    return np.stack([np.asarray(Image.open(path)).astype(int) for path in sorted(out.glob("0*.png"))])


@pytest.mark.slow
def test_compiled_layers_give_the_same_samples_within_one_level(run, tmp_path):
    assert main(command(run, tmp_path / "plain")) == 0
    child = [sys.executable, "-c", CHILD, *command(run, tmp_path / "compiled", "--compile")]
    done = subprocess.run(child, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    assert "compiling the network first; --no-compile skips that" in done.stderr
    found, plain = images(tmp_path / "compiled"), images(tmp_path / "plain")
    assert len(found) == 3 and abs(found - plain).max() <= 1


def test_on_a_cpu_model_and_guide_are_compiled_only_on_request(run, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(compiled, "compile_network", made.append)
    main(command(run, tmp_path / "plain"))
    main(command(run, tmp_path / "not", "--no-compile"))
    assert not made

    main(command(run, tmp_path / "compiled", "--compile", "--guide", str(run)))
    assert len(made) == len({id(network) for network in made}) == 2


def test_cuda_graphs_are_replayed_for_model_and_guide_and_refused_on_a_cpu(run, tmp_path, monkeypatch, capsys):
    assert main(command(run, tmp_path / "refused", "--cuda-graphs")) == 2
    expected = "--cuda-graphs: CUDA graphs need a CUDA device, the network is on cpu; leave it out"
    assert expected in capsys.readouterr().err

    made = []
    monkeypatch.setattr(cuda_graph, "use_cuda_graphs", made.append)
    assert main(command(run, tmp_path / "graphed", "--cuda-graphs", "--guide", str(run))) == 0
    assert len(made) == len({id(network) for network in made}) == 2
