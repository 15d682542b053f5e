// The grid of tokens, its memory layout, and the windows of queries.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lanes.h"

using Index = int64_t;

// A tensor [batch, height, width, heads, features] with contiguous features.
struct View {
    Real* data;
    Index batch, row, column, head;  // strides in numbers

    Real* at(Index b, Index n, Index y) const { return data + b * batch + n * head + y * row; }
};

struct Shape {
    Index batch, height, width, heads, features, kernel;

    Index blocks() const { return (width + LANES - 1) / LANES; }
    Index window() const { return kernel * kernel; }
    Index weights_of_row() const { return blocks() * window() * LANES; }
};

// One axis: the window of query i is start(i) ... start(i) + kernel - 1, shifted inwards at the borders.
struct Axis {
    Index size, kernel;

    Index start(Index query) const { return std::clamp<Index>(query - kernel / 2, 0, size - kernel); }
    // the first and the last query whose window starts at `start`
    Index first(Index start) const { return start == 0 ? 0 : start + kernel / 2; }
    Index last(Index start) const { return start == size - kernel ? size - 1 : start + kernel / 2; }
    // the first and the last start of windows that contain a key
    Index lowest(Index key) const { return std::max<Index>(key - kernel + 1, 0); }
    Index highest(Index key) const { return std::min<Index>(key, size - kernel); }
};

// Weights, or gradients of logits, of one head of an image: [height, blocks, kernel^2, LANES]; a lane is a query.
struct Weights {
    Real* data;
    Index window, row;

    Index offset(Index x) const { return Index(size_t(x) / LANES) * window * LANES + Index(size_t(x) % LANES); }
    Real* at(Index y, Index x) const { return data + y * row + offset(x); }
};
