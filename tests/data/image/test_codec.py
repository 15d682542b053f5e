"""Images in shards are exact, or JPEG of a given quality; nothing else is decoded."""

import io

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.image.codec import decode, encode

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)


@pytest.mark.parametrize("codec", ["png", "webp"])
def test_lossless_kinds_give_every_pixel_back(codec):
    assert np.array_equal(decode(encode(Image.fromarray(PIXELS), codec), codec, (9, 14, 3)), PIXELS)
    grey = PIXELS[..., :1]
    assert np.array_equal(decode(encode(Image.fromarray(grey[..., 0]), codec), codec, (9, 14, 1)), grey)


def test_a_higher_jpeg_quality_is_closer_and_larger():
    errors, sizes = [], []
    for quality in (20, 60, 100):
        content = encode(Image.fromarray(PIXELS), "jpeg", quality)
        errors.append(np.abs(decode(content, "jpeg", (9, 14, 3)).astype(int) - PIXELS).mean())
        sizes.append(len(content))
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)
    assert errors[-1] < 2


@pytest.mark.parametrize("codec", ["png", "webp"])
def test_quality_is_of_jpeg_alone(codec):
    assert encode(Image.fromarray(PIXELS), codec, 1) == encode(Image.fromarray(PIXELS), codec, 100)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("codec", ["png", "webp", "jpeg"])
def test_a_file_of_another_kind_is_never_decoded(kind, codec):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind)
    if kind.lower() == codec:
        assert decode(buffer.getvalue(), codec, (9, 14, 3)).shape == (9, 14, 3)
    else:
        with pytest.raises(ValueError, match=f"not a {codec.upper()} image"):
            decode(buffer.getvalue(), codec, (9, 14, 3))


def test_another_size_is_refused_before_it_is_decoded(monkeypatch):
    content = encode(Image.fromarray(PIXELS), "png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="9x14 pixels where the manifest says 14x9"):
        decode(content, "png", (14, 9, 3))
