"""The guidance options of `hdit sample`, and every key of [sample] by --set."""

import json

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from hdit_cli.main import main
from tests.conftest import REFERENCE

RUN = REFERENCE / "neighborhood.safetensors"  # random weights everywhere, so that guidance has a visible effect


@pytest.fixture(scope="module")
def worse(tmp_path_factory):
    """Another model of the same images."""
    path = tmp_path_factory.mktemp("guide") / "worse.safetensors"
    with safe_open(RUN, "pt") as file:
        save_file({name: 0.9 * file.get_tensor(name) for name in file.keys()}, path, file.metadata())  # noqa: SIM118
    return str(path)


def drawn(out, *options):
    """Generate three images and return the provenance in the folder."""
    command = ["sample", "--ckpt", str(RUN), "--n", "3", "--set", "sample.steps=4", "--out", str(out), *options]
    assert main(command) == 0
    return json.loads((out / "samples.json").read_text())["origin"]


def pictures(out):
    return [path.read_bytes() for path in sorted(out.glob("0*.png"))]


def test_each_kind_of_guidance_is_recorded_and_changes_the_images(worse, tmp_path):
    options = {
        "plain": [],
        "classes": ["--guidance", "3"],
        "interval": ["--guidance", "3", "--guidance-interval", "0.1,90"],
        "rescale": ["--guidance", "3", "--guidance-rescale", "0.9"],
        "guide": ["--guide", worse, "--guide-weights", "model", "--autoguidance", "3"],
    }
    origins = {name: drawn(tmp_path / name, *given) for name, given in options.items()}
    assert origins["interval"]["settings"]["guidance_interval"] == [0.1, 90.0]
    assert origins["rescale"]["settings"]["guidance_rescale"] == 0.9
    guide = origins["guide"]["guide"]
    assert guide["weight"] == 3 and len(guide["weights_sha256"]) == 64
    assert guide["weights_sha256"] != origins["guide"]["weights_sha256"] and "guide" not in origins["plain"]
    assert len({tuple(pictures(tmp_path / name)) for name in options}) == len(options)


def test_an_autoguidance_scale_of_1_changes_nothing_and_is_reported(worse, tmp_path, capsys):
    drawn(tmp_path / "plain")
    drawn(tmp_path / "led", "--guide", worse, "--autoguidance", "1")
    assert pictures(tmp_path / "plain") == pictures(tmp_path / "led")
    assert "--guide has no effect: the autoguidance scale is 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["--guidance", "3", "--guidance-interval", "0.1,8"], "(old -> new): guidance_interval not set -> [0.1, 8.0]"),
        (["--set", "sample.schedule=vp"], "(old -> new): schedule 'karras' -> 'vp'"),
        (["--guide", "RUN"], "guide.weight not set -> 2.0"),
    ],
)
def test_a_folder_refuses_images_with_other_guidance(tmp_path, capsys, other, message):
    drawn(tmp_path / "s", "--guidance", "3")
    command = ["sample", "--ckpt", str(RUN), "--n", "3", "--set", "sample.steps=4", "--out", str(tmp_path / "s")]
    given = [str(RUN) if word == "RUN" else word for word in ["--guidance", "3", *other]]
    assert main([*command, *given]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_of_an_earlier_version_with_fewer_settings_is_resumed(tmp_path):
    drawn(tmp_path / "s")
    record = json.loads((tmp_path / "s" / "samples.json").read_text())
    for key in ("churn", "unipc_order", "unipc_variant", "guidance_interval", "guidance_rescale"):
        del record["origin"]["settings"][key]
    (tmp_path / "s" / "samples.json").write_text(json.dumps(record))
    before = (tmp_path / "s" / "00000001.png").stat().st_mtime_ns
    drawn(tmp_path / "s")
    assert (tmp_path / "s" / "00000001.png").stat().st_mtime_ns == before


def test_unipc_and_churn_are_set_by_their_keys(tmp_path):
    unipc = drawn(tmp_path / "unipc", "--sampler", "unipc", "--set", "sample.unipc_order=2")
    assert (unipc["settings"]["sampler"], unipc["settings"]["unipc_order"]) == ("unipc", 2)
    drawn(tmp_path / "euler", "--sampler", "euler")
    churned = drawn(tmp_path / "churned", "--sampler", "euler", "--set", "sample.churn.amount=0.8")
    assert churned["settings"]["churn"] == {"amount": 0.8, "sigma_min": 0.0, "sigma_max": None, "noise": 1.0}
    assert len({tuple(pictures(tmp_path / name)) for name in ("unipc", "euler", "churned")}) == 3


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        (["--guidance-interval", "5"], 2, "--guidance-interval 5: expected LOW:HIGH in sigma, for example 0.28:2.9"),
        (["--guidance-interval", "5,1"], 2, "--guidance-interval 5,1: expected LOW:HIGH in sigma"),
        (["--guidance-rescale", "1.5"], 2, "--guidance-rescale': Input should be less than or equal to 1"),
        (["--autoguidance", "2"], 2, "--autoguidance 2.0: needs a weaker model; give one with --guide CKPT"),
        (["--guide", "nowhere", "--autoguidance", "inf"], 2, "--autoguidance inf: expected a finite number"),
        (["--guide-weights", "ema"], 2, "--guide-weights ema: needs a weaker model"),
        (["--guide", "nowhere"], 4, "nowhere: no such run, checkpoint or file"),
        (["--set", "train.lr=1"], 2, "--set train.lr=1: only keys of [sample] apply to sampling"),
        (["--set", "sample.stepz=1"], 2, "did you mean 'steps'"),
        (
            ["--set", "sample.churn.amount=5"],
            2,
            "sample.churn.amount = 5.0 has no effect with 'dpmpp_3m_sde', only with euler",
        ),
        (["--set", "sample.guidance_interval=[3.0, 2.0]"], 2, "it ends at 2.0, which is not above its start at 3.0"),
        (
            ["--sampler", "heun", "--set", "sample.churn.sigma_min=5.0", "--set", "sample.churn.sigma_max=4.0"],
            2,
            "sample.churn.sigma_min = 5.0 is not below sigma_max = 4.0",
        ),
    ],
)
def test_an_unusable_guide_is_one_line_and_an_exit_code(tmp_path, capsys, option, code, message):
    assert main(["sample", "--ckpt", str(RUN), "--n", "1", "--out", str(tmp_path / "s"), *option]) == code
    captured = capsys.readouterr()
    complaints = [line for line in captured.err.splitlines() if "rror" in line]
    assert len(complaints) == 1 and message in complaints[0] and not captured.out
    assert not (tmp_path / "s").exists()


def test_guidance_options_without_effect_are_reported(tmp_path, capsys):
    drawn(tmp_path / "plain", "--guidance-interval", "0.1,8", "--guidance-rescale", "0.7")
    notes = capsys.readouterr().err
    assert "the guidance interval has no effect: the guidance scale is 1" in notes
    assert "the guidance rescale factor has no effect: the guidance scale is 1" in notes
    drawn(tmp_path / "led", "--guidance", "2", "--guidance-interval", "0.1,8", "--guidance-rescale", "0.7")
    assert "no effect" not in capsys.readouterr().err
