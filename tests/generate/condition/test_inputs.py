"""Names and contents of untrusted inputs: unusable ones are refused in one line each."""

import io
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image.arrays.tiff_array import tiff_bytes
from hdit_core.data.image.decode import UnusableImageError
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import DataError, UsageError
from hdit_core.generate.condition.inputs import InputImage, name_problem, number_of, open_inputs, output_name


def png(size=(3, 4), mode="RGB"):
    content = io.BytesIO()
    Image.new(mode, size[::-1]).save(content, "PNG")
    return content.getvalue()


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/etc/a.png", "a//b.png", "./a.png", "", "a/"])
def test_a_name_that_leads_outside_the_output_folder_is_refused(name):
    assert name_problem(name) == "its name leads outside the output folder"


@pytest.mark.parametrize("name", ["a\nb.png", "a\x00b.png", "\x1b[31mred.png", "a\x7f.png"])
def test_a_name_with_control_characters_is_refused(name):
    assert name_problem(name) == "its name has control characters such as a newline"


def test_a_name_that_is_too_long_is_refused():
    assert name_problem("ä" * 101 + ".png") == "its name has a part of 206 bytes; the most are 200"
    assert name_problem("a/" * 50 + "b.png") is None


@pytest.mark.parametrize("name", ["a.png", "a b/ü.x.jpg", "..a.png", "a..b", "-.png", "$(x).png", "a\udcff.png"])
def test_other_names_are_accepted(name):
    assert name_problem(name) is None


def test_outputs_keep_the_name_except_for_an_image_extension():
    names = ["a.JPG", "b.c.png", "v1.5", "deep/d.npy", "e"]
    assert [output_name(name, ".png") for name in names] == ["a.png", "b.c.png", "v1.5.png", "deep/d.png", "e.png"]


def test_the_number_of_an_image_follows_from_its_name_without_extension():
    assert number_of("a/b.png") == number_of("a/b.jpg") != number_of("a/c.png")
    assert 0 <= number_of("x\udcff.png") < 2**64


@pytest.mark.parametrize(
    "content, channels, reason",
    [
        (b"", 3, "empty|cannot|not an image|no image"),
        (b"not an image", 3, "not an image|unknown|no image|cannot"),
        (png()[:-20], 3, ""),
        (png(), 2, "3 channels; the network takes 2 channels of uint8"),
        (npy(np.zeros((3, 4, 5), np.float32)), 2, "an array of 3x4x5 numbers; expected height x width x 2"),
        (npy(np.zeros((3, 4), np.float32)), 2, "an array of 3x4x1 numbers"),
        (npy(np.full((3, 4, 2), 1.5, np.float32)), 2, r"numbers beyond \[-1, 1\], NaN or infinity"),
        (npy(np.full((3, 4, 2), np.nan)), 2, r"numbers beyond \[-1, 1\], NaN or infinity"),
        (npy(np.zeros((3, 4, 2), np.int32)), 2, "numbers of type int32; expected uint8, uint16 or floats"),
        (npy(np.zeros((0, 4, 2), np.uint8)), 2, "an array of 0x4x2 numbers"),
        (npy(np.zeros((3, 4, 2), np.uint8))[:-1], 2, "damaged .npy"),
        (npy(np.array([[None]], object)), 2, "damaged .npy|Python objects|expected numbers|object"),
    ],
)
def test_files_that_are_no_images_of_the_channel_count_are_refused(content, channels, reason):
    with pytest.raises(UnusableImageError, match=reason):
        InputImage("x", content).pixels(PixelFormat(channels))


def test_an_image_of_a_hundred_million_pixels_is_refused_before_it_is_decoded():
    with pytest.raises(UnusableImageError, match="more than 100 million pixels"):
        InputImage("x.png", _bomb()).pixels(PixelFormat(3))


def _bomb():
    """The head of a PNG that claims to be 60,000 pixels wide and high."""
    content = bytearray(png((1, 1), "L"))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize("dtype, low, high", [(np.uint8, 0, 255), (np.uint16, 0, 65535), (np.float64, -1.0, 1.0)])
def test_arrays_are_mapped_to_minus_one_to_one(dtype, low, high):
    array = np.array([[[low, high]], [[high, low]]], dtype)
    found = InputImage("x.npy", npy(array)).pixels(PixelFormat(2))
    assert found.tolist() == [[[-1.0], [1.0]], [[1.0], [-1.0]]]


def test_transparent_pixels_and_white_mask_pixels_are_found():
    image = Image.new("RGBA", (4, 2), (250, 10, 10, 255))
    image.putpixel((1, 0), (250, 10, 10, 0))
    image.putpixel((2, 0), (250, 10, 10, 200))
    content = io.BytesIO()
    image.save(content, "PNG")
    found = InputImage("x.png", content.getvalue()).transparent()
    assert found.tolist() == [[[False, True, False, False], [False] * 4]]
    assert InputImage("x.png", png()).transparent() is None
    grey = Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8))
    content = io.BytesIO()
    grey.save(content, "PNG")
    assert InputImage("m.png", content.getvalue()).painted().tolist() == [[[False, False, True, True]]]


def test_hidden_and_text_files_are_skipped_and_an_empty_folder_is_refused(tmp_path):
    for name in (".hidden.png", "notes.txt", "b.png", "a.png"):
        (tmp_path / name).write_bytes(png())
    assert sorted(open_inputs(str(tmp_path)).names) == ["a.png", "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: .*no images"):
        open_inputs(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="nowhere: no such folder, archive or built-in data set"):
        open_inputs(str(tmp_path / "nowhere"))


def test_a_single_image_and_an_archive_are_read(tmp_path):
    (tmp_path / "a.png").write_bytes(png((5, 6)))
    assert open_inputs(str(tmp_path / "a.png")).names == ["a.png"]
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "a.png", arcname="deep/a.png")
    inputs = open_inputs(str(tmp_path / "x.tar"))
    assert list(inputs.names) == ["deep/a.png"] and inputs.read(0).pixels(PixelFormat(1)).shape == (1, 5, 6)


def test_a_single_array_and_a_tiff_of_five_channels_are_read(tmp_path):
    values = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
    np.save(tmp_path / "a.npy", values)
    (tmp_path / "a.tif").write_bytes(tiff_bytes(values))
    for name in ("a.npy", "a.tif"):
        inputs = open_inputs(str(tmp_path / name))
        assert list(inputs.names) == [name]
        assert inputs.read(0).pixels(PixelFormat(5, "uint16", ((0.0, 59.0),))).max() == 1


def test_stored_condition_images_of_a_data_set_are_read_on_request(tmp_path):
    for folder, level in (("images", 200), ("conditions", 50)):
        write_grey(tmp_path / folder / "a.png", level)
    settings = {"condition": str(tmp_path / "conditions"), "channels": 1}
    prepare_data(PrepareSettings(source=str(tmp_path / "images"), out=tmp_path / "set", size=(3, 4), **settings))
    for conditions, level in ((True, 50), (False, 200)):
        image = open_inputs(str(tmp_path / "set"), conditions).read(0).pixels(PixelFormat(1))
        assert image.unique().tolist() == pytest.approx([level / 127.5 - 1])
    plain = open_inputs(str(tmp_path / "images"), conditions=True).read(0).pixels(PixelFormat(1))
    assert plain.unique().tolist() == pytest.approx([200 / 127.5 - 1])


def write_grey(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 3), level).save(path)
