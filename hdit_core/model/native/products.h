// Dot products of neighboring queries with the keys of their windows; lanes are queries, so no lane is wasted.
//
// In a transposed row of keys [features, width], a vector that begins at key x + c contains the c-th key of the windows
// of queries x ... x + LANES - 1. At borders, where windows do not slide with their queries, the affected lanes are
// replaced by the right key.
#pragma once

#include "grid.h"

constexpr int ROWS = MANY_REGISTERS ? 3 : 2;     // query rows that share the loads of a row of keys
constexpr int COLUMNS = MANY_REGISTERS ? 7 : 5;  // key columns at a time; ROWS x COLUMNS sums fit in registers

// Transposes a row of tokens [width, features] to [features, stride].
inline void transpose_tokens(const Real* from, Index step, Index width, Index features, Real* to, Index stride) {
    const bool squares = width >= LANES && features >= LANES;
    for (Index x = 0; squares && x < width; x += LANES)
        for (Index d = 0; d < features; d += LANES) {
            const Index left = std::min(x, width - LANES), top = std::min(d, features - LANES);  // the last overlap
            Wide square[LANES];
            for (int i = 0; i < LANES; i++) square[i] = load(from + (left + i) * step + top);
            transpose(square);
            for (int i = 0; i < LANES; i++) store(to + (top + i) * stride + left, square[i]);
        }
    for (Index x = 0; !squares && x < width; x++)
        for (Index d = 0; d < features; d++) to[d * stride + x] = from[x * step + d];
}

// The lanes of a block of queries whose windows are at the left or right border of the grid.
struct Border {
    WideInteger left, right;
    bool any;

    Border(const Axis& axis, Index x) : left{}, right{}, any(false) {
        for (int lane = 0; lane < LANES; lane++) {
            const Index query = x + lane, linear = query - axis.kernel / 2;
            left[lane] = linear < 0 ? -1 : 0;
            right[lane] = linear > axis.size - axis.kernel ? -1 : 0;
            any |= left[lane] || right[lane];
        }
    }
};

struct Products {
    const Real* queries;    // [rows, features, LANES]
    const Real* keys;       // [features, stride]: keys of the first query, from some column of its window on
    const Real* leftmost;   // the same for a query at the left border
    const Real* rightmost;  // the same for a query at the right border
    Index features, stride;
    const Border* border;
    Real* out[ROWS];  // for each query row: [columns, LANES]
};

template <int R, int C, bool BORDER> void multiply(const Products& p) {
    Wide sums[R][C] = {};
    for (Index d = 0; d < p.features; d++) {
        Wide query[R];
        unroll<R>([&](auto r) INLINED { query[r] = load(p.queries + (r * p.features + d) * LANES); });
        unroll<C>([&](auto c) INLINED {
            const Index index = d * p.stride + c;
            Wide key = load(p.keys + index);
            if constexpr (BORDER) {
                key = p.border->left ? spread(p.leftmost[index]) : key;
                key = p.border->right ? spread(p.rightmost[index]) : key;
            }
            keep<LANES>(key);
            unroll<R>([&](auto r) INLINED { sums[r][c] += query[r] * key; });
        });
    }
    unroll<R>([&](auto r) INLINED { unroll<C>([&](auto c) INLINED { store(p.out[r] + c * LANES, sums[r][c]); }); });
}

template <int R, int C> void multiply(const Products& p, int columns) {
    if (columns < C) {
        if constexpr (C > 1) multiply<R, C - 1>(p, columns);
    } else if (p.border->any) {
        multiply<R, C, true>(p);
    } else {
        multiply<R, C, false>(p);
    }
}

template <int R = ROWS> void multiply(const Products& p, int rows, int columns) {
    if (rows < R) {
        if constexpr (R > 1) multiply<R - 1>(p, rows, columns);
    } else {
        multiply<R, COLUMNS>(p, columns);
    }
}

// Products of up to ROWS query rows at a time with all keys of their windows, for a band of rows of one head.
class Band {
  public:
    static Index scratch(const Shape& s) {
        return (s.kernel + ROWS - 1) * s.features * stride(s) + ROWS * s.features * LANES;
    }

    Band(const Shape& shape, const View& queries, const View& keys, Index b, Index n, Real* scratch)
        : s(shape), queries(queries), keys(keys), b(b), n(n), ring(scratch),
          block(scratch + (s.kernel + ROWS - 1) * s.features * stride(s)), rows{s.height, s.kernel},
          columns{s.width, s.kernel} {}

    // Computes the products of query rows y ... y + count - 1: out[r] is [blocks, kernel^2, LANES]. Call it with
    // increasing y.
    void products(Index y, int count, Real* const* out) {
        const Index top = rows.start(y), bottom = rows.start(y + count - 1) + s.kernel;
        for (next_row = std::max(next_row, top); next_row < bottom; next_row++)
            transpose_tokens(keys.at(b, n, next_row), keys.column, s.width, s.features, slot(next_row) + s.kernel / 2,
                             stride(s));
        for (Index x = 0; x < s.width; x += LANES) {
            for (int r = 0; r < count; r++) {
                const Real* from = queries.at(b, n, y + r) + x * queries.column;
                transpose_tokens(from, queries.column, std::min<Index>(LANES, s.width - x), s.features,
                        block + r * s.features * LANES, LANES);
            }
            const Border border(columns, x);
            for (Index key = top; key < bottom; key++) products_with(key, y, count, x, border, out);
        }
    }

  private:
    const Shape& s;
    const View &queries, &keys;
    Index b, n, next_row = 0;
    Real *ring, *block;
    Axis rows, columns;

    static Index stride(const Shape& s) { return s.blocks() * LANES + (s.kernel + LANES - 1) / LANES * LANES; }
    Real* slot(Index key) { return ring + key % (s.kernel + ROWS - 1) * s.features * stride(s); }

    // Computes the products of a block of columns with one row of keys, for the query rows that attend to it.
    void products_with(Index key, Index y, int count, Index x, const Border& border, Real* const* out) {
        int from = 0, to = count;
        while (rows.start(y + from) + s.kernel <= key) from++;
        while (rows.start(y + to - 1) > key) to--;
        if (from >= to) return;
        const Real* keys = slot(key);
        Products p{block + from * s.features * LANES, 0, 0, 0, s.features, stride(s), &border, {}};
        const Index chunks = (s.kernel + COLUMNS - 1) / COLUMNS;
        for (Index chunk = 0; chunk < chunks; chunk++) {
            const Index column = s.kernel * chunk / chunks, end = s.kernel * (chunk + 1) / chunks;
            p.keys = keys + x + column;
            p.leftmost = keys + s.kernel / 2 + column;
            p.rightmost = p.leftmost + s.width - s.kernel;
            for (int r = from; r < to; r++) {
                const Index first = (key - rows.start(y + r)) * s.kernel + column;
                p.out[r - from] = out[r] + (x / LANES * s.window() + first) * LANES;
            }
            multiply(p, to - from, end - column);
        }
    }
};
