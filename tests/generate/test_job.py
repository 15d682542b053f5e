"""A sampling job: shares of ranks, repeated images, classes, time budget, and the animation."""

import io
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_cli.main import main
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.distributed import World
from hdit_core.generate import job as module
from hdit_core.generate.generate import generate
from hdit_core.generate.job import SamplingJob, fill_folder
from hdit_core.generate.output import animation
from hdit_core.generate.output.animation import trajectory
from hdit_core.generate.output.sample_folder import SampleFolder
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.generate.provenance import provenance, weights_sha256
from hdit_core.images import to_uint8
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.train.run import train


@pytest.fixture
def denoiser(tiny_recipe):
    network = HourglassTransformer(tiny_recipe.model)
    initialize(network, 3)
    torch.nn.init.normal_(network.patch_out.proj.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    return Denoiser(network, tiny_recipe).eval()


def job_of(denoiser, numbers, **more):
    settings = denoiser.recipe.sample.model_copy(update={"batch_size": 2, "steps": 2})
    return SamplingJob(SamplingPipeline(denoiser, settings, 5, (16, 24)), list(numbers), **more)


def folder_of(job, path):
    samples = SampleFolder(path, job.provenance(), job.shape)
    samples.begin()
    return samples


def contents(path):
    return {file.name: file.read_bytes() for file in path.glob("0*.png")}


def no_waiting(self, flag):
    return flag


def test_several_ranks_write_the_folder_of_one_process(denoiser, tmp_path, monkeypatch):
    monkeypatch.setattr(World, "any", no_waiting)
    job, alone, shared = job_of(denoiser, range(7)), tmp_path / "alone", tmp_path / "shared"
    assert fill_folder(job, folder_of(job, alone), World(), print) == list(range(7))
    shares = []
    for rank in range(3):
        fill_folder(job, folder_of(job, shared), World(rank, 3), shares.append)
    assert contents(alone) == contents(shared) and len(contents(alone)) == 7
    assert [done for done in shares if done] == [2, 3, 2, 2]  # batches of 2: three images, two and two


def test_only_missing_images_are_generated_with_the_same_result(denoiser, tmp_path, monkeypatch):
    job = job_of(denoiser, range(5))
    samples = folder_of(job, tmp_path)
    fill_folder(job, samples, World(), print)
    before = contents(tmp_path)
    samples.path(1).unlink()
    samples.path(4).write_bytes(b"cut")
    drawn, draw = [], SamplingPipeline.generate_batch
    monkeypatch.setattr(
        SamplingPipeline, "generate_batch", lambda self, *batch: drawn.extend(batch[0]) or draw(self, *batch)
    )
    done = []
    assert fill_folder(job, folder_of(job, tmp_path), World(), done.append) == list(range(5))
    assert drawn == [1, 4] and done == [3, 5] and contents(tmp_path) == before


def test_a_finished_job_samples_nothing(denoiser, tmp_path, monkeypatch):
    job = job_of(denoiser, range(3))
    fill_folder(job, folder_of(job, tmp_path), World(), print)
    monkeypatch.setattr(SamplingPipeline, "generate_batch", None)
    assert fill_folder(job, folder_of(job, tmp_path), World(), print) == [0, 1, 2]


def test_the_recorded_class_of_an_image_is_the_one_it_is_sampled_with(denoiser):
    for class_id in (None, 1):
        job = job_of(denoiser, [4, 6, 8], class_id=class_id)
        drawn = [one for batch in job.batches(job.indices) for one in batch.class_ids]
        assert drawn == [job.class_of(number) for number in job.indices]


def test_a_time_budget_ends_the_job_before_the_batch_that_would_exceed_it(denoiser, monkeypatch):
    clock = iter([0.0, 3.0, 6.0, 9.0, 12.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    job = job_of(denoiser, range(10), budget_s=10.0)
    assert [batch.indices for batch in job.batches(job.indices)] == [[0, 1], [2, 3], [4, 5]]


def test_the_first_batch_is_generated_however_short_the_time_budget(denoiser):
    job = job_of(denoiser, range(10), budget_s=1e-9)
    assert [batch.indices for batch in job.batches(job.indices)] == [[0, 1]]


def test_the_provenance_of_samples_names_everything_except_the_batch_size(denoiser):
    job = job_of(denoiser, range(2))
    made = job.provenance()
    other = replace(job.pipeline, settings=job.pipeline.settings.model_copy(update={"batch_size": 9}))
    assert made == provenance(other)
    before = weights_sha256(denoiser)
    with torch.no_grad():
        denoiser.network.patch_out.proj.weight[0, 0] += 1e-6
    assert made["weights_sha256"] == before != weights_sha256(denoiser)


def test_the_animation_has_a_frame_for_each_step_and_ends_with_the_images(denoiser):
    settings = denoiser.recipe.sample.model_copy(update={"steps": 3, "sampler": "euler"})
    pipeline = SamplingPipeline(denoiser, settings, 5, (16, 24))
    animated = trajectory(pipeline, range(20), [index % 3 for index in range(20)])
    film = Image.open(io.BytesIO(animated.webp))
    frames = settings.steps  # Euler ends on what the model sees in its last step, and equal neighbors are one frame
    assert film.n_frames == frames and film.size == (4 * 26 + 2, 4 * 18 + 2)
    film.seek(frames - 1)
    (batch,) = generate(denoiser, [0], seed=5, settings=settings)
    last = np.asarray(film.convert("RGB").crop((2, 2, 26, 18)))
    assert np.abs(last.astype(float) - to_uint8(batch.images)[0]).mean() < 25  # not lossless
    assert str(animated) == f"{len(animated.webp) / 1e6:.2g} MB, {frames} frames of 74x106, 16 images"


def test_an_animation_has_at_most_sixty_frames_of_at_most_a_megapixel(denoiser, monkeypatch):
    monkeypatch.setattr(animation, "MOST_FRAME_PIXELS", 3 * 16 * 24)
    settings = denoiser.recipe.sample.model_copy(update={"steps": 130, "sampler": "euler"})
    animated = animation.trajectory(SamplingPipeline(denoiser, settings, 5, (16, 24)), range(20), [0] * 20)
    assert (animated.num_images, animated.size) == (3, (2 * 18 + 2, 2 * 26 + 2))
    assert 10 <= animated.num_frames <= 60


@pytest.mark.slow
def test_two_ranks_under_torchrun_write_the_folder_of_one_process(tmp_path, trained):
    train(trained({"train.num_images": 8}), tmp_path / "run")
    options = {"ckpt": tmp_path / "run", "count": 5, "steps": 2, "batch-size": 2}
    sample = ["sample", *(str(word) for name, value in options.items() for word in (f"--{name}", value)), "--out"]
    assert main([*sample, str(tmp_path / "alone")]) == 0
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hdit_cli"]
    subprocess.run([*ranks, *sample, str(tmp_path / "two")], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert contents(tmp_path / "alone") == contents(tmp_path / "two") and len(contents(tmp_path / "two")) == 5
    assert (tmp_path / "alone" / "samples.json").read_bytes() == (tmp_path / "two" / "samples.json").read_bytes()


def test_a_sampler_with_more_steps_than_the_schedule_has_no_more_frames(denoiser, monkeypatch):
    """dpm_adaptive takes as many steps as it needs."""
    monkeypatch.setattr(animation, "MOST_FRAMES", 6)
    settings = denoiser.recipe.sample.model_copy(update={"steps": 4, "sampler": "dpm_adaptive"})
    pipeline = SamplingPipeline(denoiser, settings, 5, (16, 24))
    steps, frames, write = [], [], animation._webp
    pipeline.generate_batch([0], [0], steps.append)
    monkeypatch.setattr(animation, "_webp", lambda shown, *how, **more: frames.extend(shown) or write(shown, *how))
    animation.trajectory(pipeline, range(1), [0])
    assert len(steps) > 8 and 3 <= len(frames) <= 6


@pytest.mark.parametrize(("channels", "shown"), [(2, 1), (4, 3), (5, 3)])
def test_an_animation_shows_the_first_channels_of_images_that_are_no_pictures(changed, channels, shown):
    recipe = changed({"model.channels": channels, "sample.steps": 2, "sample.sampler": "euler"})
    network = HourglassTransformer(recipe.model)
    initialize(network, 3)
    torch.nn.init.normal_(network.patch_out.proj.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    pipeline = SamplingPipeline(Denoiser(network, recipe).eval(), recipe.sample, 5, (16, 24))
    film = Image.open(io.BytesIO(trajectory(pipeline, range(1), [0]).webp))
    film.seek(film.n_frames - 1)
    (batch,) = pipeline.generate([0], [0])
    pixels = np.asarray(film.convert("RGBA"))[2:18, 2:26]
    assert (pixels[..., 3] == 255).all()
    assert np.abs(pixels[..., :shown].astype(float) - to_uint8(batch.images)[0, ..., :shown]).mean() < 40
