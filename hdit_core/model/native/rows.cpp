// Fused row-wise operations between a layer's matrix products: norm, QK norm with RoPE, GEGLU.
//
// A row is computed by one thread, in an order that depends only on its length; sums over rows are formed in blocks of
// fixed size, in order. Results are thus bit-identical for any number of threads and any batch size.
#include "rowwise.h"

#include <omp.h>

#include <vector>

struct Heads {
    Index images, rows, columns, heads, features;
    Index tokens() const { return rows * columns; }
};

struct View {
    const float* data;
    Index image, row, column, head;  // strides
    const float* at(const Heads& s, Index token, Index n) const {
        const Index cell = token % s.tokens();
        return data + token / s.tokens() * image + cell / s.columns * row + cell % s.columns * column + n * head;
    }
};

namespace {

constexpr Index BLOCK = 32;  // rows per partial sum

}  // namespace

// x [rows, 2 features] holds values and gates; y [rows, features] = values gelu(gates).
EXPORTED void hdit_geglu(const float* x, float* y, Index rows, Index features, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index row = 0; row < rows; row++) gate(x + row * 2 * features, features, y + row * features);
}

EXPORTED void hdit_geglu_gradient(const float* grad, const float* x, float* grad_x, Index rows, Index features,
                                  int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index row = 0; row < rows; row++) {
        const float *values = x + row * 2 * features, *gates = values + features, *from = grad + row * features;
        float *to_values = grad_x + row * 2 * features, *to_gates = to_values + features;
#pragma omp simd
        for (Index i = 0; i < features; i++) {
            const Gate gate = gelu(gates[i]);
            to_values[i] = from[i] * gate.value;
            to_gates[i] = from[i] * values[i] * gate.slope;
        }
    }
}

// y = x / RMS(x) * scale for x [images, rows, width], with one scale per image; `inverse`, 1 / RMS(x) of each row, is
// saved for the gradient.
EXPORTED void hdit_norm(const float* x, const float* scale, float* y, float* inverse, Index images, Index rows,
                        Index width, float epsilon, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index row = 0; row < images * rows; row++)
        inverse[row] = normalize(x + row * width, scale + row / rows * width, width, epsilon, y + row * width);
}

// `residual` is the gradient of the residual connection, added to that of x, or null.
EXPORTED void hdit_norm_gradient(const float* grad, const float* residual, const float* x, const float* scale,
                                 const float* inverse, float* grad_x, float* grad_scale, Index images, Index rows,
                                 Index width, int threads) {
    const Index blocks = (rows + BLOCK - 1) / BLOCK;
    std::vector<float> parts(images * blocks * width);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index block = 0; block < images * blocks; block++) {
        const Index image = block / blocks, first = block % blocks * BLOCK;
        const float* factor = scale + image * width;
        float* part = parts.data() + block * width;
        for (Index row = image * rows + first; row < image * rows + std::min(first + BLOCK, rows); row++) {
            const float *from = x + row * width, *g = grad + row * width;
            const float* add = residual ? residual + row * width : nullptr;
            normalize_gradient(g, add, from, factor, inverse[row], width, grad_x + row * width, part);
        }
    }
    sum_parts(parts.data(), images, blocks, width, grad_scale);
}

// Normalizes and rotates the queries and keys (not values) of qkv [tokens, 3, heads, features]; writes
// both [tokens, 2, heads, features] and their inverse lengths.
EXPORTED void hdit_qk_norm_rope(const Heads* shape, const float* qkv, const float* root, const float* cos,
                              const float* sin, float* both, float* inverse, float epsilon, int threads) {
    const Heads s = *shape;
    const Index pairs = 2 * s.heads, quarter = s.features / 4;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index token = 0; token < s.images * s.tokens(); token++) {
        const Index cell = token % s.tokens();
        for (Index pair = 0; pair < pairs; pair++) {
            const Index n = pair % s.heads, angle = cell * s.heads + n;
            const float* from = qkv + (token * 3 * s.heads + pair) * s.features;
            const float square = sum(s.features, [&](Index i) { return from[i] * from[i]; });
            const float r = inverse[token * pairs + pair] = 1 / std::sqrt(square + epsilon);
            rotate(from, r * root[n], cos + angle * s.features, sin + angle * quarter, 1, s.features,
                 both + (token * pairs + pair) * s.features);
        }
    }
}

// Writes the gradient of qkv, and 2 scale times the gradient of each head's scale, from the gradients of queries, keys
// and values.
EXPORTED void hdit_qk_norm_rope_gradient(const Heads* shape, const View* grads, const float* qkv, const float* root,
                                       const float* cos, const float* sin, const float* inverse, float* grad_qkv,
                                       float* grad_scale, int threads) {
    const Heads s = *shape;
    const Index pairs = 2 * s.heads, quarter = s.features / 4, tokens = s.images * s.tokens();
    const Index blocks = (tokens + BLOCK - 1) / BLOCK;
    std::vector<float> parts(blocks * s.heads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index block = 0; block < blocks; block++)
        for (Index token = block * BLOCK; token < std::min((block + 1) * BLOCK, tokens); token++) {
            const Index cell = token % s.tokens();
            for (Index pair = 0; pair < pairs; pair++) {
                const Index n = pair % s.heads, angle = cell * s.heads + n;
                const float* from = qkv + (token * 3 * s.heads + pair) * s.features;
                float* to = grad_qkv + (token * 3 * s.heads + pair) * s.features;
                const float r = inverse[token * pairs + pair], factor = r * root[n];
                rotate(grads[pair / s.heads].at(s, token, n), factor, cos + angle * s.features, sin + angle * quarter,
                     -1, s.features, to);
                const float along = sum(s.features, [&](Index i) { return to[i] * from[i]; });
                parts[block * s.heads + n] += along;
                const float less = along * r * r;
#pragma omp simd
                for (Index i = 0; i < s.features; i++) to[i] -= from[i] * less;
            }
            float* values = grad_qkv + (token * 3 + 2) * s.heads * s.features;
            for (Index n = 0; n < s.heads; n++)
                std::memcpy(values + n * s.features, grads[2].at(s, token, n), s.features * sizeof(float));
        }
    sum_parts(parts.data(), 1, blocks, s.heads, grad_scale);
}

// Whole blocks of a layer. Gradients of their matrices are summed per thread, and then over threads.
#include "feed_forward.h"
#include "windows.h"
