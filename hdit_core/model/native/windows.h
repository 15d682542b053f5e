// Forward and backward pass of the attention block with (shifted) windows, x + out attend(qk_norm_rope(qkv norm(x))).
// Several windows are computed at a time, so that intermediate results stay in the cache of one core; rows are read
// from and written to their positions in the grid.
#pragma once

#include <omp.h>

#include <vector>

#include "gemm.h"

struct Windows {
    Index images, windows, tokens;  // windows per image; tokens per window
    Index heads, features;
    Index block, lanes;      // windows per block; number of partial sums of the weights' gradients
    const Index* order;      // for each row in window order, its row in x, over all images
    const float *cos, *sin;  // [rows of an image, heads, features] and [rows of an image, heads, features / 4]
    const uint8_t* allowed;  // [windows, tokens, tokens]: which tokens may attend to each other; null: all
    float epsilon;
    Gemm gemm;

    Index width() const { return heads * features; }
    Index rows() const { return windows * tokens; }
    Index blocks_per_image() const { return (windows + block - 1) / block; }
    Index most_rows() const { return block * tokens; }
    Index blocks() const { return images * blocks_per_image(); }
    Index scratch_size() const { return most_rows() * 6 * width() + 2 * tokens * tokens; }  // per thread
};

// Tensors saved for the backward pass, in window order.
struct WindowsSaved {
    float* qkv;       // [rows, 3 width], queries and keys normalized and rotated
    float* attended;  // [rows, width]
    float* inverse;   // [rows, 2 heads], inverse lengths of queries and keys
    WindowsSaved from(Index row, Index width, Index heads) const {
        return {qkv + row * 3 * width, attended + row * width, inverse + row * 2 * heads};
    }
};

namespace {

// The windows of an image that are computed together.
struct WindowBlock {
    Index image, window, windows, first, rows;  // first window and number of windows; first row and number of rows
    const Index* order;
    WindowBlock(const Windows& s, Index block)
        : image(block / s.blocks_per_image()), window(block % s.blocks_per_image() * s.block),
          windows(std::min(s.block, s.windows - window)), first(image * s.rows() + window * s.tokens),
          rows(windows * s.tokens), order(s.order + first) {}
    Index cell(const Windows& s, Index row) const { return order[row] - image * s.rows(); }
};

// Attention weights of one head in a window [tokens, tokens]: the softmax of the logits over keys.
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

// Normalizes and rotates the queries and keys of a row in place.
inline void qk_norm_rope(const Windows& s, Index cell, const float* root, float* qkv, float* inverse) {
    for (Index pair = 0; pair < 2 * s.heads; pair++) {
        const Index n = pair % s.heads, angle = cell * s.heads + n;
        float* x = qkv + pair * s.features;
        const float square = sum(s.features, [&](Index i) { return x[i] * x[i]; });
        const float r = inverse[pair] = 1 / std::sqrt(square + s.epsilon);
        rotate(x, r * root[n], s.cos + angle * s.features, s.sin + angle * (s.features / 4), 1, s.features, x);
    }
}

// Replaces the gradients of normalized and rotated queries and keys by those of the inputs of `qk_norm_rope`; adds the
// gradients of the heads' scales to `part`.
inline void qk_norm_rope_gradient(const Windows& s, Index cell, const float* root, const float* qkv,
                                  const float* inverse, float* grad, float* part) {
    for (Index pair = 0; pair < 2 * s.heads; pair++) {
        const Index n = pair % s.heads, angle = cell * s.heads + n;
        const float* x = qkv + pair * s.features;
        float* g = grad + pair * s.features;
        const float along = sum(s.features, [&](Index i) { return g[i] * x[i]; }), r = inverse[pair];
        const float factor = r * root[n], less = root[n] == 0 ? 0 : along * r / root[n];
        part[n] += along;
#pragma omp simd
        for (Index i = 0; i < s.features; i++) g[i] = g[i] * factor - x[i] * less;
        rotate(g, 1, s.cos + angle * s.features, s.sin + angle * (s.features / 4), -1, s.features, g);
    }
}

// Gradients of queries, keys and values of one head in a window.
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

struct WindowsTensors {
    const float *x, *scale, *qkv, *root, *out;
    WindowsSaved saved;
};

// Forward pass of one block of windows; `saved` points to the tensors of that block.
inline void attend(const Windows& s, const WindowsTensors& t, const WindowBlock& at, const WindowsSaved& saved,
                   float* y, float* normal, float* weights) {
    const Index width = s.width();
    for (Index row = 0; row < at.rows; row++)
        normalize(t.x + at.order[row] * width, t.scale + at.image * width, width, s.epsilon, normal + row * width);
    s.gemm.product<false, true>(at.rows, 3 * width, width, normal, width, t.qkv, width, saved.qkv, 3 * width);
    for (Index row = 0; row < at.rows; row++)
        qk_norm_rope(s, at.cell(s, row), t.root, saved.qkv + row * 3 * width, saved.inverse + row * 2 * s.heads);
    for (Index pair = 0; pair < at.windows * s.heads; pair++) {
        const Index window = pair / s.heads, row = window * s.tokens, column = pair % s.heads * s.features;
        const float* q = saved.qkv + row * 3 * width + column;
        attention_weights(s, q, q + width, at.window + window, weights);
        s.gemm.product<false, false>(s.tokens, s.features, s.tokens, weights, s.tokens, q + 2 * width, 3 * width,
                                     saved.attended + row * width + column, width);
    }
    s.gemm.product<false, true>(at.rows, width, width, saved.attended, width, t.out, width, normal, width);
    for (Index row = 0; row < at.rows; row++) {
        const float *from = t.x + at.order[row] * width, *more = normal + row * width;
        float* to = y + at.order[row] * width;
#pragma omp simd
        for (Index i = 0; i < width; i++) to[i] = from[i] + more[i];
    }
}

struct WindowsGradients {
    const float* grad;
    float *x, *qkv, *out;
    float *part, *root_part;  // partial sums of the scales' gradients, one per block
};

// Backward pass of one block of windows. Gradients of the matrices are added to the existing sums if `add` is true.
inline void attend_gradient(const Windows& s, const WindowsTensors& t, const WindowsGradients& grads, Index block,
                            bool add, float* workspace) {
    const Index width = s.width(), many = s.most_rows() * width;
    const WindowBlock at(s, block);
    const WindowsSaved saved = t.saved.from(at.first, width, s.heads);
    const float* factor = t.scale + at.image * width;
    float *normal = workspace, *grad = normal + many, *grad_attended = grad + many, *grad_all = grad_attended + many;
    float *weights = grad_all + 3 * many, *grad_weights = weights + s.tokens * s.tokens;
    for (Index row = 0; row < at.rows; row++) {
        std::memcpy(grad + row * width, grads.grad + at.order[row] * width, width * sizeof(float));
        normalize(t.x + at.order[row] * width, factor, width, s.epsilon, normal + row * width);
    }
    s.gemm.product<false, false>(at.rows, width, width, grad, width, t.out, width, grad_attended, width);
    s.gemm.product<true, false>(width, width, at.rows, grad, width, saved.attended, width, grads.out, width, add);
    for (Index pair = 0; pair < at.windows * s.heads; pair++) {
        const Index window = pair / s.heads, row = window * s.tokens, column = pair % s.heads * s.features;
        const Index in_one = row * width + column, in_three = row * 3 * width + column;
        attention_gradient(s, at.window + window, saved.qkv + in_three, saved.attended + in_one, grad_attended + in_one,
                           grad_all + in_three, weights, grad_weights);
    }
    for (Index row = 0; row < at.rows; row++)
        qk_norm_rope_gradient(s, at.cell(s, row), t.root, saved.qkv + row * 3 * width,
                              saved.inverse + row * 2 * s.heads, grad_all + row * 3 * width,
                              grads.root_part + block * s.heads);
    s.gemm.product<true, false>(3 * width, width, at.rows, grad_all, 3 * width, normal, width, grads.qkv, width, add);
    s.gemm.product<false, false>(at.rows, width, 3 * width, grad_all, 3 * width, t.qkv, width, grad_attended, width);
    for (Index row = 0; row < at.rows; row++) {
        const float* from = t.x + at.order[row] * width;
        normalize_gradient(grad_attended + row * width, grad + row * width, from, factor,
                           inverse_of(from, width, s.epsilon), width, grads.x + at.order[row] * width,
                           grads.part + block * width);
    }
}

}  // namespace

// `saved` receives tensors for the gradient, or its pointers are null. Scratch: scratch_size() per thread.
EXPORTED void hdit_windows(const Windows* shape, const float* x, const float* scale, const float* qkv,
                           const float* root, const float* out, const WindowsSaved* saved, float* y, float* scratch,
                           int threads) {
    const Windows s = *shape;
    const WindowsTensors tensors{x, scale, qkv, root, out, *saved};
    const Index width = s.width(), many = s.most_rows() * width, inverses = s.most_rows() * 2 * s.heads;
    std::vector<float> unsaved_inverses(saved->qkv ? 0 : threads * inverses);
#pragma omp parallel num_threads(threads)
    {
        const Index thread = omp_get_thread_num();
        float *normal = scratch + thread * s.scratch_size(), *weights = normal + 5 * many;
        const WindowsSaved unsaved{normal + many, normal + 4 * many, unsaved_inverses.data() + thread * inverses};
        const SingleThreaded single_threaded(s.gemm);
#pragma omp for schedule(static)
        for (Index block = 0; block < s.blocks(); block++) {
            const WindowBlock at(s, block);
            attend(s, tensors, at, saved->qkv ? saved->from(at.first, width, s.heads) : unsaved, y, normal, weights);
        }
    }
}

// Scratch: scratch_size() per thread, and (lanes - 1) times the size of the matrices. grad_root is 2 scale times the
// gradient of the scale.
EXPORTED void hdit_windows_gradient(const Windows* shape, const float* grad, const float* x, const float* scale,
                                    const float* qkv, const float* root, const float* out, const WindowsSaved* saved,
                                    float* grad_x, float* grad_scale, float* grad_qkv, float* grad_root,
                                    float* grad_out, float* scratch, int threads) {
    const Windows s = *shape;
    const WindowsTensors tensors{x, scale, qkv, root, out, *saved};
    const Index width = s.width(), blocks = s.blocks(), matrix = width * width;
    const Lanes lanes{s.lanes, blocks, 3 * matrix, matrix, grad_qkv, grad_out, scratch + threads * s.scratch_size()};
    std::vector<float> parts(blocks * width), root_parts(blocks * s.heads);
#pragma omp parallel num_threads(threads)
    {
        float* workspace = scratch + omp_get_thread_num() * s.scratch_size();
        const SingleThreaded single_threaded(s.gemm);
        run_lanes(lanes, [&](Index block, bool add, float* of_qkv, float* of_out) {
            const WindowsGradients grads{grad, grad_x, of_qkv, of_out, parts.data(), root_parts.data()};
            attend_gradient(s, tensors, grads, block, add, workspace);
        });
    }
    sum_parts(parts.data(), s.images, s.blocks_per_image(), width, grad_scale);
    sum_parts(root_parts.data(), 1, blocks, s.heads, grad_root);
}
