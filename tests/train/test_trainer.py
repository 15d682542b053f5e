"""The periodic events of a run: log lines, sample grids of the EMA, checkpoints and the end."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hdit_core.checkpoint.layout import checkpoint_folders
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.log import read_log
from hdit_core.data.format.manifest import read_manifest, sigma_data
from hdit_core.generate.generate import generate
from hdit_core.train import sample_grid as grids_module
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.run import train
from hdit_core.train.step.train_step import Learner


def test_checkpoints_are_saved_when_due_and_at_the_end_and_the_newest_few_stay(tmp_path, trained, notes):
    recipe = trained({"train.num_images": 72, "train.checkpoint_every_images": 20, "train.keep_checkpoints": 2})
    train(recipe, tmp_path / "run")
    saved = [int(note[-9:]) for note in notes if note.startswith("saved")]
    assert saved == [3, 5, 8, 9]  # a multiple of 20 images lies within these steps, or is their end
    assert [int(folder.name[-9:]) for folder in checkpoint_folders(tmp_path / "run")] == [9, 8]


def test_the_log_has_means_since_the_last_line_and_the_learning_rate_that_was_used(tmp_path, trained, monkeypatch):
    results, update = [], Learner.train_step

    def record(learner, step, batches):
        results.append((update(learner, step, batches), learner.optimizer.param_groups[0]["lr"]))
        return results[-1][0]

    monkeypatch.setattr(Learner, "train_step", record)
    recipe = trained({"train.num_images": 48, "train.log_every_images": 24, "train.warmup_images": 40})
    shown = []
    train(recipe, tmp_path / "run", callbacks=Callbacks(on_progress=shown.append))
    lines = read_log(tmp_path / "run")
    assert [line["step"] for line in lines] == [3, 6] and [line["num_images"] for line in lines] == [24, 48]
    for line, now, part in zip(lines, shown, (results[:3], results[3:]), strict=True):
        for key in ("loss", "grad_norm"):
            assert line[key] == pytest.approx(np.mean([getattr(result, key) for result, _ in part]))
        norms = {name: np.mean([result.grad_norms[name] for result, _ in part]) for name in part[0][0].grad_norms}
        assert line["grad_norm_by_part"] == pytest.approx(norms) and len(norms) == 4
        assert line["lr"] == pytest.approx(part[-1][1])
        assert (now.loss, now.lr, now.step, now.total_images) == (line["loss"], line["lr"], line["step"], 48)


def test_grids_show_samples_of_the_ema(tmp_path, trained, monkeypatch):
    drawn = []

    def record(denoiser, indices, **options):
        drawn.append({key: tensor.clone() for key, tensor in denoiser.network.state_dict().items()})
        return generate(denoiser, list(indices)[:2], **options)

    monkeypatch.setattr(grids_module, "generate", record)
    train(trained({"train.num_images": 16, "train.sample_every_images": 16}), tmp_path / "run")
    average = newest_checkpoint(tmp_path / "run")[0].tensors("ema")
    assert len(drawn) == 1 and all(torch.equal(drawn[0][key], tensor) for key, tensor in average.items())


def test_the_seed_of_the_run_determines_its_initial_weights(tmp_path, trained):
    weights = []
    for seed in (1, 2):
        train(trained({"train.num_images": 8, "train.seed": seed, "train.lr": 1e-12}), tmp_path / str(seed))
        weights.append(newest_checkpoint(tmp_path / str(seed))[0].tensors("model")["patch_in.proj.weight"])
    assert (weights[0] - weights[1]).abs().max() > 0.1


def test_a_run_warns_of_a_sigma_data_that_is_far_from_the_pixels(tmp_path, trained, notes):
    recipe = trained({"train.num_images": 8})
    measured = sigma_data(read_manifest(Path(recipe.data.path)))
    for factor, warned in ((1.1, False), (1.3, True), (0.7, True)):
        notes.clear()
        train(trained({"train.num_images": 8, "diffusion.sigma_data": factor * measured}), tmp_path / str(factor))
        warnings = [note for note in notes if "sigma_data" in note]
        assert len(warnings) == warned
        assert not warned or f"--set diffusion.sigma_data={measured:.3g}" in warnings[0]
