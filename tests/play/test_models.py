"""The models of a page are those of its command and the checkpoints of these runs, and nothing else."""

import shutil

import pytest
import torch

from hdit_cli.main import main
from hdit_core.checkpoint.layout import checkpoint_folder
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.play.models import MOST_OPEN, Models, check_unconditional, weights_of


def test_a_run_is_listed_with_its_checkpoints_and_kinds_of_weights(models, run):
    assert models.names() == ["digits", "digits, step 4"]
    assert models.weights("digits") == ["ema", "model", "0.100"] == models.weights("digits, step 4")
    assert models.run == run and models.main_weights == "ema"


def test_a_reconstructed_ema_is_listed(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "averages").mkdir(exist_ok=True)
    (copied / "averages" / "post-hoc-0.080.safetensors").touch()
    assert weights_of(copied) == ["ema", "model", "0.080", "0.100"]


def test_a_checkpoint_and_its_weights_are_opened_by_name(models):
    steps = {name: models.open(name, "model").source.step for name in models.names()}
    assert steps == {"digits": 8, "digits, step 4": 4}
    assert models.open("digits", "0.100").source.weights == "0.100"
    assert models.open("digits", "0.100") is models.open("digits", "0.100")
    assert len(models._open) <= MOST_OPEN


def test_newer_checkpoints_of_a_run_are_found_while_the_page_is_open(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    newest = checkpoint_folder(copied, 8)
    newest.rename(tmp_path / "later")
    models = Models([str(copied)], None, torch.device("cpu"))
    assert models.main.source.step == 4
    (tmp_path / "later").rename(newest)
    assert models.names() == ["run", "run, step 4"]
    assert models.open("run", "ema").source.step == 8


def test_only_listed_models_can_be_opened(models, run):
    for name in (str(run), "../digits", "", "digits, step 5"):
        with pytest.raises(UsageError, match="there is no such model now"):
            models.open(name, "ema")
    with pytest.raises(UsageError, match="EMA length"):
        models.open("digits", "../../model")
    with pytest.raises(CheckpointError, match="no EMA of length"):
        models.open("digits", "0.050")


def test_an_exported_model_has_one_kind_of_weights_and_no_run(run, tmp_path):
    assert main(["export", str(run), "--to", str(tmp_path / "exported")]) == 0
    models = Models([str(tmp_path / "exported"), str(run)], None, torch.device("cpu"))
    assert models.names()[:2] == ["exported", "digits"]
    assert models.weights("exported") == [] and models.run is None
    assert models.class_names() == ("class0", "class1", "class2")
    models.open("digits, step 4", None)
    assert models.class_names("digits, step 4") == models.class_names()


def test_the_names_of_classes_are_unknown_where_nothing_says_them(run, tmp_path, monkeypatch):
    assert main(["export", str(run), "--to", str(tmp_path / "exported")]) == 0
    for content in ('["a", "b"]', '["a", "b", 3]', "{}", "[", None):
        (tmp_path / "exported" / "classes.json").write_text(content or "")
        assert Models([str(tmp_path / "exported")], None, torch.device("cpu")).class_names() == ()
    monkeypatch.setattr("hdit_core.generate.export.class_names.MANIFEST", "no such file")
    assert Models([str(run)], None, torch.device("cpu")).class_names() == ()


def test_models_of_the_same_name_are_distinguished_by_their_paths(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other" / "digits")
    assert Models([str(run), str(other)], None, torch.device("cpu")).names()[::2] == [str(run), str(other)]


def test_a_network_with_conditions_is_refused(changed):
    recipe = changed({"model.condition_channels": 3, "data.augment_prob": 0.0})
    with pytest.raises(UsageError, match="takes condition images, which the page cannot give; use hdit restore"):
        check_unconditional(recipe, "runs/sr")
