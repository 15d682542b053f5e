// Weighted sums of tokens over windows; lanes are features, so tokens are read without transposition.
//
// Neighboring queries share most keys: up to GROUP queries are computed together, and each key is loaded once.
#pragma once

#include "grid.h"

// Powers of two; GROUP x VECTORS sums fit in registers.
constexpr int GROUP = 4, VECTORS = MANY_REGISTERS ? 4 : 2;

template <int L, int V, int T> struct Sums {
    Vector<L> sum[T][V];

    INLINE Sums() {
        unroll<T>([&](auto r) INLINED { unroll<V>([&](auto i) INLINED { sum[r][i] = Vector<L>{}; }); });
    }

    // Adds a token to sums LOW ... HIGH - 1; weight[r] points to the weight for sum r.
    template <int LOW, int HIGH> INLINE void add(const Real* token, const Real* const* weight, Index offset) {
        Vector<L> features[V];
        unroll<V>([&](auto i) INLINED {
            features[i] = load<L>(token + i * L);
            keep<L>(features[i]);
        });
        unroll<HIGH - LOW>([&](auto i) INLINED {
            auto w = spread<L>(weight[LOW + i][offset]);
            keep<L>(w);
            unroll<V>([&](auto j) INLINED { sum[LOW + i][j] += w * features[j]; });
        });
    }

    INLINE void write(Real* to, Index step) const {
        unroll<T>([&](auto r) INLINED {
            unroll<V>([&](auto i) INLINED { store<L>(to + r * step + i * L, sum[r][i]); });
        });
    }
};

// Calls add(0, 1) ... add(0, T - 1), for the columns in which the windows of a group begin one after the other.
template <int I, int T, class Add> INLINE void begin_windows(const Add& add) {
    if constexpr (I < T) {
        add(Number<0>(), Number<I>());
        begin_windows<I + 1, T>(add);
    }
}

// Calls add(1, T) ... add(T - 1, T), for the columns in which the windows end one after the other.
template <int I, int T, class Add> INLINE void end_windows(const Add& add) {
    if constexpr (I < T) {
        add(Number<I>(), Number<T>());
        end_windows<I + 1, T>(add);
    }
}

// For queries x ... x + T - 1 of row y, sums over the keys of their windows.
struct Gather {
    const Axis &rows, &columns;
    Weights weights;
    Real *tokens, *out;  // of the head: row 0, column 0
    Index row, column;   // strides of tokens
    Index out_row, out_column;

    // The windows begin in the same column, or each one column after the previous (SLIDING).
    template <int L, int V, int T, bool SLIDING> void sum(Index y, Index x, Index feature) const {
        Sums<L, V, T> sums;
        const Index kernel = rows.kernel;
        const Real* weight[T];  // of the group's first key; each query's own first key is one column further
        for (int r = 0; r < T; r++) weight[r] = weights.at(y, x + r) - (SLIDING ? r * LANES : 0);
        const Real* line = tokens + rows.start(y) * row + columns.start(x) * column + feature;
        for (Index dy = 0; dy < kernel; dy++, line += row) {
            const Real* token = line;
            Index offset = dy * kernel * LANES;
            auto add = [&](auto low, auto high) INLINED {
                sums.template add<low, high>(token, weight, offset);
                token += column, offset += LANES;
            };
            if constexpr (SLIDING) begin_windows<1, T>(add);
            for (Index j = SLIDING ? T - 1 : 0; j < kernel; j++) add(Number<0>(), Number<T>());
            if constexpr (SLIDING) end_windows<1, T>(add);
        }
        sums.write(out + y * out_row + x * out_column + feature, out_column);
    }

    template <int L, int V, int T> void group(Index y, Index x, Index feature) const {
        if (T > 1 && columns.start(x) != columns.start(x + T - 1))
            sum<L, V, T, true>(y, x, feature);
        else
            sum<L, V, T, false>(y, x, feature);
    }

    // The number of queries from x on whose windows either all have the same start or all slide.
    Index uniform_queries(Index x) const {
        const Index half = columns.kernel / 2, last = columns.size - 1 - half;
        return (x <= half ? half + 1 : x < last ? last : columns.size) - x;
    }
};

// For keys x ... x + T - 1 of row y, sums over the queries whose windows contain them.
struct Scatter : Gather {
    // INNER: all windows that contain these keys slide, that is, none is at a border.
    template <int L, int V, int T, bool INNER> void sum(Index y, Index x, Index feature) const {
        Sums<L, V, T> sums;
        for (Index top = rows.lowest(y); top <= rows.highest(y); top++)
            for (Index query = rows.first(top); query <= rows.last(top); query++) {
                const Real* line = tokens + query * row + feature;
                const Real* own = weights.at(query, 0) + (y - top) * rows.kernel * LANES;
                Index left = x - columns.kernel + 1;  // first column of a window
                auto visit = [&](auto low, auto high) INLINED {
                    auto add = [&](Index q) INLINED {
                        const Real *first = own + weights.offset(q) + (x - left) * LANES, *weight[T];
                        unroll<T>([&](auto r) INLINED { weight[r] = first + r * LANES; });
                        sums.template add<low, high>(line + q * column, weight, 0);
                    };
                    if constexpr (INNER) {
                        add(left + columns.kernel / 2);
                    } else if (left >= 0 && left <= columns.size - columns.kernel) {
                        for (Index q = columns.first(left); q <= columns.last(left); q++) add(q);
                    }
                    left++;
                };
                begin_windows<1, T>(visit);
                while (left <= x) visit(Number<0>(), Number<T>());
                end_windows<1, T>(visit);
            }
        sums.write(out + y * out_row + x * out_column + feature, out_column);
    }

    template <int L, int V, int T> void group(Index y, Index x, Index feature) const {
        if (x - columns.kernel + 1 > 0 && x + T - 1 < columns.size - columns.kernel)
            sum<L, V, T, true>(y, x, feature);
        else
            sum<L, V, T, false>(y, x, feature);
    }

    Index uniform_queries(Index x) const { return columns.size - x; }
};

// Sums as many features at a time as fit in registers; the last vector may overlap the one before.
template <int L, int V, int T, class Kind>
void sum_features(const Kind& kind, Index features, Index y, Index x, Index d) {
    for (; d + V * L <= features; d += V * L) kind.template group<L, V, T>(y, x, d);
    if constexpr (V > 1)
        sum_features<L, V / 2, T>(kind, features, y, x, d);
    else if (d < features)
        kind.template group<L, 1, T>(y, x, features - L);
}

// Sums as many tokens from x on as can be computed together, up to T; returns their number.
template <int T, class Kind> int sum_group(const Kind& kind, Index features, Index y, Index x) {
    if constexpr (T > 1)
        if (T > kind.columns.kernel || T > kind.uniform_queries(x)) return sum_group<T / 2>(kind, features, y, x);
    if (features >= LANES)
        sum_features<LANES, VECTORS, T>(kind, features, y, x, 0);
    else if (features >= LANES / 2)
        sum_features<LANES / 2, 1, T>(kind, features, y, x, 0);
    else
        sum_features<1, 1, T>(kind, features, y, x, 0);
    return T;
}

template <class Kind> void sum_row(const Kind& kind, Index features, Index y) {
    for (Index x = 0; x < kind.columns.size;) x += sum_group<GROUP>(kind, features, y, x);
}
