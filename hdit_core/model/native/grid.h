// The grid of tokens, its memory, and which keys a query sees.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lanes.h"

using Index = int64_t;

// Numbers [batch, height, width, heads, features]; the features of a token's head lie side by side.
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

// One axis: the window of query i is start(i) ... start(i) + kernel - 1; it moves inwards at the borders.
struct Axis {
    Index size, kernel;

    Index start(Index query) const { return std::clamp<Index>(query - kernel / 2, 0, size - kernel); }
    // the first and the last query whose window starts there
    Index first(Index start) const { return start == 0 ? 0 : start + kernel / 2; }
    Index last(Index start) const { return start == size - kernel ? size - 1 : start + kernel / 2; }
    // the first and the last start of the windows that hold a key
    Index lowest(Index key) const { return std::max<Index>(key - kernel + 1, 0); }
    Index highest(Index key) const { return std::min<Index>(key, size - kernel); }
};

// Weights, or gradients of logits, of a head and image: [height, blocks, kernel^2, LANES]; a lane is a query.
struct Weights {
    Real* data;
    Index window, row;

    Index place(Index x) const { return Index(size_t(x) / LANES) * window * LANES + Index(size_t(x) % LANES); }
    Real* at(Index y, Index x) const { return data + y * row + place(x); }
};
