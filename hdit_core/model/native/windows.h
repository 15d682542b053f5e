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
    Index block, lanes;      // windows of an image at a time; sums of weights' gradients that are formed side by side
    const Index* order;      // which row of x, of all images, stands where in the order of windows
    const float *cos, *sin;  // [row of an image, heads, features], and a quarter of the features
    const uint8_t* allowed;  // [windows, tokens, tokens]: which token may attend to which, or null: all
    float epsilon;
    Gemm gemm;

    Index width() const { return heads * features; }
    Index rows() const { return windows * tokens; }
    Index an_image() const { return (windows + block - 1) / block; }
    Index most_rows() const { return block * tokens; }
    Index blocks() const { return images * an_image(); }
    Index room() const { return most_rows() * 6 * width() + 2 * tokens * tokens; }  // numbers that a thread works in
};

// In the order of windows.
struct WindowsKept {
    float* qkv;       // [rows, 3 width], at their lengths and turned
    float* attended;  // [rows, width]
    float* inverse;   // [rows, 2 heads]: what queries and keys were multiplied by, but for the root of the scale
    WindowsKept from(Index row, Index width, Index heads) const {
        return {qkv + row * 3 * width, attended + row * width, inverse + row * 2 * heads};
    }
};

namespace {

// Windows of an image that are worked on together.
struct WindowBlock {
    Index image, window, windows, first, rows;  // the first window and how many; the same of rows, in their order
    const Index* order;
    WindowBlock(const Windows& s, Index block)
        : image(block / s.an_image()), window(block % s.an_image() * s.block),
          windows(std::min(s.block, s.windows - window)), first(image * s.rows() + window * s.tokens),
          rows(windows * s.tokens), order(s.order + first) {}
    Index cell(const Windows& s, Index row) const { return order[row] - image * s.rows(); }
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

// The gradients of queries and keys from those of what `to_similarity` made of them, in place; in `part` those of the
// heads' scales are added up.
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

struct WindowsTensors {
    const float *x, *scale, *qkv, *root, *out;
    WindowsKept kept;
};

// Some windows forwards; what is kept is that of the block.
inline void attend(const Windows& s, const WindowsTensors& t, const WindowBlock& at, const WindowsKept& kept, float* y,
                   float* normal, float* weights) {
    const Index width = s.width();
    for (Index row = 0; row < at.rows; row++)
        normalise(t.x + at.order[row] * width, t.scale + at.image * width, width, s.epsilon, normal + row * width);
    s.gemm.product<false, true>(at.rows, 3 * width, width, normal, width, t.qkv, width, kept.qkv, 3 * width);
    for (Index row = 0; row < at.rows; row++)
        to_similarity(s, at.cell(s, row), t.root, kept.qkv + row * 3 * width, kept.inverse + row * 2 * s.heads);
    for (Index pair = 0; pair < at.windows * s.heads; pair++) {
        const Index window = pair / s.heads, row = window * s.tokens, column = pair % s.heads * s.features;
        const float* q = kept.qkv + row * 3 * width + column;
        attention_weights(s, q, q + width, at.window + window, weights);
        s.gemm.product<false, false>(s.tokens, s.features, s.tokens, weights, s.tokens, q + 2 * width, 3 * width,
                                     kept.attended + row * width + column, width);
    }
    s.gemm.product<false, true>(at.rows, width, width, kept.attended, width, t.out, width, normal, width);
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
    float *part, *root_part;  // of the scales' gradients, for each block
};

// Some windows backwards; gradients of the matrices are added to what is there or put in its place.
inline void attend_gradient(const Windows& s, const WindowsTensors& t, const WindowsGradients& grads, Index block,
                            bool add, float* room) {
    const Index width = s.width(), many = s.most_rows() * width;
    const WindowBlock at(s, block);
    const WindowsKept kept = t.kept.from(at.first, width, s.heads);
    const float* factor = t.scale + at.image * width;
    float *normal = room, *grad = normal + many, *grad_attended = grad + many, *grad_all = grad_attended + many;
    float *weights = grad_all + 3 * many, *grad_weights = weights + s.tokens * s.tokens;
    for (Index row = 0; row < at.rows; row++) {
        std::memcpy(grad + row * width, grads.grad + at.order[row] * width, width * sizeof(float));
        normalise(t.x + at.order[row] * width, factor, width, s.epsilon, normal + row * width);
    }
    s.gemm.product<false, false>(at.rows, width, width, grad, width, t.out, width, grad_attended, width);
    s.gemm.product<true, false>(width, width, at.rows, grad, width, kept.attended, width, grads.out, width, add);
    for (Index pair = 0; pair < at.windows * s.heads; pair++) {
        const Index window = pair / s.heads, row = window * s.tokens, column = pair % s.heads * s.features;
        const Index in_one = row * width + column, in_three = row * 3 * width + column;
        attention_gradient(s, at.window + window, kept.qkv + in_three, kept.attended + in_one, grad_attended + in_one,
                           grad_all + in_three, weights, grad_weights);
    }
    for (Index row = 0; row < at.rows; row++)
        from_similarity(s, at.cell(s, row), t.root, kept.qkv + row * 3 * width, kept.inverse + row * 2 * s.heads,
                        grad_all + row * 3 * width, grads.root_part + block * s.heads);
    s.gemm.product<true, false>(3 * width, width, at.rows, grad_all, 3 * width, normal, width, grads.qkv, width, add);
    s.gemm.product<false, false>(at.rows, width, 3 * width, grad_all, 3 * width, t.qkv, width, grad_attended, width);
    for (Index row = 0; row < at.rows; row++) {
        const float* from = t.x + at.order[row] * width;
        normalise_gradient(grad_attended + row * width, grad + row * width, from, factor,
                           inverse_of(from, width, s.epsilon), width, grads.x + at.order[row] * width,
                           grads.part + block * width);
    }
}

}  // namespace

// `kept` is for the gradient, or its pointers are null. Scratch: room() for each thread.
EXPORTED void hdit_windows(const Windows* shape, const float* x, const float* scale, const float* qkv,
                           const float* root, const float* out, const WindowsKept* kept, float* y, float* scratch,
                           int threads) {
    const Windows s = *shape;
    const WindowsTensors tensors{x, scale, qkv, root, out, *kept};
    const Index width = s.width(), many = s.most_rows() * width, inverses = s.most_rows() * 2 * s.heads;
    std::vector<float> unkept_inverses(kept->qkv ? 0 : threads * inverses);
#pragma omp parallel num_threads(threads)
    {
        const Index thread = omp_get_thread_num();
        float *normal = scratch + thread * s.room(), *weights = normal + 5 * many;
        const WindowsKept unkept{normal + many, normal + 4 * many, unkept_inverses.data() + thread * inverses};
        const Alone alone(s.gemm);
#pragma omp for schedule(static)
        for (Index block = 0; block < s.blocks(); block++) {
            const WindowBlock at(s, block);
            attend(s, tensors, at, kept->qkv ? kept->from(at.first, width, s.heads) : unkept, y, normal, weights);
        }
    }
}

// Scratch: room() for each thread, and (lanes - 1) times the matrices. grad_root is that of the scale, times 2 scale.
EXPORTED void hdit_windows_gradient(const Windows* shape, const float* grad, const float* x, const float* scale,
                                    const float* qkv, const float* root, const float* out, const WindowsKept* kept,
                                    float* grad_x, float* grad_scale, float* grad_qkv, float* grad_root,
                                    float* grad_out, float* scratch, int threads) {
    const Windows s = *shape;
    const WindowsTensors tensors{x, scale, qkv, root, out, *kept};
    const Index width = s.width(), blocks = s.blocks(), matrix = width * width;
    const Lanes lanes{s.lanes, blocks, 3 * matrix, matrix, grad_qkv, grad_out, scratch + threads * s.room()};
    std::vector<float> parts(blocks * width), root_parts(blocks * s.heads);
#pragma omp parallel num_threads(threads)
    {
        float* room = scratch + omp_get_thread_num() * s.room();
        const Alone alone(s.gemm);
        in_lanes(lanes, [&](Index block, bool add, float* of_qkv, float* of_out) {
            const WindowsGradients grads{grad, grad_x, of_qkv, of_out, parts.data(), root_parts.data()};
            attend_gradient(s, tensors, grads, block, add, room);
        });
    }
    add_up(parts.data(), s.images, s.an_image(), width, grad_scale);
    add_up(root_parts.data(), 1, blocks, s.heads, grad_root);
}
