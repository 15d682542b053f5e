"""When fused blocks are used, and the sizes of their temporary buffers; computed from sizes alone, as `plan` needs.

"Numbers" are float32 elements.
"""

MIN_ROWS = 64
"""Fewest rows per image: matrix products of fewer rows are slow."""

MAX_WEIGHTS = 2**20
"""Most numbers in a block's matrices, 4 MiB: larger matrices would leave the cache for each block of rows."""

MAX_WINDOW_TOKENS = 1024
"""Most tokens per window, whose attention weights are all in memory at once."""

MAX_GLOBAL_TOKENS = 256
"""Most tokens of a grid that is trained as a single window, with one thread per image."""

WINDOW_ROWS = 128
"""Approximate number of rows that are processed at a time, in whole windows."""

BLOCK_NUMBERS = 320 * 1024
"""Numbers that a block of the feed-forward kernel works on: 1.25 MiB, which fits in the cache of one core."""

NARROW_ROWS, WIDE_ROWS = 128, 256
"""Rows per block in the backward pass of a feed-forward block, for narrow and for wide tokens."""


def should_fuse(rows: int, weights: int) -> bool:
    """Return whether the fused kernel of a block is faster than separate operations.

    Args:
        rows: per image. The batch size is not considered, so that it does not change the bits of an image.
        weights: numbers in the block's matrices.
    """
    return rows >= MIN_ROWS and weights <= MAX_WEIGHTS


def gradient_rows(rows: int, width: int) -> int:
    """Return the rows per block in the backward pass: more for wide rows, whose weight gradients are larger."""
    return min(rows, max(NARROW_ROWS, min(width, WIDE_ROWS)))


def feed_forward_blocks(rows: int, width: int, hidden: int, threads: int, keep: bool) -> tuple[int, int, int]:
    """Return the number of row blocks, the number of threads, and the size of the workspace in numbers.

    Args:
        rows: of all images.
        keep: whether values and gates are saved; otherwise they are part of the workspace.
    """
    blocks = rows * (width + 3 * hidden) // BLOCK_NUMBERS + 1
    blocks = min(blocks + -blocks % threads, rows // MIN_ROWS)
    threads = min(threads, blocks)
    return blocks, threads, threads * -(-rows // blocks) * (width + (1 if keep else 3) * hidden)


def feed_forward_workspace(images: int, rows: int, width: int, hidden: int, threads: int) -> tuple[int, int]:
    """Return the number of threads, each with its own partial sums, and the size of the workspace in numbers.

    Args:
        images, rows: number of images, and rows per image.
    """
    block = gradient_rows(rows, width)
    lanes = min(threads, images * -(-rows // block))
    return lanes, lanes * block * (2 * width + 3 * hidden) + (lanes - 1) * 3 * width * hidden


def windows_per_block(windows: int, tokens: int) -> int:
    """Return how many windows of an image are processed at a time.

    Args:
        windows: per image.
        tokens: per window.
    """
    return min(max(WINDOW_ROWS // tokens, 1), windows)


def window_workspace(images: int, windows: int, tokens: int, width: int, threads: int) -> tuple[int, int, int]:
    """Return the number of threads with partial sums, and the forward and backward workspace sizes in numbers.

    Args:
        images, windows, tokens: number of images, windows per image, and tokens per window.
    """
    block = windows_per_block(windows, tokens)
    lanes = min(threads, images * -(-windows // block))
    forward_size = lanes * (block * tokens * 6 * width + 2 * tokens**2)
    return lanes, forward_size, forward_size + (lanes - 1) * 4 * width**2
