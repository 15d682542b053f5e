"""Restored images keep their names and sizes, and depend on the job and the image alone."""

import io
import json
import shutil
import sys
import tarfile
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.checkpoint import load_denoiser
from hdit_core.data.image.decode import UnusableImageError
from hdit_core.distributed import World
from hdit_core.errors import UsageError
from hdit_core.generate.condition.condition_images import ConditionMaker
from hdit_core.generate.condition.inputs import open_inputs, stream_inputs
from hdit_core.generate.pipeline import ConditionInputs, SamplingPipeline
from hdit_core.generate.restore import restore as restore_module
from hdit_core.generate.restore.restore import (
    CanvasPipeline,
    RestoreJob,
    finish_folder,
    open_masks,
    restore_inputs,
    share_of,
)
from hdit_core.generate.restore.restored_folder import RestoredFolder
from hdit_core.generate.restore.tiles import Tiling

DOWNSCALE = {"kind": "downscale", "factor": 2}
MASK = {"kind": "mask", "shape": "center", "area": [0.2, 0.3]}
ALONE = World()


def job_of(path, *, degrade=False, tiling=None, masks=None, seed=0, **settings):
    denoiser = load_denoiser(path)
    sample = denoiser.recipe.sample.model_copy(update=settings)
    size = denoiser.recipe.model.image_size
    pipeline = SamplingPipeline(denoiser, sample, seed, size, None, lambda indices: ConditionInputs())
    return RestoreJob(pipeline, ConditionMaker(denoiser.recipe, degrade, seed), tiling or Tiling(size, 4), masks=masks)


def restore(job, inputs, out, world=ALONE):
    """Restore the inputs at a place, and return the record."""
    folder = RestoredFolder(out, job.provenance(), 3, world.rank)
    folder.begin()
    folder.load_logs()
    listed = share_of(open_inputs(str(inputs)), world) if inputs != "-" else stream_inputs()
    done = restore_inputs(job, listed, folder, lambda count: None)
    return finish_folder(folder, done, str(inputs), ALONE)


def pixels(path):
    return np.asarray(Image.open(path))


def all_pixels(folder):
    return {
        str(path.relative_to(folder)): pixels(path) for path in sorted(folder.rglob("*.png")) if path.name != "grid.png"
    }


def test_names_and_folders_are_kept_and_sizes_that_the_network_does_not_take_too(network, pictures, tmp_path):
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


def test_a_stochastic_sampler_is_as_independent_of_the_batch(network, pictures, tmp_path):
    pictures("in", ["a.png", "b.png"], size=(20, 28))
    for out, batch_size in (("one", 1), ("two", 2)):
        job = job_of(network(), batch_size=batch_size, sampler="dpmpp_2m_sde")
        restore(job, tmp_path / "in", tmp_path / out)
    one, two = all_pixels(tmp_path / "one"), all_pixels(tmp_path / "two")
    assert all(np.array_equal(one[name], two[name]) for name in one) and len(one) == 2


def test_the_same_image_under_another_name_or_seed_has_other_noise(network, pictures, tmp_path):
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


def test_a_downscaled_input_gives_what_degrading_the_clean_image_gives(network, pictures, tmp_path):
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


@pytest.fixture
def inpainting(network):
    return network([MASK], condition_channels=4)


def mask_image(size=(16, 24)):
    mask = np.zeros(size, np.uint8)
    mask[4:10, 6:] = 255
    return mask


def test_a_mask_says_what_is_filled_in_and_the_rest_is_kept_bit_for_bit(inpainting, pictures, tmp_path):
    pictures("in", ["a.png", "b.png"])
    Image.fromarray(mask_image()).save(tmp_path / "mask.png")
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "b.jpg"):
        Image.fromarray(mask_image()).save(tmp_path / "masks" / name.replace(".jpg", ".png"))
    restore(job_of(inpainting, masks=open_masks(str(tmp_path / "mask.png"))), tmp_path / "in", tmp_path / "one")
    restore(job_of(inpainting, masks=open_masks(str(tmp_path / "masks"))), tmp_path / "in", tmp_path / "each")
    kept = mask_image() == 0
    for name, image in all_pixels(tmp_path / "one").items():
        original = pixels(tmp_path / "in" / name)
        assert np.array_equal(image[kept], original[kept]) and not np.array_equal(image, original)
        assert np.array_equal(image, pixels(tmp_path / "each" / name))


def test_transparent_pixels_are_filled_in_without_a_mask(inpainting, pictures, tmp_path):
    pictures("in", ["a.png"])
    path = tmp_path / "in" / "a.png"
    image = Image.open(path).convert("RGB")
    original = np.asarray(image)
    image.putalpha(Image.fromarray(255 - mask_image()))
    image.save(path)
    restore(job_of(inpainting), tmp_path / "in", tmp_path / "out")
    found, kept = pixels(tmp_path / "out" / "a.png"), mask_image() == 0
    assert np.array_equal(found[kept], original[kept]) and not np.array_equal(found, original)


def test_what_was_behind_the_mask_does_not_matter(inpainting, pictures, tmp_path):
    pictures("in", ["a.png"])
    changed = pixels(tmp_path / "in" / "a.png").copy()
    changed[mask_image() > 0] = 7
    (tmp_path / "other").mkdir()
    Image.fromarray(changed).save(tmp_path / "other" / "a.png")
    Image.fromarray(mask_image()).save(tmp_path / "mask.png")
    for folder in ("in", "other"):
        job = job_of(inpainting, masks=open_masks(str(tmp_path / "mask.png")))
        restore(job, tmp_path / folder, tmp_path / f"{folder}-out")
    assert np.array_equal(pixels(tmp_path / "in-out" / "a.png"), pixels(tmp_path / "other-out" / "a.png"))


@pytest.mark.parametrize(
    "size, folder, reason",
    [
        ((8, 24), "mask.png", "the mask has 8x24 pixels, the image 16x24; use a mask of the same size"),
        ((16, 24), "masks", "has no mask of its name in"),
        (None, None, "has no mask and no transparent pixels; give --mask"),
    ],
)
def test_a_missing_or_misshapen_mask_makes_an_input_unusable(inpainting, pictures, tmp_path, size, folder, reason):
    pictures("in", ["a.png"])
    (tmp_path / "masks").mkdir()
    masks = None
    if size is not None:
        Image.fromarray(mask_image(size)).save(tmp_path / "mask.png")
        Image.fromarray(mask_image(size)).save(tmp_path / "masks" / "other.png")
        masks = open_masks(str(tmp_path / folder))
    record = restore(job_of(inpainting, masks=masks), tmp_path / "in", tmp_path / "out")
    assert record["num_images"] == 0 and reason in record["unusable"]["a.png"]


def test_an_interrupted_job_resumes_and_does_what_has_changed_again(network, pictures, tmp_path, monkeypatch):
    pictures("in", ["a.png", "b.png", "c.png", "d.png", "e.png"])
    path, out = network(), tmp_path / "out"
    restore(job_of(path), tmp_path / "in", out)
    before = all_pixels(out)
    (out / "a.png").unlink()
    (out / "b.png").write_bytes((out / "b.png").read_bytes()[:-20])
    pictures("in", ["c.png"], seed=9)
    drawn = []
    monkeypatch.setattr(RestoreJob, "restore", _counting(RestoreJob.restore, drawn))
    record = restore(job_of(path), tmp_path / "in", out)
    after = all_pixels(out)
    assert sorted(drawn) == ["a.png", "b.png", "c.png"] and record["num_images"] == 5
    assert [name for name in before if not np.array_equal(before[name], after[name])] == ["c.png"]


def _counting(draw, drawn):
    def counted(job, batch):
        drawn.extend(each.name for each in batch)
        return draw(job, batch)

    return counted


def test_a_folder_of_other_settings_or_of_something_else_is_refused(network, pictures, tmp_path):
    pictures("in", ["a.png"])
    restore(job_of(network()), tmp_path / "in", tmp_path / "out")
    with pytest.raises(
        UsageError, match=r"/out: contains images with other settings .*: steps 3 -> 2\. Choose another"
    ):
        restore(job_of(network(), steps=2), tmp_path / "in", tmp_path / "out")
    with pytest.raises(UsageError, match="/in: exists and is not a folder of restored images"):
        restore(job_of(network()), tmp_path / "in", tmp_path / "in")


def test_the_record_names_the_inputs_with_a_hash_that_follows_their_content(network, pictures, tmp_path):
    pictures("in", ["a.png", "b.png"])
    first = restore(job_of(network()), tmp_path / "in", tmp_path / "1")["inputs"]
    again = restore(job_of(network()), tmp_path / "in", tmp_path / "2")["inputs"]
    pictures("in", ["b.png"], seed=5)
    other = restore(job_of(network()), tmp_path / "in", tmp_path / "3")["inputs"]
    assert first == again and first["sha256"] != other["sha256"] and first["path"] == str(tmp_path / "in")
    assert json.loads((tmp_path / "1" / "samples.json").read_text())["status"] == "complete"


def test_ranks_share_the_inputs_and_give_the_same_images(network, pictures, tmp_path):
    names = [f"{number}.png" for number in range(5)]
    pictures("in", names)
    path = network()
    restore(job_of(path), tmp_path / "in", tmp_path / "one")
    job = job_of(path)
    for rank in (0, 1):
        folder = RestoredFolder(tmp_path / "two", job.provenance(), 3, rank)
        folder.begin()
        folder.load_logs()
        done = restore_inputs(
            job, share_of(open_inputs(str(tmp_path / "in")), World(rank, 2)), folder, lambda count: None
        )
        assert done.num_images == (3, 2)[rank]
    one, two = all_pixels(tmp_path / "one"), all_pixels(tmp_path / "two")
    assert list(two) == names and all(np.array_equal(one[name], two[name]) for name in names)


def test_a_tar_on_stdin_gives_what_its_folder_gives(network, pictures, tmp_path, monkeypatch):
    pictures("in", ["a.png", "deep/b.png"])
    restore(job_of(network()), tmp_path / "in", tmp_path / "folder")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("a.png", "deep/b.png"):
            archive.add(tmp_path / "in" / name, arcname=name)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content.getvalue())))
    restore(job_of(network()), "-", tmp_path / "stream")
    one, two = all_pixels(tmp_path / "folder"), all_pixels(tmp_path / "stream")
    assert list(one) == list(two) and all(np.array_equal(one[name], two[name]) for name in one)


def test_images_of_other_channels_come_from_arrays_and_go_into_arrays(network, tmp_path):
    path = network(channels=2, condition_channels=5)
    (tmp_path / "in").mkdir()
    array = np.random.default_rng(0).uniform(-1, 1, (18, 24, 5)).astype(np.float32)
    np.save(tmp_path / "in" / "a.npy", array)
    job = job_of(path)
    folder = RestoredFolder(tmp_path / "out", job.provenance(), 2)
    folder.begin()
    restore_inputs(job, share_of(open_inputs(str(tmp_path / "in")), ALONE), folder, lambda count: None)
    found = np.load(tmp_path / "out" / "a.npy")
    assert found.shape == (18, 24, 2) and found.dtype == np.float32 and np.abs(found).max() <= 1


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


def test_two_inputs_of_one_name_are_found_whichever_ranks_have_them(network, pictures, tmp_path):
    pictures("in", ["a.bmp", "a.png", "b.png"])
    inputs = open_inputs(str(tmp_path / "in"))
    shares = [list(share_of(inputs, World(rank, 2))) for rank in (0, 1)]
    refused = [each for share in shares for each in share if isinstance(each, tuple)]
    assert refused == [("a.png", "its image would have the name of that of a.bmp; rename one")]


def test_the_rows_of_the_grid_are_spread_over_the_inputs(network, pictures, tmp_path, monkeypatch):
    pictures("in", [f"{number:02}.png" for number in range(12)])
    job = job_of(network())
    folder = RestoredFolder(tmp_path / "out", job.provenance(), 3)
    folder.begin()
    share = share_of(open_inputs(str(tmp_path / "in")), ALONE)
    done = restore_inputs(job, share, folder, lambda count: None, row_every=5)
    assert [file for _, file in done.rows] == ["00.png", "05.png", "10.png"]


def test_an_image_that_would_become_too_large_is_refused_before_it_is_resized(network, pictures, tmp_path, monkeypatch):
    pictures("in", ["a.png"], size=(20, 30))
    monkeypatch.setattr(restore_module, "LARGEST_IMAGE_PIXELS", 2_000_000)
    job = job_of(network([{"kind": "downscale", "factor": 100}]))
    with pytest.raises(UnusableImageError, match="would become 2000x3000, more than 2 million pixels"):
        job.prepare(open_inputs(str(tmp_path / "in")).read(0))
