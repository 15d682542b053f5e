"""NumPy's .npy files: written for shards, and read from anyone, never through pickle."""

import io
from typing import Any

import numpy as np
from jaxtyping import Shaped

LARGEST_HEADER_BYTES = 4096
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

Array = Shaped[np.ndarray, "..."]


def npy_bytes(array: Array) -> bytes:
    """Return an array as a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
    return buffer.getvalue()


def is_npy(content: bytes) -> bool:
    """Return whether a file is a .npy file, by its first bytes."""
    return content.startswith(np.lib.format.MAGIC_PREFIX)


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f".npy version {version[0]}.{version[1]}; expected 1.0 or 2.0")
    return _HEADERS[version](file, max_header_size=LARGEST_HEADER_BYTES)


def read_npy(content: bytes) -> Array:
    """Return the array in a .npy file, which shares the memory of the file.

    Raises:
        ValueError: it is damaged, contains Python objects, or its size differs from its header.
    """
    file = io.BytesIO(content)
    try:
        shape, by_columns, dtype = _header(file)
    except (ValueError, EOFError, SyntaxError, TypeError, RecursionError) as problem:
        raise ValueError(f"damaged .npy: {str(problem)[:200] or type(problem).__name__}") from None
    if dtype.hasobject or dtype.kind not in "biuf":
        raise ValueError(f".npy of {dtype}; expected numbers such as uint8, uint16 or float32")
    start, size_bytes = file.tell(), dtype.itemsize
    for side in shape:
        size_bytes *= side
    if min(shape, default=1) < 0 or len(content) - start != size_bytes:
        raise ValueError(f"damaged .npy: {len(content) - start:,} bytes are not an array {shape} of {dtype}")
    array = np.frombuffer(content, dtype, offset=start) if size_bytes else np.empty(0, dtype)
    return array.reshape(shape, order="F" if by_columns else "C")
