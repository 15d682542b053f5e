// The gated feed-forward block, x + down gated(up norm(x)), forwards and backwards in blocks of rows: what stands
// between the products stays in a core's own cache.
#pragma once

#include <omp.h>

#include <vector>

#include "gemm.h"

struct FeedForward {
    Index images, rows, width, hidden, blocks;
    Gemm gemm;
    Index most_rows() const { return (images * rows + blocks - 1) / blocks; }
};

// `kept` [rows, 2 hidden], values and gates, is for the gradient, or null. Scratch: most_rows() (width + hidden) for
// each thread, and 2 hidden more for each row where nothing is kept. With products whose sums do not depend on the
// number of their rows, the bits are those of one step after the other, whatever the number of blocks.
EXPORTED void hdit_feed_forward(const FeedForward* shape, const float* x, const float* scale, const float* up,
                                const float* down, float* kept, float* y, float* scratch, float epsilon, int threads) {
    const FeedForward s = *shape;
    const Index total = s.images * s.rows, width = s.width, hidden = s.hidden, most = s.most_rows();
#pragma omp parallel num_threads(threads)
    {
        float* normal = scratch + omp_get_thread_num() * most * (width + (kept ? 1 : 3) * hidden);
        float *units = normal + most * width, *unkept = units + most * hidden;
        const Alone alone(s.gemm);
#pragma omp for schedule(static)
        for (Index block = 0; block < s.blocks; block++) {
            const Index first = block * total / s.blocks, rows = (block + 1) * total / s.blocks - first;
            const float* from = x + first * width;
            float *to = y + first * width, *both = kept ? kept + first * 2 * hidden : unkept;
            for (Index row = 0; row < rows; row++)
                normalise(from + row * width, scale + (first + row) / s.rows * width, width, epsilon,
                          normal + row * width);
            s.gemm.product<false, true>(rows, 2 * hidden, width, normal, width, up, width, both, 2 * hidden);
            for (Index row = 0; row < rows; row++) gate(both + row * 2 * hidden, hidden, units + row * hidden);
            s.gemm.product<false, true>(rows, width, hidden, units, hidden, down, hidden, to, width);
#pragma omp simd
            for (Index i = 0; i < rows * width; i++) to[i] += from[i];
        }
    }
}

struct FeedForwardGradient {
    Index images, rows, width, hidden;
    Index block, lanes;  // rows of an image at a time; sums of the weights' gradients that are formed side by side
    Gemm gemm;
    Index an_image() const { return (rows + block - 1) / block; }
    Index blocks() const { return images * an_image(); }
    Index room() const { return block * (2 * width + 3 * hidden); }  // numbers that a thread works in
};

struct FeedForwardTensors {
    const float *grad, *x, *scale, *up, *down, *kept;
    float *grad_x, *grad_up, *grad_down;
    float* part;  // of the scale's gradient, for each block
};

namespace {

// One block of rows: its part of all gradients, those of the matrices added to what is there or put in its place.
inline void feed_forward_gradient(const FeedForwardGradient& s, const FeedForwardTensors& t, Index block, bool add,
                                  float epsilon, float* room) {
    const Index width = s.width, hidden = s.hidden, both = 2 * hidden;
    const Index image = block / s.an_image(), within = block % s.an_image() * s.block;
    const Index first = image * s.rows + within, rows = std::min(s.block, s.rows - within);
    const float *factor = t.scale + image * width, *x = t.x + first * width, *g = t.grad + first * width;
    float *normal = room, *grad_normal = normal + s.block * width, *units = grad_normal + s.block * width;
    float *grad_both = units + s.block * hidden, *part = t.part + block * width;
    for (Index row = 0; row < rows; row++)
        normalise(x + row * width, factor, width, epsilon, normal + row * width);
    s.gemm.product<false, false>(rows, hidden, width, g, width, t.down, hidden, units, hidden);
    for (Index row = 0; row < rows; row++)
        gate_gradient(t.kept + (first + row) * both, hidden, units + row * hidden, grad_both + row * both);
    s.gemm.product<true, false>(width, hidden, rows, g, width, units, hidden, t.grad_down, hidden, add);
    s.gemm.product<true, false>(both, width, rows, grad_both, both, normal, width, t.grad_up, width, add);
    s.gemm.product<false, false>(rows, width, both, grad_both, both, t.up, width, grad_normal, width);
    for (Index row = 0; row < rows; row++) {
        const float* from = x + row * width;
        normalise_gradient(grad_normal + row * width, g + row * width, from, factor, inverse_of(from, width, epsilon),
                           width, t.grad_x + (first + row) * width, part);
    }
}

}  // namespace

// Scratch: room() for each thread, and (lanes - 1) times the matrices.
EXPORTED void hdit_feed_forward_gradient(const FeedForwardGradient* shape, const float* grad, const float* x,
                                         const float* scale, const float* up, const float* down, const float* kept,
                                         float* grad_x, float* grad_scale, float* grad_up, float* grad_down,
                                         float* scratch, float epsilon, int threads) {
    const FeedForwardGradient s = *shape;
    const Index matrix = s.width * s.hidden;
    const Lanes lanes{s.lanes, s.blocks(), 2 * matrix, matrix, grad_up, grad_down, scratch + threads * s.room()};
    std::vector<float> parts(s.blocks() * s.width);
#pragma omp parallel num_threads(threads)
    {
        float* room = scratch + omp_get_thread_num() * s.room();
        const Alone alone(s.gemm);
        in_lanes(lanes, [&](Index block, bool add, float* of_up, float* of_down) {
            const FeedForwardTensors tensors{grad, x, scale, up, down, kept, grad_x, of_up, of_down, parts.data()};
            feed_forward_gradient(s, tensors, block, add, epsilon, room);
        });
    }
    add_up(parts.data(), s.images, s.an_image(), s.width, grad_scale);
}
