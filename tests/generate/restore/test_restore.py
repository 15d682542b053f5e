"""Restored images keep their names and sizes, and depend on the job and the image alone."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.checkpoint import load_denoiser
from hdit_core.data.image.decode import UnusableImageError
from hdit_core.diffusion.guidance import Guide
from hdit_core.errors import UsageError
from hdit_core.generate.condition.condition_images import ConditionMaker
from hdit_core.generate.condition.inputs import open_inputs
from hdit_core.generate.pipeline import ConditionInputs
from hdit_core.generate.restore import job as job_module
from hdit_core.generate.restore.job import CanvasPipeline
from hdit_core.generate.restore.restore import _batches as batches
from hdit_core.generate.restore.tiles import Tiling
from tests.generate.restore.restoring import DOWNSCALE, all_pixels, job_of, pixels, restore


def test_names_folders_and_sizes_of_the_inputs_are_kept(network, pictures, tmp_path):
    """16 x 24 is the training size; 21 x 33 is larger and no multiple of 4, 7 x 5 smaller than the attention window."""
    pictures("in", ["a.jpg", "b c.png"])
    pictures("in", ["deep/x.y.png"], size=(21, 33))
    pictures("in", ["tiny.webp"], size=(7, 5))
    record = restore(job_of(network()), tmp_path / "in", tmp_path / "out")
    found = {name: image.shape[:2] for name, image in all_pixels(tmp_path / "out").items()}
    assert found == {"a.png": (16, 24), "b c.png": (16, 24), "deep/x.y.png": (21, 33), "tiny.png": (7, 5)}
    assert record["num_images"] == 4 and record["unusable"] == {} and (tmp_path / "out-grid.png").is_file()


def test_an_image_does_not_depend_on_the_others_the_batch_or_the_number_of_tiles_at_once(network, pictures, tmp_path):
    pictures("in", [f"{number}.png" for number in range(5)])
    pictures("in", ["large.png"], size=(40, 60), seed=1)
    path = network()
    restore(job_of(path), tmp_path / "in", tmp_path / "all")
    (tmp_path / "some").mkdir()
    for name in ("3.png", "large.png"):
        shutil.copy(tmp_path / "in" / name, tmp_path / "some" / name)
    restore(job_of(path, batch_size=1), tmp_path / "some", tmp_path / "alone")
    everything = all_pixels(tmp_path / "all")
    for name, image in all_pixels(tmp_path / "alone").items():
        assert np.array_equal(image, everything[name])
    assert len(everything) == 6 and not np.array_equal(everything["3.png"], everything["2.png"])


def test_with_a_stochastic_sampler_an_image_does_not_depend_on_the_batch(network, pictures, tmp_path):
    pictures("in", ["a.png", "b.png"], size=(20, 28))
    for out, batch_size in (("one", 1), ("two", 2)):
        job = job_of(network(), batch_size=batch_size, sampler="dpmpp_2m_sde")
        restore(job, tmp_path / "in", tmp_path / out)
    one, two = all_pixels(tmp_path / "one"), all_pixels(tmp_path / "two")
    assert all(np.array_equal(one[name], two[name]) for name in one) and len(one) == 2


def test_the_noise_of_an_image_depends_on_its_name_and_the_seed(network, pictures, tmp_path):
    pictures("in", ["a.png"])
    shutil.copy(tmp_path / "in" / "a.png", tmp_path / "in" / "b.png")
    restore(job_of(network()), tmp_path / "in", tmp_path / "out")
    restore(job_of(network(), seed=1), tmp_path / "in", tmp_path / "other")
    images, other = all_pixels(tmp_path / "out"), all_pixels(tmp_path / "other")
    assert not np.array_equal(images["a.png"], images["b.png"])
    assert not np.array_equal(images["a.png"], other["a.png"])


def test_the_noise_of_a_pixel_depends_on_its_position_and_not_on_the_size_of_the_canvas(network):
    denoiser = load_denoiser(network())
    pipelines = [
        CanvasPipeline(denoiser, denoiser.recipe.sample, 5, size, None, lambda indices: ConditionInputs())
        for size in ((140, 200), (68, 132))
    ]
    large, small = (pipeline.noise([7, 2**63]) for pipeline in pipelines)
    assert large[:, :, :68, :132].equal(small)
    assert abs(float(large.mean())) < 0.01 and abs(float(large.std()) - 1) < 0.01
    assert not large[:, :, :64, :64].equal(large[:, :, 64:128, 64:128])


def test_a_network_that_was_trained_on_downscaled_images_takes_smaller_inputs(network, pictures, tmp_path):
    pictures("in", ["a.png"], size=(9, 13))
    restore(job_of(network([DOWNSCALE])), tmp_path / "in", tmp_path / "out")
    assert pixels(tmp_path / "out" / "a.png").shape == (18, 26, 3)


def test_a_downscaled_input_and_the_degraded_clean_image_give_the_same_result(network, pictures, tmp_path):
    """The input is what `downscale` makes before it resizes back; both go through 8 bits."""
    pictures("in", ["a.png"])
    path, clean = network([DOWNSCALE]), Image.open(tmp_path / "in" / "a.png")
    (tmp_path / "small").mkdir()
    clean.resize((12, 8), Image.Resampling.BICUBIC).save(tmp_path / "small" / "a.png")
    degraded = job_of(path, degrade=True).prepare(open_inputs(str(tmp_path / "in")).read(0)).conditioned
    small = job_of(path).prepare(open_inputs(str(tmp_path / "small")).read(0)).conditioned
    assert small.size == degraded.size == (16, 24) and degraded.target is not None and small.target is None
    assert float((small.condition - degraded.condition).abs().max()) < 0.05


def test_degrading_needs_degradations_and_a_conditional_network(network):
    with pytest.raises(UsageError, match=r"--degrade: the recipe has no condition\.degrade"):
        job_of(network(), degrade=True)
    recipe = load_denoiser(network(condition_channels=0, name="plain")).recipe
    with pytest.raises(UsageError, match="the network was trained without condition images"):
        ConditionMaker(recipe)


def test_large_images_are_divided_and_small_ones_are_not(network, pictures, tmp_path):
    pictures("in", ["a.png"], size=(40, 60))
    images = {}
    for name, tiling in {
        "small": Tiling((16, 24), 4),
        "large": Tiling((64, 64), 4),
        "more": Tiling((64, 64), 8),
    }.items():
        job = replace(job_of(network()), tiling=tiling)
        images[name] = job.restore([job.prepare(open_inputs(str(tmp_path / "in")).read(0))])[0]
    assert images["large"].equal(images["more"]) and not images["large"].equal(images["small"])
    assert torch.isfinite(images["small"]).all()


def test_an_image_that_would_become_too_large_is_refused_before_it_is_resized(network, pictures, tmp_path, monkeypatch):
    pictures("in", ["a.png"], size=(20, 30))
    monkeypatch.setattr(job_module, "LARGEST_IMAGE_PIXELS", 2_000_000)
    job = job_of(network([{"kind": "downscale", "factor": 100}]))
    with pytest.raises(UnusableImageError, match="would become 2000x3000, more than 2 million pixels"):
        job.prepare(open_inputs(str(tmp_path / "in")).read(0))


WINDOWS = [
    {"depth": 1, "width": 16, "head_dim": 8, "attention": "shifted-window", "window_size": 4},
    {"depth": 1, "width": 32, "head_dim": 16, "attention": "global"},
]


@pytest.mark.parametrize("size", [(20, 30), (7, 50), (5, 3)])
def test_a_network_with_windows_restores_images_of_any_size(network, pictures, tmp_path, size):
    pictures("in", ["a.png"], size=size)
    record = restore(job_of(network(levels=WINDOWS)), tmp_path / "in", tmp_path / "out")
    assert record["unusable"] == {} and pixels(tmp_path / "out" / "a.png").shape == (*size, 3)


@pytest.fixture
def guided_job(network):
    """Return a function that gives a job with the network itself as the guide of a scale."""

    def make(scale, **model):
        job = job_of(network())
        guide = Guide(load_denoiser(network(name="guide", **model)), scale)
        return replace(job, pipeline=replace(job.pipeline, guide=guide))

    return make


def test_a_guide_sees_the_tiles_that_the_network_sees(guided_job, pictures, tmp_path):
    """A guide with the network's weights changes nothing, on an image of several tiles either."""
    pictures("in", ["a.png"], size=(40, 60))
    image = open_inputs(str(tmp_path / "in")).read(0)
    plain, guided = (job.restore([job.prepare(image)])[0] for job in (guided_job(1.0), guided_job(3.0)))
    torch.testing.assert_close(guided, plain, rtol=0, atol=1e-4)


def test_images_get_a_size_that_the_guide_can_process_too(guided_job, pictures, tmp_path):
    pictures("in", ["a.png"], size=(12, 20))
    job = guided_job(2.0, levels=WINDOWS)
    image = job.prepare(open_inputs(str(tmp_path / "in")).read(0))
    assert job.canvas(image) == (16, 24) and job.restore([image])[0].shape == (3, 12, 20)
    with pytest.raises(UsageError, match=r"--tile 16x20: the guide cannot process tiles of that size: 4 does not"):
        replace(job, tiling=Tiling((16, 20), 4))


def test_a_batch_of_large_images_has_no_more_pixels_than_one_of_tiles(network, pictures, tmp_path):
    pictures("in", [f"{number}.png" for number in range(4)], size=(32, 24))
    pictures("in", [f"s{number}.png" for number in range(4)], size=(16, 24))
    job = job_of(network(), batch_size=4)
    prepared = (job.prepare(open_inputs(str(tmp_path / "in")).read(index)) for index in range(8))
    assert [len(batch) for batch in batches(job, prepared)] == [2, 2, 4]
