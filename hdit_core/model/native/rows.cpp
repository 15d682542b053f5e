// What stands between the matrix products of a layer, each in one pass over its rows: norms, similarity, gated units.
//
// A row is worked out by one thread and in an order that depends on nothing but its length; sums over rows are formed
// in blocks of fixed size, block after block. So neither the number of threads nor the batch makes a difference to bits.
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

// Features i and i + quarter are the two coordinates of a plane; the second half is not turned.
inline void turn(const float* from, float factor, const float* cos, const float* sin, float way, Index features,
                 float* to) {
    const Index quarter = features / 4;
#pragma omp simd
    for (Index i = 0; i < quarter; i++) {
        const float a = from[i] * factor, b = from[i + quarter] * factor, s = way * sin[i];
        to[i] = a * cos[i] - b * s;
        to[i + quarter] = b * cos[i] + a * s;
    }
#pragma omp simd
    for (Index i = 2 * quarter; i < features; i++) to[i] = from[i] * factor;
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

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
            const float r = inverse[row];
            const float along = sum(width, [&](Index i) { return g[i] * factor[i] * from[i]; }) * r * r * r / width;
            float* to = grad_x + row * width;
#pragma omp simd
            for (Index i = 0; i < width; i++) {
                part[i] += g[i] * from[i] * r;
                to[i] = (add ? add[i] : 0) + g[i] * factor[i] * r - from[i] * along;
            }
        }
    }
    std::fill_n(grad_scale, images * width, 0.0f);
    for (Index block = 0; block < images * blocks; block++)
        for (Index i = 0; i < width; i++) grad_scale[block / blocks * width + i] += parts[block * width + i];
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
    std::fill_n(grad_scale, s.heads, 0.0f);
    for (Index block = 0; block < blocks; block++)
        for (Index n = 0; n < s.heads; n++) grad_scale[n] += parts[block * s.heads + n];
}

struct FeedForward {
    Index images, rows, width, hidden, blocks;
    void* gemm;   // the Fortran function sgemm, of the library that torch takes its products from
    void* limit;  // MKL's own that limits the threads of products that this thread asks for; returns the limit before
    Index scratch() const { return (images * rows + blocks - 1) / blocks * (width + 3 * hidden); }
};

namespace {

// c [rows, columns] = a [rows, inner] b^T, all by rows; the library's matrices are by columns.
inline void product(const FeedForward& s, Index rows, Index columns, Index inner, const float* a, const float* b,
                    float* c) {
    using Gemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
                          const int*, const float*, const int*, const float*, float*, const int*);
    const int m = int(columns), n = int(rows), k = int(inner);
    const float one = 1, zero = 0;
    reinterpret_cast<Gemm>(s.gemm)("T", "N", &m, &n, &k, &one, b, &k, a, &k, &zero, c, &m);
}

}  // namespace

// x + down gated(up norm(x)), block of rows after block, so that what is between stays in a core's own cache. With
// products whose sums do not depend on the number of their rows, the bits are those of one step after the other.
EXPORTED void hdit_feed_forward(const FeedForward* shape, const float* x, const float* scale, const float* up,
                                const float* down, float* y, float* scratch, float epsilon, int threads) {
    using Limit = int (*)(int);
    const FeedForward s = *shape;
    const Index total = s.images * s.rows, most = (total + s.blocks - 1) / s.blocks;
#pragma omp parallel num_threads(threads)
    {
        float* normal = scratch + omp_get_thread_num() * s.scratch();
        float *both = normal + most * s.width, *units = both + most * 2 * s.hidden;
        const int before = reinterpret_cast<Limit>(s.limit)(1);
#pragma omp for schedule(static)
        for (Index block = 0; block < s.blocks; block++) {
            const Index first = block * total / s.blocks, rows = (block + 1) * total / s.blocks - first;
            const float* from = x + first * s.width;
            float* to = y + first * s.width;
            for (Index row = 0; row < rows; row++)
                normalise(from + row * s.width, scale + (first + row) / s.rows * s.width, s.width, epsilon,
                          normal + row * s.width);
            product(s, rows, 2 * s.hidden, s.width, normal, up, both);
            for (Index row = 0; row < rows; row++) gate(both + row * 2 * s.hidden, s.hidden, units + row * s.hidden);
            product(s, rows, s.width, s.hidden, units, down, to);
#pragma omp simd
            for (Index i = 0; i < rows * s.width; i++) to[i] += from[i];
        }
        reinterpret_cast<Limit>(s.limit)(before);
    }
}
