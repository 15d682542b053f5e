// The attention block with (shifted) windows, x + out attend(similarity(qkv norm(x))), forwards and backwards, some
// windows at a time: what stands between the products stays in a core's own cache, and rows are fetched from where they
// lie in the grid and put back there.
#pragma once

#include <omp.h>

#include <vector>

#include "gemm.h"

struct Windows {
    Index images, windows, tokens;  // windows of an image; tokens of a window
    Index heads, features;
    Index block, lanes;   // windows of an image at a time; sums of the weights' gradients that are formed side by side
    const Index* order;   // which row of x, of all images, stands where in the order of windows
    const float *cos, *sin;     // [row of an image, heads, features], and a quarter of the features
    const uint8_t* allowed;     // [windows, tokens, tokens]: which token may attend to which, or null: all
    float epsilon;
    Gemm gemm;

    Index width() const { return heads * features; }
    Index rows() const { return windows * tokens; }
    Index an_image() const { return (windows + block - 1) / block; }
    Index most_rows() const { return block * tokens; }
    Index weights() const { return 4 * width() * width(); }
    // numbers for each thread, forwards and backwards
    Index scratch() const { return most_rows() * 6 * width() + 2 * tokens * tokens; }
};

struct WindowsKept {
    float *qkv, *attended, *inverse;  // in the order of windows: [rows, 3 width] at their lengths and turned; [rows,
                                      // width]; [rows, 2 heads], what queries and keys were multiplied by
};

namespace {

struct WindowBlock {
    Index image, window, first, windows, rows;  // `first`: of the rows in the order of windows
    WindowBlock(const Windows& s, Index block) {
        image = block / s.an_image(), window = block % s.an_image() * s.block;
        windows = std::min(s.block, s.windows - window), rows = windows * s.tokens;
        first = image * s.rows() + window * s.tokens;
    }
};

// The weights of a window's head: softmax over keys of the products, one row for each query.
inline void attention_weights(const Windows& s, const float* q, const float* k, Index window, float* weights) {
    const Index step = 3 * s.width(), count = s.tokens;
    s.gemm.product<false, true>(count, count, s.features, q, step, k, step, weights, count);
    for (Index row = 0; row < count; row++) {
        float* to = weights + row * count;
        const uint8_t* allowed = s.allowed ? s.allowed + (window * count + row) * count : nullptr;
        float most = -INFINITY;
#pragma omp simd reduction(max : most)
        for (Index i = 0; i < count; i++) most = std::max(most, allowed && !allowed[i] ? -INFINITY : to[i]);
#pragma omp simd
        for (Index i = 0; i < count; i++) to[i] = allowed && !allowed[i] ? 0 : exponential(to[i] - most);
        const float factor = 1 / sum(count, [&](Index i) { return to[i]; });
#pragma omp simd
        for (Index i = 0; i < count; i++) to[i] *= factor;
    }
}

// Queries and keys of a row at their lengths and turned, in place.
inline void to_similarity(const Windows& s, Index cell, const float* root, float* qkv, float* inverse) {
    for (Index pair = 0; pair < 2 * s.heads; pair++) {
        const Index n = pair % s.heads, angle = cell * s.heads + n;
        float* x = qkv + pair * s.features;
        const float square = sum(s.features, [&](Index i) { return x[i] * x[i]; });
        const float r = inverse[pair] = 1 / std::sqrt(square + s.epsilon);
        turn(x, r * root[n], s.cos + angle * s.features, s.sin + angle * (s.features / 4), 1, s.features, x);
    }
}

// The gradients of queries and keys from those of what `to_similarity` made of them, in place; `part` of each head's scale.
inline void from_similarity(const Windows& s, Index cell, const float* root, const float* qkv, const float* inverse,
                            float* grad, float* part) {
    for (Index pair = 0; pair < 2 * s.heads; pair++) {
        const Index n = pair % s.heads, angle = cell * s.heads + n;
        const float* x = qkv + pair * s.features;
        float* g = grad + pair * s.features;
        const float along = sum(s.features, [&](Index i) { return g[i] * x[i]; }), r = inverse[pair];
        const float factor = r * root[n], less = root[n] == 0 ? 0 : along * r / root[n];
        part[n] += along;
#pragma omp simd
        for (Index i = 0; i < s.features; i++) g[i] = g[i] * factor - x[i] * less;
        turn(g, 1, s.cos + angle * s.features, s.sin + angle * (s.features / 4), -1, s.features, g);
    }
}

// The gradients of queries, keys and values of a window's head.
inline void attention_gradient(const Windows& s, Index window, const float* qkv, const float* attended,
                               const float* grad, float* grad_qkv, float* weights, float* grad_weights) {
    const Index width = s.width(), step = 3 * width, count = s.tokens;
    const float *q = qkv, *k = qkv + width, *v = qkv + 2 * width;
    attention_weights(s, q, k, window, weights);
    s.gemm.product<true, false>(count, s.features, count, weights, count, grad, width, grad_qkv + 2 * width, step);
    s.gemm.product<false, true>(count, count, s.features, grad, width, v, step, grad_weights, count);
    for (Index row = 0; row < count; row++) {
        const float *p = weights + row * count, *o = attended + row * width, *g = grad + row * width;
        float* to = grad_weights + row * count;
        const float along = sum(s.features, [&](Index i) { return o[i] * g[i]; });
#pragma omp simd
        for (Index i = 0; i < count; i++) to[i] = p[i] * (to[i] - along);
    }
    s.gemm.product<false, false>(count, s.features, count, grad_weights, count, k, step, grad_qkv, step);
    s.gemm.product<true, false>(count, s.features, count, grad_weights, count, q, step, grad_qkv + width, step);
}

}  // namespace

// `kept` is for the gradient, or its pointers are null.
EXPORTED void hdit_windows(const Windows* shape, const float* x, const float* scale, const float* qkv,
                           const float* root, const float* out, const WindowsKept* kept, float* y, float* scratch,
                           int threads) {
    const Windows s = *shape;
    const Index width = s.width(), blocks = s.images * s.an_image();
    std::vector<float> inverses(kept->inverse ? 0 : threads * s.most_rows() * 2 * s.heads);
#pragma omp parallel num_threads(threads)
    {
        const Index thread = omp_get_thread_num();
        float *normal = scratch + thread * s.scratch(), *unkept_qkv = normal + s.most_rows() * width;
        float *unkept = unkept_qkv + 3 * s.most_rows() * width, *weights = unkept + s.most_rows() * width;
        const Alone alone(s.gemm);
#pragma omp for schedule(static)
        for (Index block = 0; block < blocks; block++) {
            const WindowBlock at(s, block);
            const Index* order = s.order + at.first;
            float* all = kept->qkv ? kept->qkv + at.first * 3 * width : unkept_qkv;
            float* attended = kept->attended ? kept->attended + at.first * width : unkept;
            float* inverse = kept->inverse ? kept->inverse + at.first * 2 * s.heads
                                           : inverses.data() + thread * s.most_rows() * 2 * s.heads;
            for (Index row = 0; row < at.rows; row++)
                normalise(x + order[row] * width, scale + at.image * width, width, s.epsilon, normal + row * width);
            s.gemm.product<false, true>(at.rows, 3 * width, width, normal, width, qkv, width, all, 3 * width);
            for (Index row = 0; row < at.rows; row++)
                to_similarity(s, order[row] - at.image * s.rows(), root, all + row * 3 * width,
                              inverse + row * 2 * s.heads);
            for (Index pair = 0; pair < at.windows * s.heads; pair++) {
                const Index window = pair / s.heads, row = window * s.tokens, column = pair % s.heads * s.features;
                const float* q = all + row * 3 * width + column;
                attention_weights(s, q, q + width, at.window + window, weights);
                s.gemm.product<false, false>(s.tokens, s.features, s.tokens, weights, s.tokens, q + 2 * width,
                                             3 * width, attended + row * width + column, width);
            }
            s.gemm.product<false, true>(at.rows, width, width, attended, width, out, width, normal, width);
            for (Index row = 0; row < at.rows; row++) {
                const float *from = x + order[row] * width, *more = normal + row * width;
                float* to = y + order[row] * width;
#pragma omp simd
                for (Index i = 0; i < width; i++) to[i] = from[i] + more[i];
            }
        }
    }
}

// Scratch: scratch() for each thread, and (lanes - 1) weights(). grad_root is that of the scale, times 2 scale.
EXPORTED void hdit_windows_gradient(const Windows* shape, const float* grad, const float* x, const float* scale,
                                    const float* qkv, const float* root, const float* out, const WindowsKept* kept,
                                    float* grad_x, float* grad_scale, float* grad_qkv, float* grad_root,
                                    float* grad_out, float* scratch, int threads) {
    const Windows s = *shape;
    const Index width = s.width(), blocks = s.images * s.an_image(), matrix = width * width;
    float* sums = scratch + threads * s.scratch();
    std::vector<float> parts(blocks * width), root_parts(blocks * s.heads), inverses(s.images * s.rows());
#pragma omp parallel num_threads(threads)
    {
        float *normal = scratch + omp_get_thread_num() * s.scratch(), *grads = normal + s.most_rows() * width;
        float *grad_attended = grads + s.most_rows() * width, *grad_all = grad_attended + s.most_rows() * width;
        float *weights = grad_all + 3 * s.most_rows() * width, *grad_weights = weights + s.tokens * s.tokens;
        const Alone alone(s.gemm);
#pragma omp for schedule(static)
        for (Index lane = 0; lane < s.lanes; lane++) {
            float* sum_qkv = lane ? sums + (lane - 1) * s.weights() : grad_qkv;
            float* sum_out = lane ? sum_qkv + 3 * matrix : grad_out;
            const Index begin = blocks * lane / s.lanes, end = blocks * (lane + 1) / s.lanes;
            for (Index block = begin; block < end; block++) {
                const WindowBlock at(s, block);
                const Index* order = s.order + at.first;
                const float* factor = scale + at.image * width;
                const float *all = kept->qkv + at.first * 3 * width, *attended = kept->attended + at.first * width;
                float* inverse = inverses.data() + at.first;
                for (Index row = 0; row < at.rows; row++) {
                    std::memcpy(grads + row * width, grad + order[row] * width, width * sizeof(float));
                    inverse[row] = normalise(x + order[row] * width, factor, width, s.epsilon, normal + row * width);
                }
                s.gemm.product<false, false>(at.rows, width, width, grads, width, out, width, grad_attended, width);
                s.gemm.product<true, false>(width, width, at.rows, grads, width, attended, width, sum_out, width,
                                            block > begin);
                for (Index pair = 0; pair < at.windows * s.heads; pair++) {
                    const Index window = pair / s.heads, row = window * s.tokens, column = pair % s.heads * s.features;
                    attention_gradient(s, at.window + window, all + row * 3 * width + column,
                                       attended + row * width + column, grad_attended + row * width + column,
                                       grad_all + row * 3 * width + column, weights, grad_weights);
                }
                for (Index row = 0; row < at.rows; row++)
                    from_similarity(s, order[row] - at.image * s.rows(), root, all + row * 3 * width,
                                    kept->inverse + (at.first + row) * 2 * s.heads, grad_all + row * 3 * width,
                                    root_parts.data() + block * s.heads);
                s.gemm.product<true, false>(3 * width, width, at.rows, grad_all, 3 * width, normal, width, sum_qkv,
                                            width, block > begin);
                s.gemm.product<false, false>(at.rows, width, 3 * width, grad_all, 3 * width, qkv, width, grad_attended,
                                             width);
                for (Index row = 0; row < at.rows; row++)
                    normalise_gradient(grad_attended + row * width, grads + row * width, x + order[row] * width, factor,
                                       inverse[row], width, grad_x + order[row] * width, parts.data() + block * width);
            }
        }
#pragma omp for schedule(static)
        for (Index i = 0; i < s.weights(); i++) {
            float more = 0;
            for (Index lane = 1; lane < s.lanes; lane++) more += sums[(lane - 1) * s.weights() + i];
            (i < 3 * matrix ? grad_qkv[i] : grad_out[i - 3 * matrix]) += more;
        }
    }
    add_up(parts.data(), s.images, s.an_image(), width, grad_scale);
    add_up(root_parts.data(), 1, blocks, s.heads, grad_root);
}
