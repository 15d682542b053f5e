"""A pixel is right, or the file is refused with the reason: a corpus of image files."""

import io
import re
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.image.decode import UnusableImageError, decode_image
from hdit_core.data.image.tiff_checks import check_raw
from tests.data.zoo import RED, animals, picture, saved

ZOO = animals()
GOOD = {name: animal for name, animal in ZOO.items() if animal.refusal is None}
BAD = {name: animal for name, animal in ZOO.items() if animal.refusal is not None}


def quadrants_of(image):
    """Return the pixels in the middle of the four quadrants."""
    width, height = image.size
    columns, rows = (width // 4, width * 3 // 4), (height // 4, height * 3 // 4)
    return np.array([image.getpixel((x, y)) for y in rows for x in columns], int)


def test_the_corpus_has_two_hundred_files():
    assert len(ZOO) >= 200


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_of_file_is_decoded_to_the_right_pixels(name):
    animal = GOOD[name]
    decoded = decode_image(animal.data, 3)
    assert decoded.image.mode == "RGB"
    assert decoded.image.size == animal.size
    assert np.abs(quadrants_of(decoded.image) - np.array(animal.quadrants)).max() <= animal.tolerance
    assert decoded.remarks == animal.remarks


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_decoded_is_refused_with_the_reason(name):
    with pytest.raises(UnusableImageError, match=BAD[name].refusal):
        decode_image(BAD[name].data, 3)


@pytest.mark.parametrize("name", BAD)
def test_a_refusal_has_the_same_message_every_time(name):
    """A memory address in it would make rejects.jsonl differ from run to run."""
    reasons = set()
    for _ in range(2):
        with pytest.raises(UnusableImageError) as caught:
            decode_image(BAD[name].data, 3)
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    assert not re.search(r"0x[0-9a-f]{6}", reasons.pop())


@pytest.mark.parametrize("name", ["rgb.png", "grey.png", "grey-16.png", "palette.png", "cmyk.jpg", "rgba.png"])
def test_grey_is_the_luma_of_the_colors(name):
    color, grey = decode_image(GOOD[name].data, 3).image, decode_image(GOOD[name].data, 1).image
    assert grey.mode == "L"
    luma = np.asarray(color) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(np.asarray(grey) - luma).max() <= 1


def test_transparent_pixels_show_the_chosen_background():
    clear = saved(Image.new("RGBA", (3, 2), (*RED, 0)), "PNG")
    assert decode_image(clear, 3, (10, 20, 30)).image.getpixel((2, 1)) == (10, 20, 30)


def test_an_image_is_refused_by_its_header_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr("hdit_core.data.image.decode.LARGEST_IMAGE_PIXELS", 95)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    with pytest.raises(UnusableImageError, match="12x8 pixels are more than"):
        decode_image(saved(picture(), "BMP"), 3)


def test_tags_of_a_tiff_that_share_their_values_take_little_memory():
    """A file of a megabyte; unpacked, the values of its tags take more than a gigabyte."""
    data, values = saved(picture(), "TIFF"), 1 << 20
    tags, place = 100, len(data) + 2 + 12 * 100 + 4
    entries = b"".join(struct.pack("<HHII", 40000 + number, 1, values, place) for number in range(tags))
    page = struct.pack("<H", tags) + entries + bytes(4) + bytes(values)
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    end = first + 2 + 12 * count
    whole = data[:end] + struct.pack("<I", len(data)) + data[end + 4 :] + page
    tracemalloc.start()
    check_raw(whole)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < values


def test_hostile_bytes_are_refused_and_never_raise_anything_else():
    """Every kind of file with bytes altered at random places."""
    random = np.random.default_rng(0)
    for animal in ZOO.values():
        for _ in range(3):
            data = bytearray(animal.data)
            for place in random.integers(0, len(data), min(len(data), 4)):
                data[place] = random.integers(256)
            try:
                image = decode_image(bytes(data), 3).image
            except UnusableImageError:
                continue
            assert Image.open(io.BytesIO(saved(image, "PNG"))).mode == "RGB"
