"""HTML of the page: images as data in the page itself, so that no file is served, and lines of text."""

import base64
import html
import io
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from hdit_core.images import png_bytes, to_pil
from hdit_core.play.live_sampling import Frame

PREVIEW_PX = 320  # side of the unfinished images of large networks
PIXELATED_PX = 160  # side up to which enlarged images show their pixels
SMALL_PX, LARGE_PX = 128, 384  # sides of such images, among others and alone
REGIONS = {
    "center": (0.25, 0.25, 0.75, 0.75),
    "left half": (0, 0, 0.5, 1),
    "right half": (0.5, 0, 1, 1),
    "upper half": (0, 0, 1, 0.5),
    "lower half": (0, 0.5, 1, 1),
}
"""Regions that can be added to the mask: left, upper, right and lower edge as fractions of the image."""


def png_url(content: bytes) -> str:
    """Return a PNG file as an address that contains it."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def status(text: str, *, error: bool = False) -> str:
    """Return a line that screen readers announce."""
    line = html.escape(" ".join(text.split()))
    kind = "status error" if error else "status"
    return f'<p class="{kind}" role="{"alert" if error else "status"}">{line}</p>'


def command_line(words: Iterable[str], files: Mapping[str, bytes] | None = None) -> str:
    """Return the command that gives the same images, a button that copies it, and links that save its PNG files."""
    code = html.escape(shlex.join(words))
    links = [f'<a href="{png_url(content)}" download="{name}">{name}</a>' for name, content in (files or {}).items()]
    save = f" Save its {' and '.join(links)}." if links else ""
    return f'<p class="command">Command for the same images: <code>{code}</code> <button>Copy</button>{save}</p>'


def pictures(frame: Frame) -> str:
    """Return the images of a frame with their captions; finished ones are links that save them."""
    figures = [
        _figure(image, caption, frame.is_last) for image, caption in zip(frame.images, frame.captions, strict=False)
    ]
    hint = '<p class="hint">Click an image to save it.</p>' if frame.is_last else ""
    return f'<div class="pictures{_kind(frame.images, SMALL_PX)}>{"".join(figures)}</div>{hint}'


def _kind(images: Sequence[UInt8[np.ndarray, "H W C"]], side_px: int) -> str:
    """Return the end of a class attribute; small images are enlarged by a whole factor, so that pixels are equal."""
    side = max(images[0].shape[:2]) if images else 0
    if not 0 < side <= PIXELATED_PX:
        return '"'
    return f' small" style="--width: {images[0].shape[1] * max(1, side_px // side)}px"'


def _figure(image_u8: UInt8[np.ndarray, "H W C"], caption: str, finished: bool) -> str:
    url, text = png_url(png_bytes(image_u8) if finished else _preview(image_u8)), html.escape(caption)
    picture = f'<img src="{url}" alt="{text}">'
    if finished:
        name = re.sub(r"\W+", "-", caption).strip("-")  # "image-2-class-7"
        picture = f'<a href="{url}" download="{name}.png" title="save {text}">{picture}</a>'
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"


def _preview(image_u8: UInt8[np.ndarray, "H W C"]) -> bytes:
    """Return a PNG that is smaller than the image if that is large."""
    if max(image_u8.shape[:2]) <= PREVIEW_PX:
        return png_bytes(image_u8)
    image, content = to_pil(image_u8), io.BytesIO()
    image.thumbnail((PREVIEW_PX, PREVIEW_PX))
    image.save(content, "PNG")
    return content.getvalue()


def one_picture(image_u8: UInt8[np.ndarray, "H W C"], text: str) -> str:
    """Return one image, large."""
    return (
        f'<div class="pictures one{_kind([image_u8], LARGE_PX)}><figure><img src="{png_url(png_bytes(image_u8))}" '
        f'alt="{html.escape(text)}"><figcaption>{html.escape(text)}</figcaption></figure></div>'
    )


def brush_canvas(image_u8: UInt8[np.ndarray, "H W C"]) -> str:
    """Return an image on which page.js paints a mask of its size."""
    height, width = image_u8.shape[:2]
    return (
        f'<div class="brush{_kind([image_u8], LARGE_PX)}>'
        f'<img src="{png_url(png_bytes(image_u8))}" width="{width}" height="{height}" alt="the image to edit">'
        f'<canvas width="{width}" height="{height}" tabindex="0" role="application" '
        'aria-label="Mask. Paint with the pointer; or move with the arrow keys, paint with Space, erase with X.">'
        "</canvas></div>"
    )


def fill_buttons() -> str:
    """Return buttons with which page.js adds a region to the mask."""
    boxes = {name: ",".join(map(str, box)) for name, box in REGIONS.items()}
    buttons = " ".join(f'<button data-fill="{box}">{name}</button>' for name, box in boxes.items())
    return f'<p class="fill">Add to the mask: {buttons}</p>'


def charts(pngs: Iterable[bytes]) -> str:
    """Return the curves of a run."""
    images = "".join(f'<img src="{png_url(content)}" alt="curve {n}">' for n, content in enumerate(pngs, 1))
    return f'<div class="charts">{images}</div>' if images else status("nothing is logged yet")


def sheet(content: bytes | None, text: str) -> str:
    """Return a sample grid of a run."""
    if content is None:
        return status("there is no sample grid yet, or it is too large to show")
    return f'<figure class="sheet"><img src="{png_url(content)}" alt="{text}"><figcaption>{text}</figcaption></figure>'
