"""The Triton kernels: forward pass, gradient of queries, gradients of keys and values.

Each program computes a rectangular tile of tokens of one image and head. It reads the area of tokens that its own
tokens attend to, or that attend to them, once, in rectangular chunks. No two programs add to the same number, so
results are deterministic.

q, k and v are `[B, H, W, N, D]` with stride 1 for the features and any other strides. All other tensors are
contiguous. Logarithms are to base 2. `dims` are the kernel size, D, and D padded to a power of two; `tile` and `chunk`
are height and width in tokens.
"""

from typing import no_type_check

import triton
import triton.language as tl
from triton.language import constexpr

LOG2_E = constexpr(1.4426950408889634)
LOWEST = constexpr(-1e30)  # initial value of the largest logit; finite, since inf - inf is NaN


@triton.jit
@no_type_check
def variable(size):
    """Return a size as a tensor: Triton turns arguments that equal 1 into constants, which lack tensor methods."""
    return tl.full((), size, tl.int32)


@triton.jit
@no_type_check
def window_start(position, size, kernel_size: constexpr):
    """Return the first key of a query's window along one axis; windows are moved inwards at borders."""
    return tl.minimum(tl.maximum(position - kernel_size // 2, 0), size - kernel_size)


@triton.jit
@no_type_check
def first_query(key, kernel_size: constexpr):
    """Return the first query along one axis whose window contains a key."""
    return tl.where(key < kernel_size, 0, key - kernel_size // 2)


@triton.jit
@no_type_check
def last_query(key, size, kernel_size: constexpr):
    """Return the last query along one axis whose window contains a key."""
    return tl.where(key >= size - kernel_size, size - 1, key + kernel_size // 2)


@triton.jit
@no_type_check
def key_area(row, column, size, kernel_size: constexpr, tile: constexpr):
    """Return first row, first column, height and width of the keys that a tile of queries attends to."""
    top, left = window_start(row, size[0], kernel_size), window_start(column, size[1], kernel_size)
    last_row, last_column = tl.minimum(row + tile[0], size[0]) - 1, tl.minimum(column + tile[1], size[1]) - 1
    bottom, right = window_start(last_row, size[0], kernel_size), window_start(last_column, size[1], kernel_size)
    return top, left, bottom + kernel_size - top, right + kernel_size - left


@triton.jit
@no_type_check
def query_area(row, column, size, kernel_size: constexpr, tile: constexpr):
    """Return first row, first column, height and width of the queries that attend to a tile of keys."""
    top, left = first_query(row, kernel_size), first_query(column, kernel_size)
    last_row, last_column = tl.minimum(row + tile[0], size[0]) - 1, tl.minimum(column + tile[1], size[1]) - 1
    bottom, right = last_query(last_row, size[0], kernel_size), last_query(last_column, size[1], kernel_size)
    return top, left, bottom + 1 - top, right + 1 - left


@triton.jit
@no_type_check
def chunk_tokens(index, across, chunk: constexpr):
    """Return the rows and columns of a chunk's tokens, in an area that is `across` chunks wide."""
    token = tl.arange(0, chunk[0] * chunk[1])
    return index // across * chunk[0] + token // chunk[1], index % across * chunk[1] + token % chunk[1]


@triton.jit
@no_type_check
def locate(size, tile: constexpr):
    """Return this program's image, head, first row and column; its tokens' relative rows and columns; which exist."""
    across = tl.cdiv(variable(size[1]), tile[1])
    tiles = tl.cdiv(variable(size[0]), tile[0]) * across
    tile_index, image_head = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    row, column = tile_index // across * tile[0], tile_index % across * tile[1]
    y, x = chunk_tokens(0, 1, tile)
    inside = (row + y < size[0]) & (column + x < size[1])
    return (image_head // size[2]).to(tl.int64), image_head % size[2], row, column, y, x, inside


@triton.jit
@no_type_check
def offset(image, head, row, column, strides):
    """Return the memory offset of a token, in 64 bits: a batch can have more than 2^31 numbers."""
    return image * strides[0] + row.to(tl.int64) * strides[1] + column.to(tl.int64) * strides[2] + head * strides[3]


@triton.jit
@no_type_check
def contiguous(size, features: constexpr):
    """Return the strides of a contiguous tensor `[B, H, W, N, features]`, without the last."""
    row = size[1] * size[2] * features
    return variable(size[0]).to(tl.int64) * row, row, size[2] * features, features


@triton.jit
@no_type_check
def load(start, y, x, strides, inside, dims: constexpr):
    """Return the tokens `[tokens, block_dim]` at rows y and columns x from a start; zero outside of the grid."""
    feature = tl.arange(0, dims[2])
    offsets = start + (y * strides[1] + x * strides[2])[:, None] + feature[None, :]
    mask = inside[:, None]
    if dims[1] != dims[2]:
        mask = mask & (feature < dims[1])[None, :]
    return tl.load(offsets, mask=mask, other=0.0)


@triton.jit
@no_type_check
def store(start, y, x, strides, inside, values, dims: constexpr):
    """Write `[tokens, block_dim]` to the positions that `load` reads."""
    feature = tl.arange(0, dims[2])
    offsets = start + (y * strides[1] + x * strides[2])[:, None] + feature[None, :]
    tl.store(offsets, values.to(start.dtype.element_ty), mask=inside[:, None] & (feature < dims[1])[None, :])


@triton.jit
@no_type_check
def zeros(tile: constexpr, dims: constexpr):
    """Return a float32 accumulator `[tokens, block_dim]` of zeros."""
    tokens: constexpr = tile[0] * tile[1]
    block_dim: constexpr = dims[2]
    return tl.zeros([tokens, block_dim], tl.float32)


@triton.jit
@no_type_check
def product(a, b):
    """Return a b^T in float32, without TF32 rounding of the factors."""
    return tl.dot(a, tl.trans(b), input_precision="ieee")


@triton.jit
@no_type_check
def masked(logits, dy, dx, kernel_size: constexpr):
    """Return the logits, with minus infinity for keys outside of the query's window.

    dy and dx are the distances of the key from the first row and column of the window.
    """
    in_rows = dy.to(tl.uint32, bitcast=True) < kernel_size  # negative distances are large unsigned numbers
    in_columns = dx.to(tl.uint32, bitcast=True) < kernel_size
    return tl.where(in_rows & in_columns, logits, float("-inf"))


@triton.jit
@no_type_check
def forward(q, k, v, out, lse, strides, size, dims: constexpr, tile: constexpr, chunk: constexpr):
    """Write the output and the log-sum-exp of each query's logits `[B, H, W, N]`, with an online softmax."""
    image, head, row, column, y, x, inside = locate(size, tile)
    queries = load(q + offset(image, head, row, column, strides[0]), y, x, strides[0], inside, dims)
    top, left, area_rows, area_columns = key_area(row, column, size, dims[0], tile)
    first_y = (window_start(row + y, size[0], dims[0]) - top)[:, None]
    first_x = (window_start(column + x, size[1], dims[0]) - left)[:, None]
    k += offset(image, head, top, left, strides[1])
    v += offset(image, head, top, left, strides[2])

    largest = tl.full([tile[0] * tile[1]], LOWEST, tl.float32)
    total = tl.zeros([tile[0] * tile[1]], tl.float32)
    sums = zeros(tile, dims)
    across = tl.cdiv(area_columns, chunk[1])
    for index in range(tl.cdiv(area_rows, chunk[0]) * across):
        key_y, key_x = chunk_tokens(index, across, chunk)
        exists = (key_y < area_rows) & (key_x < area_columns)
        keys = load(k, key_y, key_x, strides[1], exists, dims)
        values = load(v, key_y, key_x, strides[2], exists, dims)
        logits = product(queries, keys) * LOG2_E
        logits = masked(logits, key_y[None, :] - first_y, key_x[None, :] - first_x, dims[0])
        new_largest = tl.maximum(largest, tl.max(logits, 1))
        weights = tl.exp2(logits - new_largest[:, None])
        shrink = tl.exp2(largest - new_largest)
        total = total * shrink + tl.sum(weights, 1)
        sums = tl.dot(weights.to(values.dtype), values, sums * shrink[:, None], input_precision="ieee")
        largest = new_largest

    out_strides, lse_strides = contiguous(size, dims[1]), contiguous(size, 1)
    store(out + offset(image, head, row, column, out_strides), y, x, out_strides, inside, sums / total[:, None], dims)
    lse += offset(image, head, row, column, lse_strides)
    tl.store(lse + y * lse_strides[1] + x * lse_strides[2], largest + tl.log2(total), mask=inside)


@triton.jit
@no_type_check
def backward_queries(
    q, k, v, out, grad, lse, delta, grad_q, strides, size, dims: constexpr, tile: constexpr, chunk: constexpr
):
    """Write the gradient of queries, and delta `[B, H, W, N]`: the dot product of each output and its gradient."""
    image, head, row, column, y, x, inside = locate(size, tile)
    out_strides, lse_strides = contiguous(size, dims[1]), contiguous(size, 1)
    start_offset = offset(image, head, row, column, out_strides)
    queries = load(q + offset(image, head, row, column, strides[0]), y, x, strides[0], inside, dims)
    grads = load(grad + start_offset, y, x, out_strides, inside, dims)
    row_delta = tl.sum(
        load(out + start_offset, y, x, out_strides, inside, dims).to(tl.float32) * grads.to(tl.float32), 1
    )
    offsets = offset(image, head, row, column, lse_strides) + y * lse_strides[1] + x * lse_strides[2]
    log_total = tl.load(lse + offsets, mask=inside, other=0.0)
    tl.store(delta + offsets, row_delta, mask=inside)
    top, left, area_rows, area_columns = key_area(row, column, size, dims[0], tile)
    first_y = (window_start(row + y, size[0], dims[0]) - top)[:, None]
    first_x = (window_start(column + x, size[1], dims[0]) - left)[:, None]
    k += offset(image, head, top, left, strides[1])
    v += offset(image, head, top, left, strides[2])

    sums = zeros(tile, dims)
    across = tl.cdiv(area_columns, chunk[1])
    for index in range(tl.cdiv(area_rows, chunk[0]) * across):
        key_y, key_x = chunk_tokens(index, across, chunk)
        exists = (key_y < area_rows) & (key_x < area_columns)
        keys = load(k, key_y, key_x, strides[1], exists, dims)
        values = load(v, key_y, key_x, strides[2], exists, dims)
        logits = product(queries, keys) * LOG2_E - log_total[:, None]
        weights = tl.exp2(masked(logits, key_y[None, :] - first_y, key_x[None, :] - first_x, dims[0]))
        grad_logits = weights * (product(grads, values) - row_delta[:, None])
        sums = tl.dot(grad_logits.to(keys.dtype), keys, sums, input_precision="ieee")
    store(grad_q + start_offset, y, x, out_strides, inside, sums, dims)


@triton.jit
@no_type_check
def backward_keys(
    q, k, v, grad, lse, delta, grad_k, grad_v, strides, size, dims: constexpr, tile: constexpr, chunk: constexpr
):
    """Write the gradients of keys and values, from the delta that `backward_queries` wrote."""
    image, head, row, column, y, x, inside = locate(size, tile)
    keys = load(k + offset(image, head, row, column, strides[1]), y, x, strides[1], inside, dims)
    values = load(v + offset(image, head, row, column, strides[2]), y, x, strides[2], inside, dims)
    out_strides, lse_strides = contiguous(size, dims[1]), contiguous(size, 1)
    top, left, area_rows, area_columns = query_area(row, column, size, dims[0], tile)
    q += offset(image, head, top, left, strides[0])
    grad += offset(image, head, top, left, out_strides)
    start_offset = offset(image, head, top, left, lse_strides)

    key_sums = zeros(tile, dims)
    value_sums = zeros(tile, dims)
    across = tl.cdiv(area_columns, chunk[1])
    for index in range(tl.cdiv(area_rows, chunk[0]) * across):
        query_y, query_x = chunk_tokens(index, across, chunk)
        exists = (query_y < area_rows) & (query_x < area_columns)
        queries = load(q, query_y, query_x, strides[0], exists, dims)
        grads = load(grad, query_y, query_x, out_strides, exists, dims)
        offsets = start_offset + query_y * lse_strides[1] + query_x * lse_strides[2]
        log_total = tl.load(lse + offsets, mask=exists, other=float("inf"))[None, :]  # missing queries get weight 0
        row_delta = tl.load(delta + offsets, mask=exists, other=0.0)[None, :]
        first_y = (window_start(top + query_y, size[0], dims[0]) - row)[None, :]
        first_x = (window_start(left + query_x, size[1], dims[0]) - column)[None, :]
        logits = product(keys, queries) * LOG2_E - log_total
        weights = tl.exp2(masked(logits, y[:, None] - first_y, x[:, None] - first_x, dims[0]))
        value_sums = tl.dot(weights.to(grads.dtype), grads, value_sums, input_precision="ieee")
        grad_logits = weights * (product(values, grads) - row_delta)
        key_sums = tl.dot(grad_logits.to(queries.dtype), queries, key_sums, input_precision="ieee")
    start_offset = offset(image, head, row, column, out_strides)
    store(grad_k + start_offset, y, x, out_strides, inside, key_sums, dims)
    store(grad_v + start_offset, y, x, out_strides, inside, value_sums, dims)
