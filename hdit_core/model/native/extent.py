"""Which blocks one compiled pass takes, and what room it works in: from sizes alone, for those who plan memory too."""

LEAST_ROWS = 64
"""Rows of an image: products of fewer are slow."""

MOST_WEIGHTS = 2**20
"""Numbers of a block's matrices, 4 MiB: larger ones would be fetched from afar for each block of rows."""

WINDOW_ROWS = 128
"""Rows that are worked on at a time where they come in windows, about."""

NARROW_ROWS, WIDE_ROWS = 128, 256
"""Rows that the gradient of a feed-forward block is worked out for at a time."""


def is_taken(rows: int, weights: int) -> bool:
    """Return whether one pass is the faster way, where it can be had.

    Args:
        rows: of an image; no matter how many images there are, so that an image has the same bits among any others.
        weights: numbers of the block's matrices.
    """
    return rows >= LEAST_ROWS and weights <= MOST_WEIGHTS


def gradient_rows(rows: int, width: int) -> int:
    """Return how many rows of an image are worked on at a time: more of wide ones, whose weights' sums are larger."""
    return min(rows, max(NARROW_ROWS, min(width, WIDE_ROWS)))


def feed_forward_scratch(images: int, rows: int, width: int, hidden: int, threads: int) -> tuple[int, int]:
    """Return in how many sums weights' gradients are formed, and the numbers that the backward pass works in."""
    block = gradient_rows(rows, width)
    lanes = min(threads, images * -(-rows // block))
    return lanes, threads * block * (2 * width + 3 * hidden) + (lanes - 1) * 3 * width * hidden


def windows_at_a_time(windows: int, tokens: int) -> int:
    """Return how many windows of an image are worked on at a time.

    Args:
        windows: of an image.
        tokens: of a window.
    """
    return min(max(WINDOW_ROWS // tokens, 1), windows)


def windows_scratch(images: int, windows: int, tokens: int, width: int, threads: int) -> tuple[int, int, int]:
    """Return in how many sums weights' gradients are formed, and the numbers that a pass works in, forth and back."""
    block = windows_at_a_time(windows, tokens)
    lanes = min(threads, images * -(-windows // block))
    forth = threads * (block * tokens * 6 * width + 2 * tokens**2)
    return lanes, forth, forth + (lanes - 1) * 4 * width**2
