// Neighborhood attention and its gradient on a CPU (Hassani et al. 2022, arXiv 2204.07143).
//
// Every output number is computed by one thread, in an order that depends only on the grid, so results are
// bit-identical for any number of threads and any batch size.
#include <memory>
#include <new>

#include "grid.h"
#include "pool.h"
#include "products.h"
#include "sums.h"

namespace {

// The bands of query rows into which each head is divided for threads. Fewer bands are cheaper: each one transposes the
// keys above and below it again.
struct Bands {
    Index rows, per_head, count;

    Bands(const Shape& s, int threads) {
        const Index heads = s.batch * s.heads, least = threads == 1 ? 1 : 4 * threads;
        const Index wanted = heads == 0 ? 1 : (least + heads - 1) / heads;
        rows = std::max<Index>((s.height + wanted - 1) / wanted, std::min<Index>(s.height, 2 * ROWS));
        rows = (rows + ROWS - 1) / ROWS * ROWS;  // rows are always grouped in the same way
        per_head = (s.height + rows - 1) / rows;
        count = heads * per_head;
    }
};

struct Scratch {
    Index per_worker;
    std::unique_ptr<Real[]> numbers;

    Scratch(Index size, int threads)
        : per_worker((size + 63) / 64 * 64), numbers(new Real[per_worker * threads + 64]()) {}
    Real* of(int worker) const { return numbers.get() + per_worker * worker; }
};

Weights weights_of(const Shape& s, Real* data, Index b, Index n) {
    const Index row = s.weights_of_row();
    return {data + (b * s.heads + n) * s.height * row, s.window(), row};
}

// Replaces logits by attention weights, lane by lane.
void softmax(Real* logits, Index count) {
    Wide largest = load(logits), total = {};
    for (Index i = 1; i < count; i++) largest = larger(load(logits + i * LANES), largest);
    for (Index i = 0; i < count; i++) {
        const Wide power = exponential(load(logits + i * LANES) - largest);
        store(logits + i * LANES, power);
        total += power;
    }
    const Wide inverse = 1 / total;
    for (Index i = 0; i < count; i++) store(logits + i * LANES, load(logits + i * LANES) * inverse);
}

// Replaces gradients of weights by gradients of logits, lane by lane: w (g - sum w g).
void softmax_gradient(Real* gradients, const Real* weights, Index count) {
    Wide mean = {};
    for (Index i = 0; i < count; i++) mean += load(weights + i * LANES) * load(gradients + i * LANES);
    for (Index i = 0; i < count; i++)
        store(gradients + i * LANES, load(weights + i * LANES) * (load(gradients + i * LANES) - mean));
}

template <class Kind>
void sum_rows(const Shape& s, const Weights& weights, const View& tokens, const View& out, Index b, Index n, Index y,
              Index count) {
    const Axis rows{s.height, s.kernel}, columns{s.width, s.kernel};
    const Gather gather{rows,       columns,       weights, tokens.at(b, n, 0), out.at(b, n, 0),
                        tokens.row, tokens.column, out.row, out.column};
    const Kind kind{gather};
    for (Index i = 0; i < count; i++) sum_row(kind, s.features, y + i);
}

// Calls work(b, n, top, bottom, worker) for each band, in parallel.
template <class Work> void for_each_row_group(const Shape& s, int threads, const Work& work) {
    const Bands bands(s, threads);
    run_shared(bands.count, threads, [&](Index task, int worker) {
        const Index pair = task / bands.per_head, top = task % bands.per_head * bands.rows;
        work(pair / s.heads, pair % s.heads, top, std::min(top + bands.rows, s.height), worker);
    });
}

void forward(const Shape& s, const View& q, const View& k, const View& v, const View& out, Real* saved, int threads) {
    const Index row = s.weights_of_row(), band_size = Band::scratch(s);
    const Scratch scratch(band_size + (saved ? 0 : ROWS * row), threads);
    for_each_row_group(s, threads, [&](Index b, Index n, Index top, Index bottom, int worker) {
        Band band(s, q, k, b, n, scratch.of(worker));
        for (Index y = top; y < bottom; y += ROWS) {
            const int count = std::min<Index>(ROWS, bottom - y);
            const Weights weights = saved ? weights_of(s, saved, b, n)
                                          : Weights{scratch.of(worker) + band_size - y * row, s.window(), row};
            Real* logits[ROWS];
            for (int r = 0; r < count; r++) logits[r] = weights.at(y + r, 0);
            band.products(y, count, logits);
            for (int r = 0; r < count; r++)
                for (Index block = 0; block < s.blocks(); block++)
                    softmax(logits[r] + block * s.window() * LANES, s.window());
            sum_rows<Gather>(s, weights, v, out, b, n, y, count);
        }
    });
}

struct Gradients {
    View q, k, v;
};

void backward(const Shape& s, const View& q, const View& k, const View& v, const View& grad, Real* saved,
              Real* grad_logits, const Gradients& to, int threads) {
    const Scratch scratch(Band::scratch(s), threads);
    for_each_row_group(s, threads, [&](Index b, Index n, Index top, Index bottom, int worker) {
        Band band(s, grad, v, b, n, scratch.of(worker));
        const Weights weights = weights_of(s, saved, b, n), gradients = weights_of(s, grad_logits, b, n);
        for (Index y = top; y < bottom; y += ROWS) {
            const int count = std::min<Index>(ROWS, bottom - y);
            Real* rows[ROWS];
            for (int r = 0; r < count; r++) rows[r] = gradients.at(y + r, 0);
            band.products(y, count, rows);
            for (int r = 0; r < count; r++)
                for (Index x = 0; x < s.width; x += LANES)
                    softmax_gradient(gradients.at(y + r, x), weights.at(y + r, x), s.window());
            sum_rows<Gather>(s, gradients, k, to.q, b, n, y, count);
        }
    });
    for_each_row_group(s, threads, [&](Index b, Index n, Index top, Index bottom, int) {
        sum_rows<Scatter>(s, weights_of(s, grad_logits, b, n), q, to.k, b, n, top, bottom - top);
        sum_rows<Scatter>(s, weights_of(s, saved, b, n), grad, to.v, b, n, top, bottom - top);
    });
}

// Runs a function; returns 0, or 1 if it is out of memory.
template <class Work> int catch_out_of_memory(const Work& work) {
    try {
        work();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Returns the number of adjacent queries in the layout of the saved attention weights.
EXPORTED int hdit_lanes() { return LANES; }

EXPORTED int hdit_forward(const Shape* shape, const View* q, const View* k, const View* v, const View* out,
                          Real* weights, int threads) {
    return catch_out_of_memory([&] { forward(*shape, *q, *k, *v, *out, weights, threads); });
}

EXPORTED int hdit_backward(const Shape* shape, const View* q, const View* k, const View* v, const View* grad,
                           Real* weights, Real* grad_logits, const Gradients* to, int threads) {
    return catch_out_of_memory([&] { backward(*shape, *q, *k, *v, *grad, weights, grad_logits, *to, threads); });
}
