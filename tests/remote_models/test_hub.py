"""Models on the hub: fetched once, verified, and used from the cache; against a server on this machine."""

import os
import re
from pathlib import Path

import pytest

from hdit_core import remote_models
from hdit_core.errors import CheckpointError
from hdit_core.recipe.write import recipe_toml
from hdit_core.remote_models import remote_address
from tests.compiled import share_compiled
from tests.forked_command import run_hdit
from tests.hub_server import HubServer


@pytest.fixture
def hub():
    """A hub with a repository me/faces."""
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    server = HubServer()
    yield server
    server.close()


def hdit(tmp_path, *arguments, **environment):
    """Run hdit in a process of its own, with an empty cache below tmp_path; return its exit code and stderr."""
    share_compiled(tmp_path / "cache")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    home = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}
    done = run_hdit(*arguments, environment=kept | home | environment)
    return done.returncode, done.stderr.decode()


def cached(tmp_path):
    return {path.name for path in (tmp_path / "cache" / "hdit" / "models").rglob("*.safetensors")}


def sample(tmp_path, address, out="samples", **environment):
    return hdit(tmp_path, "sample", "--ckpt", address, "--n", 1, "--out", tmp_path / out, **environment)


def picture(folder):
    """Return the bytes of the only sample in a folder."""
    (path,) = (path for path in folder.rglob("*.png") if not path.name.endswith("grid.png"))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("hf://me/faces", "hf://me/faces"),
        (Path("hf://me/faces@v1/step"), "hf://me/faces@v1/step"),
        (Path("s3://bucket/run/"), "s3://bucket/run"),
        (Path("https://host/weights.safetensors"), "https://host/weights.safetensors"),
        ("runs/hf", None),
        ("ftp://host/file", None),
        ("http://host/weights.safetensors", None),  # without TLS
        ("file:///etc/passwd", None),
    ],
)
def test_addresses_are_distinguished_from_paths(path, address):
    assert remote_address(path) == address


@pytest.mark.slow
def test_a_model_of_the_hub_is_fetched_once_and_used_offline(tmp_path, exported, hub):
    hub.repositories["me/faces"] = {path.name: path.read_bytes() for path in exported.iterdir()}
    hub.repositories["me/faces"]["evil.py"] = b"raise SystemExit(99)"
    code, messages = sample(tmp_path, "hf://me/faces", HF_ENDPOINT=hub.address)
    assert code == 0, messages
    assert "fetching hf://me/faces" in messages
    fetched = [request for request in hub.requests if request.endswith("weights.safetensors") and "GET" in request]
    assert len(fetched) == 1
    assert not any("evil.py" in request for request in hub.requests)
    code, messages = sample(tmp_path, "hf://me/faces", "again", HF_ENDPOINT=hub.address)
    assert code == 0
    assert "fetching" not in messages
    hub.close()
    code, messages = sample(tmp_path, "hf://me/faces", "offline", HF_ENDPOINT=hub.address)
    assert code == 0, messages
    assert "cannot be reached; the copy in the cache is used" in messages
    pictures = {picture(tmp_path / name) for name in ("samples", "again", "offline")}
    assert len(pictures) == 1


@pytest.mark.slow
def test_a_guide_and_the_initial_weights_of_a_run_are_fetched_from_the_hub(tmp_path, run, exported, hub, trained):
    hub.repositories["me/faces"] = {path.name: path.read_bytes() for path in exported.iterdir()}
    guide = ("--guide", "hf://me/faces", "--autoguidance", 2, "--n", 1, "--out", tmp_path / "samples")
    code, messages = hdit(tmp_path, "sample", "--ckpt", run, *guide, HF_ENDPOINT=hub.address)
    assert code == 0 and "fetching hf://me/faces" in messages, messages
    (tmp_path / "tiny.toml").write_text(recipe_toml(trained({"train.init_from": "hf://me/faces"})))
    code, messages = hdit(tmp_path, "train", tmp_path / "tiny.toml", "--dry-run", HF_ENDPOINT=hub.address)
    assert code == 0 and re.search(r"initial weights: \d+ tensors of hf://me/faces", messages), messages
    assert "fetching" not in messages


def damage(tmp_path):
    """Flip a bit of the weights in the cache, and return their file."""
    [path] = (tmp_path / "cache" / "hdit" / "models").rglob("weights.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.slow
def test_a_copy_that_was_damaged_in_the_cache_is_fetched_again_once(tmp_path, exported, hub):
    hub.repositories["me/faces"] = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert sample(tmp_path, "hf://me/faces", HF_ENDPOINT=hub.address)[0] == 0
    path = damage(tmp_path)
    code, messages = sample(tmp_path, "hf://me/faces", "again", HF_ENDPOINT=hub.address)
    assert code == 0, messages
    assert messages.count(f"{path}: damaged since it was fetched; hf://me/faces is fetched again\n") == 1
    assert picture(tmp_path / "samples") == picture(tmp_path / "again")
    fetched = [request for request in hub.requests if request.startswith("GET") and request.endswith(path.name)]
    assert len(fetched) == 2


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True], ids=["changed", "lost"])
def test_without_network_a_damaged_copy_is_refused_by_its_path(tmp_path, exported, hub, lost):
    hub.repositories["me/faces"] = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert sample(tmp_path, "hf://me/faces", HF_ENDPOINT=hub.address)[0] == 0
    path = damage(tmp_path)
    if lost:
        path.unlink()
    hub.close()
    code, messages = sample(tmp_path, "hf://me/faces", "again", HF_ENDPOINT=hub.address)
    assert (code, messages.count("\n")) == (4, 1), messages
    assert f"{path}: damaged since it was fetched, and hf://me/faces cannot be reached (" in messages


def test_contents_changed_in_transit_are_refused_and_not_cached(tmp_path, exported, hub):
    hub.repositories["me/faces"] = {path.name: path.read_bytes() for path in exported.iterdir()}
    hub.damaged = True
    code, messages = sample(tmp_path, "hf://me/faces", HF_ENDPOINT=hub.address)
    assert code == 4
    assert "weights.safetensors arrived as" in messages
    assert "Traceback" not in messages
    assert cached(tmp_path) == set()


def test_a_repository_that_is_missing_or_holds_no_model_is_one_line(tmp_path, hub):
    code, messages = sample(tmp_path, "hf://me/nothing", HF_ENDPOINT=hub.address)
    assert (code, messages.count("\n")) == (4, 1)
    assert "hf://me/nothing: not found; for a private or gated repository, log in" in messages
    hub.repositories["me/other"] = {"pytorch_model.bin": b"PK"}
    code, messages = sample(tmp_path, "hf://me/other", HF_ENDPOINT=hub.address)
    assert (code, messages.count("\n")) == (4, 1)
    assert "hf://me/other: neither an export (weights.safetensors) nor a run or a checkpoint" in messages


def test_a_model_larger_than_the_cache_is_refused(tmp_path, exported, hub):
    hub.repositories["me/faces"] = {path.name: path.read_bytes() for path in exported.iterdir()}
    code, messages = sample(tmp_path, "hf://me/faces", HF_ENDPOINT=hub.address, HDIT_MODEL_CACHE_GB="0.000001")
    assert code == 4
    assert "raise the limit with HDIT_MODEL_CACHE_GB" in messages


@pytest.mark.slow
def test_an_export_is_uploaded_to_a_private_repository_and_comes_back(tmp_path, run, hub):
    code, messages = hdit(
        tmp_path, "export", run, "--to", "hf://me/faces", "--n", 1, HF_ENDPOINT=hub.address, HF_TOKEN="hf_not_a_token"
    )
    assert code == 0, messages
    assert hub.private == {"me/faces": True}
    assert {"weights.safetensors", "README.md", "recipe.toml", "samples.png"} <= set(hub.repositories["me/faces"])
    front = hub.repositories["me/faces"]["README.md"].decode().split("---")[1]
    assert "library_name: hdit" in front
    assert "pipeline_tag: unconditional-image-generation" in front
    code, messages = sample(tmp_path, "hf://me/faces", HF_ENDPOINT=hub.address)
    assert code == 0, messages
    sample(tmp_path, run, "local")
    assert picture(tmp_path / "local") == picture(tmp_path / "samples")


def test_an_upload_that_is_refused_is_one_line(tmp_path, run, hub):
    code, messages = hdit(tmp_path, "export", run, "--to", "hf://me/faces", "--n", 0, HF_ENDPOINT=hub.address + "1")
    assert code == 1
    assert "hf://me/faces: cannot be uploaded" in messages
    assert "Traceback" not in messages
    code, messages = hdit(tmp_path, "export", run, "--to", "s3://bucket/faces", HF_ENDPOINT=hub.address)
    assert code == 2
    assert "--out s3://bucket/faces: expected a folder, or hf://OWNER/NAME" in messages


def test_the_errors_of_httpx_mean_that_the_hub_cannot_be_reached_too():
    """Packages of the hub from 1.0 on use it, so that a copy in the cache is found without network."""
    httpx = pytest.importorskip("httpx")
    with pytest.raises(ConnectionError, match="refused"), remote_models._store_errors("hf://me/faces"):
        raise httpx.ConnectError("refused")


def test_a_limit_of_the_cache_that_is_no_number_removes_no_model(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HDIT_MODEL_CACHE_GB", "nan")
    with pytest.raises(CheckpointError, match="the model cache is limited to nan GB; raise the limit with HDIT_MODEL"):
        remote_models._make_room(tmp_path, 1, "hf://me/faces")
    assert (tmp_path / "model").exists()
