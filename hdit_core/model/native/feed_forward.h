// Forward and backward pass of the feed-forward block x + down geglu(up norm(x)), computed in blocks of rows whose
// intermediate results stay in the cache of one core.
#pragma once

#include <omp.h>

#include <vector>

#include "gemm.h"

struct FeedForward {
    Index images, rows, width, hidden, blocks;
    Gemm gemm;
    Index most_rows() const { return (images * rows + blocks - 1) / blocks; }
};

// `saved` [rows, 2 hidden] receives values and gates for the gradient, or is null. Scratch per thread: most_rows()
// (width + hidden) numbers, and 2 hidden more per row if nothing is saved. If the sums of a matrix product do not
// depend on its number of rows, results are bit-identical to those of separate operations, for any number of blocks.
EXPORTED void hdit_feed_forward(const FeedForward* shape, const float* x, const float* scale, const float* up,
                                const float* down, float* saved, float* y, float* scratch, float epsilon, int threads) {
    const FeedForward s = *shape;
    const Index total = s.images * s.rows, width = s.width, hidden = s.hidden, most = s.most_rows();
#pragma omp parallel num_threads(threads)
    {
        float* normal = scratch + omp_get_thread_num() * most * (width + (saved ? 1 : 3) * hidden);
        float *units = normal + most * width, *unsaved = units + most * hidden;
        const SingleThreaded single_threaded(s.gemm);
#pragma omp for schedule(static)
        for (Index block = 0; block < s.blocks; block++) {
            const Index first = block * total / s.blocks, rows = (block + 1) * total / s.blocks - first;
            const float* from = x + first * width;
            float *to = y + first * width, *both = saved ? saved + first * 2 * hidden : unsaved;
            for (Index row = 0; row < rows; row++)
                normalize(from + row * width, scale + (first + row) / s.rows * width, width, epsilon,
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
    Index block, lanes;  // rows per block; number of partial sums of the weights' gradients
    Gemm gemm;
    Index blocks_per_image() const { return (rows + block - 1) / block; }
    Index blocks() const { return images * blocks_per_image(); }
    Index scratch_size() const { return block * (2 * width + 3 * hidden); }  // per thread
};

struct FeedForwardTensors {
    const float *grad, *x, *scale, *up, *down, *saved;
    float *grad_x, *grad_up, *grad_down;
    float* part;  // partial sums of the scale's gradient, one per block
};

namespace {

// Computes all gradients of one block of rows. Those of the matrices are added to the existing sums if `add` is true.
inline void feed_forward_gradient(const FeedForwardGradient& s, const FeedForwardTensors& t, Index block, bool add,
                                  float epsilon, float* workspace) {
    const Index width = s.width, hidden = s.hidden, both = 2 * hidden;
    const Index image = block / s.blocks_per_image(), within = block % s.blocks_per_image() * s.block;
    const Index first = image * s.rows + within, rows = std::min(s.block, s.rows - within);
    const float *factor = t.scale + image * width, *x = t.x + first * width, *g = t.grad + first * width;
    float *normal = workspace, *grad_normal = normal + s.block * width, *units = grad_normal + s.block * width;
    float *grad_both = units + s.block * hidden, *part = t.part + block * width;
    for (Index row = 0; row < rows; row++)
        normalize(x + row * width, factor, width, epsilon, normal + row * width);
    s.gemm.product<false, false>(rows, hidden, width, g, width, t.down, hidden, units, hidden);
    for (Index row = 0; row < rows; row++)
        gate_gradient(t.saved + (first + row) * both, hidden, units + row * hidden, grad_both + row * both);
    s.gemm.product<true, false>(width, hidden, rows, g, width, units, hidden, t.grad_down, hidden, add);
    s.gemm.product<true, false>(both, width, rows, grad_both, both, normal, width, t.grad_up, width, add);
    s.gemm.product<false, false>(rows, width, both, grad_both, both, t.up, width, grad_normal, width);
    for (Index row = 0; row < rows; row++) {
        const float* from = x + row * width;
        normalize_gradient(grad_normal + row * width, g + row * width, from, factor, inverse_of(from, width, epsilon),
                           width, t.grad_x + (first + row) * width, part);
    }
}

}  // namespace

// Scratch: scratch_size() per thread, and (lanes - 1) times the size of the matrices.
EXPORTED void hdit_feed_forward_gradient(const FeedForwardGradient* shape, const float* grad, const float* x,
                                         const float* scale, const float* up, const float* down, const float* saved,
                                         float* grad_x, float* grad_scale, float* grad_up, float* grad_down,
                                         float* scratch, float epsilon, int threads) {
    const FeedForwardGradient s = *shape;
    const Index matrix = s.width * s.hidden;
    float* sums = scratch + threads * s.scratch_size();
    const Lanes lanes{s.lanes, s.blocks(), 2 * matrix, matrix, grad_up, grad_down, sums};
    std::vector<float> parts(s.blocks() * s.width);
#pragma omp parallel num_threads(threads)
    {
        float* workspace = scratch + omp_get_thread_num() * s.scratch_size();
        const SingleThreaded single_threaded(s.gemm);
        run_lanes(lanes, [&](Index block, bool add, float* of_up, float* of_down) {
            const FeedForwardTensors tensors{grad, x, scale, up, down, saved, grad_x, of_up, of_down, parts.data()};
            feed_forward_gradient(s, tensors, block, add, epsilon, workspace);
        });
    }
    sum_parts(parts.data(), s.images, s.blocks_per_image(), s.width, grad_scale);
}
