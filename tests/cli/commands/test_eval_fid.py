"""`hdit eval-fid` from the shell: real features offline, results on stdout, notes on stderr, exit codes."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from torch.distributed.run import get_args_parser

from hdit_cli.main import main
from hdit_core.evaluate.extractors.extractor import EXTRACTORS

OFFLINE = ["--extractor", "efficientnet-lite0", "--device", "cpu"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of five pictures: noise, and the same noise made dark."""
    numbers = np.random.default_rng(0).integers(0, 256, (5, 20, 28, 3))
    made = []
    for name, share in (("light", 1.0), ("dark", 0.3)):
        folder = tmp_path_factory.mktemp(name)
        for index, pixels in enumerate(numbers):
            Image.fromarray((pixels * share).astype(np.uint8)).save(folder / f"{index}.png")
        made.append(str(folder))
    return made


def test_the_offline_distance_is_printed_by_its_own_name(folders, capsys):
    assert main(["eval-fid", folders[0], "--ref", folders[1], *OFFLINE, "--allow-small-n"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("fd-efficientnet-lite0-5 ") and "kd-efficientnet-lite0" in out
    assert "fid" not in out.replace("clean-fid", "") and "FID" not in out
    assert "comparable only at equal numbers of images" in err


def test_progress_shows_images_per_second_and_does_not_affect_the_result(folders, capsys):
    assert main(["eval-fid", folders[0], "--ref", folders[1], *OFFLINE, "--allow-small-n"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^hdit: score: 10 of 10 images, [0-9][0-9.e+,]* images/s, 0:00 left$", err, re.MULTILINE)
    assert "images/s" not in out


def test_json_is_one_document_with_provenance(folders, capsys):
    assert main(["eval-fid", folders[0], "--ref", folders[1], *OFFLINE, "--allow-small-n", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "fd-efficientnet-lite0" and found["value"] > 0
    assert found["passport"]["extractor"]["name"] == "efficientnet-lite0"
    assert "fid" not in found


def test_statistics_are_saved_and_serve_as_a_reference(folders, capsys, tmp_path):
    reference = str(tmp_path / "ref.npz")
    options = [*OFFLINE, "--allow-small-n", "--json"]
    assert main(["eval-fid", folders[1], "--save-stats", reference, *options]) == 0
    assert json.loads(capsys.readouterr().out)["saved"] == reference
    assert main(["eval-fid", folders[1], "--ref", reference, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["value"] < 1e-6 and found["passport"]["reference"]["kind"] == "saved statistics"


@pytest.mark.parametrize("option", [["--autoguidance", "3.0"], ["--guide-weights", "model"]])
def test_options_of_a_guide_need_one_and_a_guide_needs_a_model(folders, capsys, option):
    assert main(["eval-fid", "--ckpt", "run", "--ref", folders[1], *option, *OFFLINE]) == 2
    assert f"{' '.join(option)}: needs a weaker model; give one with --guide CKPT" in capsys.readouterr().err
    assert main(["eval-fid", folders[0], "--ref", folders[1], "--guide", "run", *OFFLINE]) == 2
    assert "--guide run: applies to --ckpt" in capsys.readouterr().err


def test_stats_saves_a_reference_and_compare_compares_results(folders, capsys, tmp_path):
    reference = str(tmp_path / "ref.npz")
    options = [*OFFLINE, "--allow-small-n"]
    assert main(["eval-fid", "stats", folders[1], "--out", reference, *options]) == 0
    assert capsys.readouterr().out.startswith(f"saved      {reference}")
    results = [str(tmp_path / name) for name in ("a.json", "b.json", "c.json")]
    for path, more in zip(results, ([folders[0]], [folders[1]], [folders[0], "--n", "4"]), strict=True):
        assert main(["eval-fid", *more, "--ref", reference, *options, "--json"]) == 0
        (tmp_path / path).write_text(capsys.readouterr().out)

    assert main(["eval-fid", "compare", *results[:2]]) == 0
    out, err = capsys.readouterr()
    assert "fd-efficientnet-lite0" in out and "images.path" in out and err == ""
    assert main(["eval-fid", "compare", results[0], results[2]]) == 2
    assert "are not comparable: images.n: 5 and 4" in capsys.readouterr().err
    assert main(["eval-fid", "compare", results[0], results[2], "--force", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["comparable"] is False and "not comparable: images.n: 5 and 4" in err


@pytest.mark.parametrize("reference", ["nope.npz", "nope", "nope.zip"])
def test_a_missing_reference_is_a_usage_error(folders, capsys, reference):
    assert main(["eval-fid", folders[0], "--ref", reference, *OFFLINE]) == 2
    assert f"{reference}: no such" in capsys.readouterr().err


@pytest.mark.parametrize("subcommand", ["stats", "compare"])
def test_a_subcommands_help_has_an_example(subcommand, capsys):
    assert main(["eval-fid", subcommand, "--help"]) == 0
    assert f"Example:\n    hdit eval-fid {subcommand} " in capsys.readouterr().out


def test_too_few_images_are_a_usage_error(folders, capsys):
    assert main(["eval-fid", folders[0], "--ref", folders[1], *OFFLINE]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "5 images, too few for the 1280 features of efficientnet-lite0" in err


def test_the_alternative_name_of_the_number_of_images_passes_torchrun(folders, capsys):
    for command in (["eval-fid", "--ckpt", "runs/faces"], ["sweep", "runs/faces", "--ref", "faces.npz"]):
        words = [*command, "--count", "9"]
        assert get_args_parser().parse_args(["-m", "hdit_cli", *words]).training_script_args == words
    assert main(["eval-fid", folders[0], "--ref", folders[1], *OFFLINE, "--count", "9"]) == 3
    assert "--count 9: it has only 5 images" in capsys.readouterr().err


def test_missing_weights_without_internet_access_exit_with_1_and_a_hint(folders, capsys, monkeypatch, tmp_path):
    def no_network(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["eval-fid", folders[0], "--ref", folders[1], "--allow-small-n"]) == 1
    err = capsys.readouterr().err
    assert "cannot be downloaded to" in err and f"{tmp_path}/hdit/inception-2015-12-05.pt" in err
    assert "Network is unreachable" in err and "--extractor-weights PATH" in err and "efficientnet-lite0" in err
    assert "Traceback" not in err


def test_missing_weights_by_path_are_a_usage_error(folders, capsys):
    assert main(["eval-fid", folders[0], "--ref", folders[1], "--inception-weights", "nowhere.pt"]) == 2
    assert "nowhere.pt: no such weights file" in capsys.readouterr().err


def test_a_broken_image_is_a_data_error(folders, capsys, tmp_path):
    (tmp_path / "0.png").write_text("text")
    (tmp_path / "1.png").write_text("text")
    assert main(["eval-fid", str(tmp_path), "--ref", folders[1], *OFFLINE, "--allow-small-n"]) == 3
    assert "0.png: cannot be scored" in capsys.readouterr().err


def test_help_names_every_extractor_and_imports_nothing_heavy():
    code = (
        "import sys; from hdit_cli.main import main; main(['eval-fid', '--help']); "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    environment = {**os.environ, "COLUMNS": "200"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert all(name in run.stdout for name in EXTRACTORS)


def test_pairs_are_scored_with_and_without_features(folders, capsys):
    assert main(["eval-fid", folders[0], "--ref", folders[1], "--paired", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("psnr ") and " dB\n" in out and "matched by name" in out and "extractor" not in out
    assert "5 of 5 images" in err
    assert main(["eval-fid", folders[0], "--ref", folders[1], "--paired", *OFFLINE, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["estimates"]) == ["psnr", "ssim", "cosine-distance-efficientnet-lite0"]
    assert found["passport"]["settings"]["matched_by"] == "name" and found["passport"]["images"]["fingerprint"]
