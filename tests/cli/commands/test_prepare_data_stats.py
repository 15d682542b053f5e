"""`hdit prepare-data --stats`: a data set with its statistics next to the shards."""

import json

import numpy as np
import pytest
from PIL import Image

from hdit_cli.main import main


@pytest.fixture
def photos(tmp_path):
    """Six pictures of noise."""
    (tmp_path / "photos").mkdir()
    numbers = np.random.default_rng(0)
    for index in range(6):
        pixels = numbers.integers(0, 256, (20, 28, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    return tmp_path / "photos"


def prepare(photos, *options):
    out = photos.parent / "data"
    command = ["prepare-data", str(photos), "--out", str(out), "--size", "16x24", "--workers", "0", *options]
    return main(command), out / "statistics-efficientnet-lite0.npz"


def test_the_statistics_serve_as_a_reference_and_are_computed_once(photos, capsys):
    code, path = prepare(photos, "--stats", "efficientnet-lite0", "--json")
    out, err = capsys.readouterr()
    assert code == 0 and json.loads(out)["images"] == 6
    assert f"statistics: {path}; compare with hdit eval-fid IMAGES --ref {path}" in err
    made_at = path.stat().st_mtime_ns
    assert prepare(photos, "--stats", "efficientnet-lite0")[0] == 0 and path.stat().st_mtime_ns == made_at
    assert main(["data", "verify", str(path.parent)]) == 0

    capsys.readouterr()
    scored = ["eval-fid", str(path.parent), "--ref", str(path), "--extractor", "efficientnet-lite0", "--device", "cpu"]
    assert main([*scored, "--allow-small-n", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] < 1e-6


def test_an_unknown_extractor_is_refused_before_an_image_is_prepared(photos, capsys):
    code, path = prepare(photos, "--stats", "efficientnet")
    assert code == 2 and "did you mean 'efficientnet-lite0'?" in capsys.readouterr().err
    assert not path.parent.exists()
