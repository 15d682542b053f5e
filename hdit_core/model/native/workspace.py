"""Which blocks one compiled pass takes, and what room it works in: from sizes alone, for those who plan memory too."""

LEAST_ROWS = 64
"""Rows of an image: products of fewer are slow."""

MOST_WEIGHTS = 2**20
"""Numbers of a block's matrices, 4 MiB: larger ones would be fetched from afar for each block of rows."""

MOST_WINDOW = 1024
"""Tokens of a window, whose weights are all there at once."""

MOST_GLOBAL = 256
"""Tokens of a grid that is trained as one window; there is one thread for an image then, so each has to have one."""

WINDOW_ROWS = 128
"""Rows that are worked on at a time where they come in windows, about."""

BLOCK_NUMBERS = 320 * 1024
"""Numbers that a block of the feed-forward pass works on: 1.25 MiB, which a core keeps to itself."""

NARROW_ROWS, WIDE_ROWS = 128, 256
"""Rows that the gradient of a feed-forward block is worked out for at a time."""


def should_fuse(rows: int, weights: int) -> bool:
    """Return whether one pass is the faster way, where it can be had.

    Args:
        rows: of an image; no matter how many images there are, so that an image has the same bits among any others.
        weights: numbers of the block's matrices.
    """
    return rows >= LEAST_ROWS and weights <= MOST_WEIGHTS


def gradient_rows(rows: int, width: int) -> int:
    """Return how many rows of an image are worked on at a time: more of wide ones, whose weights' sums are larger."""
    return min(rows, max(NARROW_ROWS, min(width, WIDE_ROWS)))


def feed_forward_blocks(rows: int, width: int, hidden: int, threads: int, keep: bool) -> tuple[int, int, int]:
    """Return into how many blocks all rows are divided, the threads at work, and the numbers that they work in.

    Args:
        rows: of all images.
        width: of the tokens.
        hidden: features.
        threads: that there are.
        keep: whether values and gates are kept, and so need no room of their own.
    """
    blocks = rows * (width + 3 * hidden) // BLOCK_NUMBERS + 1
    blocks = min(blocks + -blocks % threads, rows // LEAST_ROWS)
    threads = min(threads, blocks)
    return blocks, threads, threads * -(-rows // blocks) * (width + (1 if keep else 3) * hidden)


def feed_forward_workspace(images: int, rows: int, width: int, hidden: int, threads: int) -> tuple[int, int]:
    """Return the threads that form sums of weights' gradients, each its own, and the numbers that they work in.

    Args:
        images, rows: how many, and rows of each.
        width: of the tokens.
        hidden: features.
        threads: that there are.
    """
    block = gradient_rows(rows, width)
    lanes = min(threads, images * -(-rows // block))
    return lanes, lanes * block * (2 * width + 3 * hidden) + (lanes - 1) * 3 * width * hidden


def windows_at_a_time(windows: int, tokens: int) -> int:
    """Return how many windows of an image are worked on at a time.

    Args:
        windows: of an image.
        tokens: of a window.
    """
    return min(max(WINDOW_ROWS // tokens, 1), windows)


def window_workspace(images: int, windows: int, tokens: int, width: int, threads: int) -> tuple[int, int, int]:
    """Return the threads that form sums of weights' gradients, and the numbers that they work in, forth and back.

    Args:
        images, windows, tokens: how many, windows of each, and tokens of a window.
        width: of the tokens.
        threads: that there are.
    """
    block = windows_at_a_time(windows, tokens)
    lanes = min(threads, images * -(-windows // block))
    forth = lanes * (block * tokens * 6 * width + 2 * tokens**2)
    return lanes, forth, forth + (lanes - 1) * 4 * width**2
