// What stands between the matrix products of a layer, each in one pass over its rows: norms, similarity, gated units.
//
// A row is worked out by one thread and in an order that depends on nothing but its length; sums over rows are formed
// in blocks of fixed size, block after block. So neither threads nor batch make a difference to bits.
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

constexpr Index BLOCK = 32;  // rows that are summed at a time

}  // namespace

// Rows of values and gates, `features` of each => values gelu(gates).
EXPORTED void hdit_gated(const float* x, float* y, Index rows, Index features, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index row = 0; row < rows; row++) gate(x + row * 2 * features, features, y + row * features);
}

EXPORTED void hdit_gated_gradient(const float* grad, const float* x, float* grad_x, Index rows, Index features,
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

// Image after image has `rows` rows of `width` numbers and a scale of its own => each row divided by its root mean
// square, times the scale; `inverse` is kept for the gradient.
EXPORTED void hdit_norm(const float* x, const float* scale, float* y, float* inverse, Index images, Index rows,
                        Index width, float epsilon, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index row = 0; row < images * rows; row++)
        inverse[row] = normalise(x + row * width, scale + row / rows * width, width, epsilon, y + row * width);
}

// `beside` is what else adds to the gradient of x, or null.
EXPORTED void hdit_norm_gradient(const float* grad, const float* beside, const float* x, const float* scale,
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
            const float* add = beside ? beside + row * width : nullptr;
            normalise_gradient(g, add, from, factor, inverse[row], width, grad_x + row * width, part);
        }
    }
    add_up(parts.data(), images, blocks, width, grad_scale);
}

// Queries and keys (not values) of qkv [tokens, 3, heads, features] => both [tokens, 2, heads, features].
EXPORTED void hdit_similarity(const Heads* shape, const float* qkv, const float* root, const float* cos,
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
            turn(from, r * root[n], cos + angle * s.features, sin + angle * quarter, 1, s.features,
                 both + (token * pairs + pair) * s.features);
        }
    }
}

// Gradients of queries, keys and values => those of qkv, and of each head's scale, times 2 scale.
EXPORTED void hdit_similarity_gradient(const Heads* shape, const View* grads, const float* qkv, const float* root,
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
                turn(grads[pair / s.heads].at(s, token, n), factor, cos + angle * s.features, sin + angle * quarter,
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
    add_up(parts.data(), 1, blocks, s.heads, grad_scale);
}

// Whole blocks of a layer; the gradients of their matrices are added up thread by thread, and then these sums.
#include "feed_forward.h"
#include "windows.h"
