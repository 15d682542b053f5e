// Neighborhood attention and its gradient on a CPU (Hassani et al. 2022, arXiv 2204.07143).
//
// Every number of a result is worked out by one thread and in an order that depends on nothing but the grid, so that
// the number of threads and the batch make no difference to its bits.
#include <memory>
#include <new>

#include "grid.h"
#include "pool.h"
#include "products.h"
#include "sums.h"

namespace {

// Bands of rows of a head: few where each costs again the laying out of the keys above and below.
struct Bands {
    Index rows, per_head, count;

    Bands(const Shape& s, int threads) {
        const Index heads = s.batch * s.heads, least = threads == 1 ? 1 : 4 * threads;
        const Index wanted = heads == 0 ? 1 : (least + heads - 1) / heads;
        rows = std::max<Index>((s.height + wanted - 1) / wanted, std::min<Index>(s.height, 2 * ROWS));
        rows = (rows + ROWS - 1) / ROWS * ROWS;  // rows are always taken in the same groups
        per_head = (s.height + rows - 1) / rows;
        count = heads * per_head;
    }
};

struct Scratch {
    Index each;
    std::unique_ptr<Real[]> numbers;

    Scratch(Index size, int threads) : each((size + 63) / 64 * 64), numbers(new Real[each * threads + 64]()) {}
    Real* of(int worker) const { return numbers.get() + each * worker; }
};

Weights weights_of(const Shape& s, Real* data, Index b, Index n) {
    const Index row = s.weights_of_row();
    return {data + (b * s.heads + n) * s.height * row, s.window(), row};
}

// Logits => weights, lane by lane.
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

// Gradients of weights => gradients of logits, lane by lane: w (g - sum w g).
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
    const Gathering places{rows,       columns,       weights, tokens.at(b, n, 0), out.at(b, n, 0),
                           tokens.row, tokens.column, out.row, out.column};
    const Kind kind{places};
    for (Index i = 0; i < count; i++) sum_row(kind, s.features, y + i);
}

// Share the bands out; work(b, n, y, count, worker) gets the rows of up to ROWS queries, going down a band.
template <class Work> void each_group(const Shape& s, int threads, const Work& work) {
    const Bands bands(s, threads);
    share(bands.count, threads, [&](Index task, int worker) {
        const Index pair = task / bands.per_head, top = task % bands.per_head * bands.rows;
        work(pair / s.heads, pair % s.heads, top, std::min(top + bands.rows, s.height), worker);
    });
}

void forward(const Shape& s, const View& q, const View& k, const View& v, const View& out, Real* saved, int threads) {
    const Index row = s.weights_of_row(), band_size = Band::scratch(s);
    const Scratch scratch(band_size + (saved ? 0 : ROWS * row), threads);
    each_group(s, threads, [&](Index b, Index n, Index top, Index bottom, int worker) {
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
            sum_rows<Gathering>(s, weights, v, out, b, n, y, count);
        }
    });
}

struct Gradients {
    View q, k, v;
};

void backward(const Shape& s, const View& q, const View& k, const View& v, const View& grad, Real* saved,
              Real* grad_logits, const Gradients& to, int threads) {
    const Scratch scratch(Band::scratch(s), threads);
    each_group(s, threads, [&](Index b, Index n, Index top, Index bottom, int worker) {
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
            sum_rows<Gathering>(s, gradients, k, to.q, b, n, y, count);
        }
    });
    each_group(s, threads, [&](Index b, Index n, Index top, Index bottom, int) {
        sum_rows<Scattering>(s, weights_of(s, grad_logits, b, n), q, to.k, b, n, top, bottom - top);
        sum_rows<Scattering>(s, weights_of(s, saved, b, n), grad, to.v, b, n, top, bottom - top);
    });
}

// Run it, and return 0; or 1 where there is no memory for it.
template <class Work> int guarded(const Work& work) {
    try {
        work();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

// How many queries lie side by side in the weights that forward leaves for backward.
EXPORTED int hdit_lanes() { return LANES; }

EXPORTED int hdit_forward(const Shape* shape, const View* q, const View* k, const View* v, const View* out,
                          Real* weights, int threads) {
    return guarded([&] { forward(*shape, *q, *k, *v, *out, weights, threads); });
}

EXPORTED int hdit_backward(const Shape* shape, const View* q, const View* k, const View* v, const View* grad,
                           Real* weights, Real* grad_logits, const Gradients* to, int threads) {
    return guarded([&] { backward(*shape, *q, *k, *v, *grad, weights, grad_logits, *to, threads); });
}
