// Weighted sums of tokens over windows; lanes are features, so that tokens are read where they lie.
//
// Neighbouring queries share most keys: up to GROUP of them are summed together, and a key is loaded once for all.
#pragma once

#include "grid.h"

constexpr int GROUP = 4;
constexpr int VECTORS = MANY_REGISTERS ? 4 : 2;  // GROUP x VECTORS sums stay in registers

template <int L, int V> struct Features {
    Vector<L> part[V];

    inline explicit Features(const Real* from) {
#pragma GCC unroll 8
        for (int i = 0; i < V; i++) part[i] = load<L>(from + i * L);
    }
};

template <int L, int V, int T> struct Sums {
    Vector<L> sum[T][V] = {};

    // Add a token to sums LOW ... HIGH - 1; weight[r] points to the weight of sum r.
    template <int LOW, int HIGH> inline void add(const Real* token, const Real* const* weight, Index offset) {
        const Features<L, V> features(token);
#pragma GCC unroll 8
        for (int r = LOW; r < HIGH; r++) {
            const auto w = spread<L>(weight[r][offset]);
#pragma GCC unroll 8
            for (int i = 0; i < V; i++) sum[r][i] += w * features.part[i];
        }
    }

    inline void write(Real* to, Index step) const {
#pragma GCC unroll 8
        for (int r = 0; r < T; r++)
#pragma GCC unroll 8
            for (int i = 0; i < V; i++) store<L>(to + r * step + i * L, sum[r][i]);
    }
};

template <int I> using Number = std::integral_constant<int, I>;

// Call add(0, 1) ... add(0, T - 1): one after the other the windows of a group begin.
template <int I, int T, class Add> inline void begin_windows(const Add& add) {
    if constexpr (I < T) {
        add(Number<0>(), Number<I>());
        begin_windows<I + 1, T>(add);
    }
}

// Call add(1, T) ... add(T - 1, T): one after the other they end.
template <int I, int T, class Add> inline void end_windows(const Add& add) {
    if constexpr (I < T) {
        add(Number<I>(), Number<T>());
        end_windows<I + 1, T>(add);
    }
}

// What the queries x ... x + T - 1 of row y get from the tokens of their windows.
struct Gathering {
    const Axis &rows, &columns;
    Weights weights;
    Real *tokens, *out;  // of the head: row 0, column 0
    Index row, column;   // strides of tokens
    Index out_row, out_column;

    // The windows begin in the same column, or each a column after the last (SLIDING).
    template <int L, int V, int T, bool SLIDING> void sum(Index y, Index x, Index feature) const {
        Sums<L, V, T> sums;
        const Index kernel = rows.kernel;
        const Real* weight[T];  // of the first key of all; a query's own first key stands a place further on
        for (int r = 0; r < T; r++) weight[r] = weights.at(y, x + r) - (SLIDING ? r * LANES : 0);
        const Real* line = tokens + rows.start(y) * row + columns.start(x) * column + feature;
        for (Index dy = 0; dy < kernel; dy++, line += row) {
            const Real* token = line;
            Index offset = dy * kernel * LANES;
            auto add = [&](auto low, auto high) {
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

    // How many queries from x on, up to GROUP, have windows that all stand still or all slide.
    int size(Index x) const {
        const Index half = columns.kernel / 2, last = columns.size - 1 - half;
        const Index end = x <= half ? half + 1 : x < last ? last : columns.size;
        return std::min({end - x, columns.kernel, Index(GROUP)});
    }
};

// What the keys x ... x + T - 1 of row y get from the tokens of the queries whose windows hold them.
struct Scattering : Gathering {
    template <int L, int V, int T> void group(Index y, Index x, Index feature) const {
        Sums<L, V, T> sums;
        for (Index top = rows.lowest(y); top <= rows.highest(y); top++)
            for (Index query = rows.first(top); query <= rows.last(top); query++) {
                const Index offset = (y - top) * rows.kernel * LANES;
                Index left = x - columns.kernel + 1;  // where a window begins
                auto add = [&](auto low, auto high) {
                    if (left >= 0 && left <= columns.size - columns.kernel)
                        for (Index q = columns.first(left); q <= columns.last(left); q++) {
                            const Real *first = weights.at(query, q) + (x - left) * LANES, *weight[T];
                            for (int r = 0; r < T; r++) weight[r] = first + r * LANES;
                            sums.template add<low, high>(tokens + query * row + q * column + feature, weight, offset);
                        }
                    left++;
                };
                begin_windows<1, T>(add);
                for (Index j = T - 1; j < columns.kernel; j++) add(Number<0>(), Number<T>());
                end_windows<1, T>(add);
            }
        sums.write(out + y * out_row + x * out_column + feature, out_column);
    }

    int size(Index x) const { return std::min({columns.size - x, columns.kernel, Index(GROUP)}); }
};

template <int L, int V, int T = GROUP, class Kind> void sum_group(const Kind& kind, int size, Index y, Index x, Index d) {
    if (size < T) {
        if constexpr (T > 1) sum_group<L, V, T - 1>(kind, size, y, x, d);
    } else {
        kind.template group<L, V, T>(y, x, d);
    }
}

// As many vectors of features at a time as stay in registers; the last vector may overlap the one before.
template <int L, int V = VECTORS, class Kind>
void sum_features(const Kind& kind, Index features, int size, Index y, Index x, Index d = 0) {
    for (; d + V * L <= features; d += V * L) sum_group<L, V>(kind, size, y, x, d);
    if constexpr (V > 1)
        sum_features<L, V - 1>(kind, features, size, y, x, d);
    else if (d < features)
        sum_group<L, 1>(kind, size, y, x, features - L);
}

template <class Kind> void sum_row(const Kind& kind, Index features, Index y) {
    for (Index x = 0; x < kind.columns.size;) {
        const int size = kind.size(x);
        if (features >= LANES)
            sum_features<LANES>(kind, features, size, y, x);
        else if (features >= LANES / 2)
            sum_features<LANES / 2>(kind, features, size, y, x);
        else
            sum_features<1>(kind, features, size, y, x);
        x += size;
    }
}
