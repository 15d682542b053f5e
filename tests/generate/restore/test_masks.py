"""Inpainting: the masked region is filled in, and everything else is kept."""

import numpy as np
import pytest
from PIL import Image

from hdit_core.generate.restore.job import open_masks
from tests.generate.restore.restoring import MASK, all_pixels, job_of, pixels, restore


@pytest.fixture
def inpainting(network):
    return network([MASK], condition_channels=4)


def mask_image(size=(16, 24)):
    mask = np.zeros(size, np.uint8)
    mask[4:10, 6:] = 255
    return mask


def test_the_masked_region_is_filled_in_and_the_rest_is_kept_bit_for_bit(inpainting, pictures, tmp_path):
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


def test_pixels_behind_the_mask_do_not_matter(inpainting, pictures, tmp_path):
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


def test_an_image_with_two_masks_is_skipped(inpainting, pictures, tmp_path):
    pictures("in", ["a.png", "b.png"])
    pictures("masks", ["a.png", "a.jpg", "b.png"])
    masks = open_masks(str(tmp_path / "masks"))
    record = restore(job_of(inpainting, masks=masks), tmp_path / "in", tmp_path / "out")
    assert record["unusable"] == {"a.png": f"has several masks of its name, a.jpg, a.png, in {tmp_path / 'masks'}"}
