"""DINOv2 from either kind of file gives the same features, and other files are refused."""

import pickle
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hdit_core.errors import CheckpointError, UsageError
from hdit_core.evaluate.extractors.extractor import open_extractor
from hdit_core.files import digest

transformers = pytest.importorskip("transformers")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 18, 27, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def network(importable_torchvision):
    """A DINOv2 of two blocks with random weights, made for 70 pixels, 5 patches a side."""
    config = transformers.Dinov2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=1, image_size=70, patch_size=14
    )
    torch.manual_seed(0)
    made = transformers.Dinov2Model(config).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


VERSION_5 = {
    "attention.query": "q_proj",
    "attention.key": "k_proj",
    "attention.value": "v_proj",
    "output.dense": "o_proj",
}


def state_of(network, version=4):
    """The weights under the names of Hugging Face's files, which are those of the modules of transformers 4 or of 5."""
    state = {}
    for name, tensor in network.state_dict().items():
        for file_part, module_part in VERSION_5.items():
            old, new = (file_part, module_part) if version == 5 else (module_part, file_part)
            name = name.replace(f".attention.{old}.", f".attention.{new}.")
        state[name] = tensor.clone()
    return state


def as_meta_names(state):
    """The same tensors under the names of torch hub's file, with query, key and value in one."""
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("encoder.layer.", "blocks.").replace("attention.output.dense", "attn.proj")
        name = name.replace("layer_scale1.lambda1", "ls1.gamma").replace("layer_scale2.lambda1", "ls2.gamma")
        name = name.replace("embeddings.patch_embeddings.projection", "patch_embed.proj").replace("layernorm", "norm")
        name = name.replace("embeddings.position_embeddings", "pos_embed").replace("embeddings.", "")
        if "attention." not in name:
            renamed[name] = tensor
    for block in range(2):
        for kind in ("weight", "bias"):
            parts = [f"encoder.layer.{block}.attention.attention.{part}.{kind}" for part in ("query", "key", "value")]
            renamed[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat([state[part] for part in parts])
    return renamed


@pytest.fixture
def weights(network, tmp_path):
    save_file(state_of(network), tmp_path / "dinov2.safetensors")
    return tmp_path / "dinov2.safetensors"


def features(extractor):
    return extractor.features([extractor.prepare(image) for image in IMAGES])


def test_features_are_the_class_token_at_224_pixels(network, weights):
    """With position embeddings resized to 16 patches a side by the factor 16.1 / 5, as Meta's code does."""
    extractor = open_extractor("dinov2", weights)
    prepared = torch.from_numpy(np.stack([extractor.prepare(image) for image in IMAGES])).permute(0, 3, 1, 2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (prepared / 255 - mean[:, None, None]) / std[:, None, None]
    positions = network.embeddings.position_embeddings
    grid = positions[:, 1:].reshape(1, 5, 5, 64).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, scale_factor=(16.1 / 5, 16.1 / 5), mode="bicubic")
    with torch.inference_mode():
        tokens = network.embeddings.patch_embeddings(pixels)
        tokens = torch.cat([network.embeddings.cls_token.expand(3, -1, -1), tokens], 1)
        tokens = tokens + torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, 256, 64)], 1)
        expected = network.layernorm(network.encoder(tokens).last_hidden_state)[:, 0]
    torch.testing.assert_close(features(extractor), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_torch_hubs_file_gives_the_same_features(network, weights, tmp_path):
    torch.save(as_meta_names(state_of(network)), tmp_path / "hub.pth")
    theirs = open_extractor("dinov2", tmp_path / "hub.pth")
    assert torch.equal(features(theirs), features(open_extractor("dinov2", weights)))


def test_weights_with_the_names_of_either_version_of_transformers_give_the_same_features(network, weights, tmp_path):
    state = state_of(network, version=5)
    assert "encoder.layer.0.attention.q_proj.weight" in state
    save_file(state, tmp_path / "version-5.safetensors")
    found = features(open_extractor("dinov2", tmp_path / "version-5.safetensors"))
    assert torch.equal(found, features(open_extractor("dinov2", weights)))


def test_dinov2_distances_have_its_name_and_the_hash_of_its_file(weights):
    extractor = open_extractor("dinov2", weights)
    assert (extractor.metric, extractor.kernel_metric) == ("fd-dinov2", "kd-dinov2")
    assert extractor.provenance["weights_sha256"] == digest(weights).sha256
    assert extractor.num_features == 64 and "to 224x224" in extractor.provenance["resize"]


def test_a_file_that_would_execute_code_is_refused(tmp_path, monkeypatch):
    class Payload:
        def __reduce__(self):
            return (open, ("executed", "w"))

    monkeypatch.chdir(tmp_path)
    torch.save({"cls_token": Payload()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload()))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match=rf"{name}: cannot be read as weights only"):
            open_extractor("dinov2", tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop("embeddings.cls_token"), "expected the weights of a DINOv2"),
        (lambda state: state.pop("layernorm.bias"), "layernorm.bias does not fit a DINOv2 of width 64"),
        (lambda state: state.update(odd=torch.zeros(2)), "odd does not fit a DINOv2"),
        (
            lambda state: state.update({"embeddings.position_embeddings": torch.zeros(1, 198, 64)}),
            "has positions of 197 patches of 14 pixels, which are no square",
        ),
        (
            lambda state: state.update({"embeddings.cls_token": torch.zeros(1, 1, 200)}),
            r"not a DINOv2 \(.*200.*\)",
        ),
        (lambda state: state.update({"embeddings.register_tokens": torch.zeros(2)}), "a DINOv2 with registers"),
    ],
)
def test_weights_of_something_else_are_refused(network, tmp_path, change, message):
    state = state_of(network)
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=rf"other\.safetensors: .*{message}"):
        open_extractor("dinov2", tmp_path / "other.safetensors")


def test_weights_have_to_be_given(tmp_path):
    with pytest.raises(UsageError, match=r"--extractor dinov2: no weights; pass DINOv2's file .* --extractor-weights"):
        open_extractor("dinov2")
    with pytest.raises(UsageError, match=r"none\.pth: no such file"):
        open_extractor("dinov2", tmp_path / "none.pth")


def test_a_missing_package_is_named(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        UsageError, match=r"transformers cannot be imported \(.*\); run: pip install 'hdit-toolkit\[dinov2\]'"
    ):
        open_extractor("dinov2", weights)


def test_the_resize_inside_inceptions_graph_is_refused_for_dinov2(weights):
    with pytest.raises(
        UsageError, match="--mode adm: is the resize inside Inception's graph, which --extractor dinov2"
    ):
        open_extractor("dinov2", weights, mode="adm")
