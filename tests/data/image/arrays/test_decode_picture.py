"""Arrays of 16 bits, floats and many channels are decoded to their stored values, or refused with the reason."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from hdit_core.data.image.arrays.decode_picture import CLIPPED, PAGES, SCALED, as_8_bit, decode_picture, stored_format
from hdit_core.data.image.arrays.picture import as_array
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image.arrays.png_array import png16_bytes
from hdit_core.data.image.unusable import UnusableImageError

HEIGHT, WIDTH = 5, 7
UNIT = ((0.0, 1.0),)


def values(channels, dtype="uint16"):
    numbers = np.random.Generator(np.random.Philox(channels))
    if dtype == "float32":
        return numbers.uniform(0, 1, (HEIGHT, WIDTH, channels)).astype(np.float32)
    return numbers.integers(0, np.iinfo(dtype).max + 1, (HEIGHT, WIDTH, channels)).astype(dtype)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def png(array):
    return bytes(imagecodecs.png_encode(array[..., 0] if array.shape[-1] == 1 else array))


def tiff(array, **options):
    buffer = io.BytesIO()
    layout = {"metadata": None} | ({} if array.shape[-1] == 1 else {"planarconfig": "contig"})
    tifffile.imwrite(buffer, array[..., 0] if array.shape[-1] == 1 else array, **layout | options)
    return buffer.getvalue()


def planes(array, **options):
    return tiff(np.moveaxis(array, -1, 0), **{"planarconfig": "separate"} | options)


def decoded(data, channels, dtype="uint16", value_range=()):
    return decode_picture(data, PixelFormat(channels, dtype, value_range), (255, 255, 255))


def pixels_of(data, *arguments):
    return as_array(decoded(data, *arguments).picture)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_every_value(channels):
    array = values(channels)
    np.testing.assert_array_equal(pixels_of(png(array), channels), array)
    assert stored_format(png(array)) == PixelFormat(channels, "uint16")


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_16_bits_is_written_and_read_exactly(channels):
    array = values(channels)
    np.testing.assert_array_equal(pixels_of(png16_bytes(array), channels), array)
    np.testing.assert_array_equal(imagecodecs.png_decode(png16_bytes(array)), array[..., 0] if channels == 1 else array)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd"])
@pytest.mark.parametrize("channels", [1, 3, 4, 64])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_tiff_keeps_every_value(compression, channels, dtype):
    array = values(channels, dtype)
    value_range = UNIT if dtype == "float32" else ()
    data = tiff(array, compression=compression, photometric="rgb" if channels in (3, 4) else "minisblack")
    np.testing.assert_array_equal(pixels_of(data, channels, dtype, value_range), array)
    assert stored_format(data) == PixelFormat(channels, dtype)


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (16, 16)},
        {"rowsperstrip": 2, "compression": "zlib", "predictor": True},
        {"byteorder": ">"},
        {"bigtiff": True},
    ],
)
def test_tiff_in_every_layout_keeps_every_value(options):
    array = values(5)
    for data in (tiff(array, photometric="minisblack", **options), planes(array, **options)):
        np.testing.assert_array_equal(pixels_of(data, 5), array)


@pytest.mark.parametrize("channels", [1, 2, 64])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_npy_keeps_every_value(channels, dtype):
    array = values(channels, dtype)
    value_range = UNIT if dtype == "float32" else ()
    for data in (npy(array), npy(np.asfortranarray(array)), npy(array.astype(array.dtype.newbyteorder(">")))):
        np.testing.assert_array_equal(pixels_of(data, channels, dtype, value_range), array)
    assert stored_format(npy(array)) == PixelFormat(channels, dtype)


def test_npy_of_8_bits_is_an_image_as_any_other():
    array = values(3, "uint8")
    np.testing.assert_array_equal(pixels_of(npy(array), 3, "uint8"), array)
    np.testing.assert_array_equal(pixels_of(npy(array[..., 0]), 1, "uint8"), array[..., :1])
    mask = array[..., 0] > 100
    np.testing.assert_array_equal(pixels_of(npy(mask), 1, "uint8")[..., 0], np.where(mask, 255, 0))


def test_alpha_is_a_channel_of_an_array():
    array = values(4, "uint8")
    np.testing.assert_array_equal(pixels_of(png(array), 4, "uint8"), array)
    np.testing.assert_array_equal(pixels_of(png(values(2, "uint8")), 2, "uint8"), values(2, "uint8"))


def test_8_bit_values_are_scaled_to_16_bits_and_a_note_is_logged():
    picture = decoded(png(values(3, "uint8")), 3)
    np.testing.assert_array_equal(as_array(picture.picture), values(3, "uint8").astype(np.uint16) * 257)
    assert picture.remarks == (SCALED,)


def test_values_outside_the_range_are_clipped_and_a_note_is_logged():
    picture = decoded(npy(np.array([[[-0.5], [0.25], [3.0]]], np.float32)), 1, "float32", UNIT)
    assert as_array(picture.picture).ravel().tolist() == [0, 0.25, 1]
    assert picture.remarks == (CLIPPED,)
    mask = decoded(png(np.array([[[0], [1], [7]]], np.uint8)), 1, "uint8", UNIT)
    assert as_array(mask.picture).ravel().tolist() == [0, 1, 1] and mask.remarks == (CLIPPED,)


def with_nan():
    array = values(2, "float32")
    array[3, 4, 1] = np.nan
    return array


def cut(data):
    return data[: len(data) * 2 // 3]


def object_array():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    return buffer.getvalue()


def header(text):
    content = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content


BAD = {
    "channels": (npy(values(3)), (4,), r"3 channels, expected 4 \(--channels\)"),
    "NaN": (npy(with_nan()), (2, "float32", UNIT), r"nan at row 3, column 4, channel 1; expected finite values"),
    "NaN in a TIFF": (tiff(with_nan()), (2, "float32", UNIT), r"nan at row 3, column 4, channel 1"),
    "too large for a float": (npy(np.full((2, 2, 1), 1e300)), (1, "float32", UNIT), r"inf at row 0"),
    "floats": (npy(values(2, "float32")), (2,), r"values of float32; keep them with float32 and a range"),
    "16 bits": (npy(values(2)), (2, "uint8"), r"values of 16 bits; keep them with uint16"),
    "negative": (npy(np.full((2, 2, 2), -3)), (2,), r"values from -3 to -3, which uint16 cannot keep"),
    "too many axes": (npy(np.zeros((2, 2, 2, 2))), (2,), r"shape \(2, 2, 2, 2\); expected height, width, and 1 to 64"),
    "65 channels": (npy(np.zeros((2, 2, 65))), (2,), r"shape \(2, 2, 65\)"),
    "no pixels": (npy(np.zeros((0, 2, 2))), (2,), r"shape \(0, 2, 2\)"),
    "objects": (object_array(), (2,), r"\.npy of object; expected numbers"),
    "complex": (npy(np.zeros((2, 2), complex)), (1,), r"\.npy of complex128; expected numbers"),
    "cut .npy": (cut(npy(values(2))), (2,), r"bytes are not an array \(5, 7, 2\) of uint16"),
    "huge .npy": (
        header("{'descr': '<u2', 'fortran_order': False, 'shape': (99999999999, 99999999999, 3), }"),
        (3,),
        r"damaged \.npy: 0 bytes are not an array",
    ),
    "no header": (b"\x93NUMPY\x01\x00\x10\x00" + b"__import__('os')", (3,), r"damaged \.npy"),
    "long header": (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{}", (3,), r"damaged \.npy"),
    "later .npy": (b"\x93NUMPY\x09\x00" + bytes(100), (3,), r"damaged \.npy"),
    "cut PNG": (cut(png(values(3))), (3,), r"truncated PNG"),
    "cut TIFF": (cut(tiff(values(4))), (4,), r"."),
    "cut LZW": (cut(tiff(values(4), compression="lzw")), (4,), r"."),
    "palette": (
        tiff(values(1, "uint8"), photometric="palette", colormap=np.zeros((3, 256), np.uint16)),
        (4,),
        r"3 channels, expected 4",
    ),
    "white is zero": (tiff(values(1), photometric="miniswhite"), (1,), r"photometric interpretation 0; expected grey"),
    "JPEG 2000": (tiff(values(4), compression="jpeg2000"), (4,), r"compression \d+; expected one of none, LZW"),
    "halves": (tiff(values(2, "float32").astype(np.float16)), (2,), r"values of float16; keep them with float32"),
    "no image": (b"hello", (4,), r"not an image of a known format"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_without_such_values_is_refused_in_one_line(name):
    data, arguments, reason = BAD[name]
    with pytest.raises(UnusableImageError, match=reason) as problem:
        decoded(data, *arguments)
    assert "\n" not in str(problem.value)


def stack(array, **options):
    """Return a TIFF with a page for each channel."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for channel in np.moveaxis(array, -1, 0):
            file.write(channel, metadata=None, **options)
    return buffer.getvalue()


def test_several_pages_are_refused_with_a_hint():
    problem = r"TIFF with 3 pages; if they are the channels of one image, give --pages-as-channels; else save one page"
    with pytest.raises(UnusableImageError, match=problem):
        decoded(stack(values(3)), 3)


@pytest.mark.parametrize(
    ("dtype", "channels", "options"),
    [
        ("uint16", 5, {}),
        ("uint16", 3, {"compression": "zlib"}),
        ("uint8", 3, {}),
        ("uint8", 4, {}),
        ("float32", 2, {}),
        ("uint16", 1, {}),
    ],
)
def test_the_pages_of_a_tiff_are_channels_on_request(dtype, channels, options):
    array = values(channels, dtype)
    data, pixels = stack(array, **options), PixelFormat(channels, dtype, UNIT if dtype == "float32" else ())
    found = decode_picture(data, pixels, (255, 255, 255), pages_as_channels=True)
    np.testing.assert_array_equal(as_array(found.picture), array)
    assert found.remarks == ((PAGES,) if channels > 1 else ())
    assert stored_format(data, pages_as_channels=True) == PixelFormat(channels, dtype)


def test_pages_that_differ_or_have_several_channels_are_refused_as_channels():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(values(1)[..., 0], metadata=None)
        file.write(values(1)[1:, :, 0], metadata=None)
    for data in (buffer.getvalue(), stack(np.stack([values(3)] * 2, -1), planarconfig="contig", photometric="rgb")):
        with pytest.raises(UnusableImageError, match="TIFF with 2 pages that cannot be the channels of one image"):
            decode_picture(data, PixelFormat(2, "uint16"), (255, 255, 255), pages_as_channels=True)


def test_a_damaged_page_of_a_stack_is_refused_wherever_it_is():
    whole = stack(np.repeat(values(4), 40, axis=0), compression="zlib")
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        place = file.pages[3].dataoffsets[0] + 8
    data = whole[:place] + bytes(20) + whole[place + 20 :]
    with pytest.raises(UnusableImageError):
        decode_picture(data, PixelFormat(4, "uint16"), (255, 255, 255), pages_as_channels=True)


@pytest.mark.parametrize("kind", [png, tiff, npy])
def test_a_damaged_file_gives_values_or_a_reason_and_no_other_error(kind):
    whole = kind(values(3))
    numbers = np.random.Generator(np.random.Philox(0))
    for _ in range(150):
        data = bytearray(whole)
        for position in numbers.integers(0, len(data), 3):
            data[position] = numbers.integers(256)
        try:
            array = pixels_of(bytes(data), 3)
        except UnusableImageError as problem:
            assert "\n" not in str(problem)
        else:
            assert array.dtype == np.uint16 and array.shape[-1] == 3


@pytest.mark.parametrize("package", ["imagecodecs", "tifffile"])
def test_without_the_packages_one_line_names_them(package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UnusableImageError, match=rf"needs {package}, which is not installed; run: pip install"):
        decoded(tiff(values(4)), 4)
    array = values(1)
    np.testing.assert_array_equal(pixels_of(png16_bytes(array), 1), array)


def test_an_array_is_scaled_to_8_bits_by_its_range():
    picture = np.array([[[0.0], [5.0], [10.0]]], np.float32)
    shown = as_8_bit(picture, PixelFormat(1, "float32", ((0.0, 10.0),)))
    assert np.asarray(shown).tolist() == [[0, 128, 255]]
    image = Image.new("L", (2, 2), 9)
    assert as_8_bit(image, PixelFormat(1)) is image
