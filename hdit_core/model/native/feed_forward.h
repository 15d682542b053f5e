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

// `kept` [rows, 2 hidden], values and gates, is for the gradient, or null. Scratch: most_rows() (width + 3 hidden) for
// each thread. With products whose sums do not depend on the number of their rows, the bits are those of one step after
// the other, whatever the number of blocks.
EXPORTED void hdit_feed_forward(const FeedForward* shape, const float* x, const float* scale, const float* up,
                                const float* down, float* kept, float* y, float* scratch, float epsilon, int threads) {
    const FeedForward s = *shape;
    const Index total = s.images * s.rows, width = s.width, hidden = s.hidden, most = s.most_rows();
#pragma omp parallel num_threads(threads)
    {
        float* normal = scratch + omp_get_thread_num() * most * (width + 3 * hidden);
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
    Index weights() const { return 3 * width * hidden; }
};

// Scratch: block (2 width + 3 hidden) for each thread, and (lanes - 1) weights().
EXPORTED void hdit_feed_forward_gradient(const FeedForwardGradient* shape, const float* grad, const float* x,
                                         const float* scale, const float* up, const float* down, const float* kept,
                                         float* grad_x, float* grad_scale, float* grad_up, float* grad_down,
                                         float* scratch, float epsilon, int threads) {
    const FeedForwardGradient s = *shape;
    const Index width = s.width, hidden = s.hidden, both = 2 * hidden, blocks = s.images * s.an_image();
    const Index own = s.block * (2 * width + 3 * hidden);
    float* sums = scratch + threads * own;
    std::vector<float> parts(blocks * width), inverses(s.images * s.rows);
#pragma omp parallel num_threads(threads)
    {
        float *normal = scratch + omp_get_thread_num() * own, *grad_normal = normal + s.block * width;
        float *units = grad_normal + s.block * width, *grad_both = units + s.block * hidden;
        const Alone alone(s.gemm);
#pragma omp for schedule(static)
        for (Index lane = 0; lane < s.lanes; lane++) {
            float* sum_up = lane ? sums + (lane - 1) * s.weights() : grad_up;
            float* sum_down = lane ? sum_up + both * width : grad_down;
            const Index begin = blocks * lane / s.lanes, end = blocks * (lane + 1) / s.lanes;
            for (Index block = begin; block < end; block++) {
                const Index image = block / s.an_image(), within = block % s.an_image() * s.block;
                const Index first = image * s.rows + within, rows = std::min(s.block, s.rows - within);
                const float *factor = scale + image * width, *from = x + first * width, *g = grad + first * width;
                float* inverse = inverses.data() + first;
                for (Index row = 0; row < rows; row++)
                    inverse[row] = normalise(from + row * width, factor, width, epsilon, normal + row * width);
                s.gemm.product<false, false>(rows, hidden, width, g, width, down, hidden, units, hidden);
                for (Index row = 0; row < rows; row++)
                    gate_gradient(kept + (first + row) * both, hidden, units + row * hidden, grad_both + row * both);
                s.gemm.product<true, false>(width, hidden, rows, g, width, units, hidden, sum_down, hidden, block > begin);
                s.gemm.product<true, false>(both, width, rows, grad_both, both, normal, width, sum_up, width, block > begin);
                s.gemm.product<false, false>(rows, width, both, grad_both, both, up, width, grad_normal, width);
                for (Index row = 0; row < rows; row++)
                    normalise_gradient(grad_normal + row * width, g + row * width, from + row * width, factor,
                                       inverse[row], width, grad_x + (first + row) * width,
                                       parts.data() + block * width);
            }
        }
#pragma omp for schedule(static)
        for (Index i = 0; i < s.weights(); i++) {
            float more = 0;
            for (Index lane = 1; lane < s.lanes; lane++) more += sums[(lane - 1) * s.weights() + i];
            (i < both * width ? grad_up[i] : grad_down[i - both * width]) += more;
        }
    }
    add_up(parts.data(), s.images, s.an_image(), width, grad_scale);
}
