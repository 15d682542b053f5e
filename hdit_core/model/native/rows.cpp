// What stands between the matrix products of a layer, each in one pass over its rows: norms, similarity, gated units.
//
// A row is worked out by one thread and in an order that depends on nothing but its length; sums over rows are formed
// in blocks of fixed size, block after block. So neither the number of threads nor the batch makes a difference to bits.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

using Index = int64_t;

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

constexpr int LANES = 16;    // sums run in so many numbers side by side, whatever the processor has
constexpr Index BLOCK = 32;  // rows that are summed at a time

// Sum term(i) for i < count, in an order that is always the same.
template <class Term> inline float sum(Index count, const Term& term) {
    float lanes[LANES] = {};
    Index i = 0;
    for (; i + LANES <= count; i += LANES)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++) lanes[lane] += term(i + lane);
    for (int lane = 0; i + lane < count; lane++) lanes[lane] += term(i + lane);
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

// exp(x) for x <= 0, to the last bits; what would be smaller than the smallest normal number is that number.
inline float exponential(float x) {
    // exp(x) = 2^n exp(r) with |r| <= ln(2)/2; adding and taking off 1.5 2^23 rounds to a whole number
    x = x < -87.3f ? -87.3f : x;
    const float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
    float series = 1.0f / 5040;
    series = series * r + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    int32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = int32_t(uint32_t(bits + 127) << 23);
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return series * power;
}

struct Gate {
    float value, slope;  // of x cdf(x), with cdf that of the standard normal distribution
};

// Abramowitz and Stegun 7.1.26: the error of cdf is below 1e-7.
inline Gate gelu(float x) {
    const float square = exponential(-0.5f * x * x), positive = std::fabs(x) * 0.70710678f;
    const float t = 1.0f / (1.0f + 0.3275911f * positive);
    const float series =
        t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    const float tail = 0.5f * series * square, cdf = x < 0 ? tail : 1 - tail;
    return {x * cdf, cdf + x * square * 0.39894228f};
}

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
    for (Index row = 0; row < rows; row++) {
        const float *values = x + row * 2 * features, *gates = values + features;
        float* to = y + row * features;
#pragma omp simd
        for (Index i = 0; i < features; i++) to[i] = values[i] * gelu(gates[i]).value;
    }
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
    for (Index row = 0; row < images * rows; row++) {
        const float *from = x + row * width, *factor = scale + row / rows * width;
        const float mean = sum(width, [&](Index i) { return from[i] * from[i]; }) / width;
        const float r = inverse[row] = 1 / std::sqrt(mean + epsilon);
        float* to = y + row * width;
#pragma omp simd
        for (Index i = 0; i < width; i++) to[i] = from[i] * r * factor[i];
    }
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
