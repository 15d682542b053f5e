// Building blocks of the row-wise kernels: sums in a fixed order, exp, GELU, norms and rotations.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

using Index = int64_t;

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

constexpr int LANES = 16;  // number of partial sums, the same on all processors

// Returns the sum of term(i) for i < count, in a fixed order.
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

// exp(x) for x <= 0, accurate to the last bits; results below the smallest normal number are that number.
inline float exponential(float x) {
    // exp(x) = 2^n exp(r) with |r| <= ln(2)/2; adding and subtracting 1.5 2^23 rounds to an integer
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
    float value, slope;  // x cdf(x) and its derivative, with the cdf of the standard normal distribution
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

// Returns 1 / RMS of a row.
inline float inverse_of(const float* row, Index width, float epsilon) {
    return 1 / std::sqrt(sum(width, [&](Index i) { return row[i] * row[i]; }) / width + epsilon);
}

// Writes a row divided by its RMS, times a factor per feature; returns 1 / RMS.
inline float normalize(const float* from, const float* factor, Index width, float epsilon, float* to) {
    const float r = inverse_of(from, width, epsilon);
#pragma omp simd
    for (Index i = 0; i < width; i++) to[i] = from[i] * r * factor[i];
    return r;
}

// Writes values gelu(gates); a row consists of `features` values and as many gates.
inline void gate(const float* values, Index features, float* to) {
    const float* gates = values + features;
#pragma omp simd
    for (Index i = 0; i < features; i++) to[i] = values[i] * gelu(gates[i]).value;
}

// Rotates features i and i + quarter as the two coordinates of a plane; the second half is only multiplied by `factor`.
inline void rotate(const float* from, float factor, const float* cos, const float* sin, float direction, Index features,
                 float* to) {
    const Index quarter = features / 4;
#pragma omp simd
    for (Index i = 0; i < quarter; i++) {
        const float a = from[i] * factor, b = from[i + quarter] * factor, s = direction * sin[i];
        to[i] = a * cos[i] - b * s;
        to[i + quarter] = b * cos[i] + a * s;
    }
#pragma omp simd
    for (Index i = 2 * quarter; i < features; i++) to[i] = from[i] * factor;
}

// Writes the gradients of values and gates. `units` contains the gradient of geglu on entry, its output on return.
inline void gate_gradient(const float* values, Index features, float* units, float* grad_values) {
    const float* gates = values + features;
    float* grad_gates = grad_values + features;
#pragma omp simd
    for (Index i = 0; i < features; i++) {
        const Gate gate = gelu(gates[i]);
        const float from = units[i];
        grad_values[i] = from * gate.value;
        grad_gates[i] = from * values[i] * gate.slope;
        units[i] = values[i] * gate.value;
    }
}

// Writes the gradient of a row from `g`, that of the normalized row, plus `add` unless it is null; `r` was returned by
// `normalize`. The gradient of the factor is added to `part`.
inline void normalize_gradient(const float* g, const float* add, const float* from, const float* factor, float r,
                               Index width, float* to, float* part) {
    const float along = sum(width, [&](Index i) { return g[i] * factor[i] * from[i]; }) * r * r * r / width;
#pragma omp simd
    for (Index i = 0; i < width; i++) {
        part[i] += g[i] * from[i] * r;
        to[i] = (add ? add[i] : 0) + g[i] * factor[i] * r - from[i] * along;
    }
}

// Writes the sum of the parts [images, count, width] of each image, in order.
inline void sum_parts(const float* parts, Index images, Index count, Index width, float* to) {
    std::fill_n(to, images * width, 0.0f);
    for (Index part = 0; part < images * count; part++)
        for (Index i = 0; i < width; i++) to[part / count * width + i] += parts[part * width + i];
}

// Accumulators for the gradients of a block's two matrices: each lane has its own; those of lane 0 become the results.
struct Lanes {
    Index count, blocks;   // number of lanes, and of row blocks
    Index first, second;   // sizes of the matrices
    float *to_first, *to_second;
    float* sums;           // [count - 1, first + second]
};

// Calls act(block, add, first sums, second sums) for all blocks, then sums over lanes; called by all threads of a team.
template <class Act> inline void run_lanes(const Lanes& s, const Act& act) {
    const Index size = s.first + s.second;
#pragma omp for schedule(static)
    for (Index lane = 0; lane < s.count; lane++) {
        float* first = lane ? s.sums + (lane - 1) * size : s.to_first;
        float* second = lane ? first + s.first : s.to_second;
        const Index begin = s.blocks * lane / s.count, end = s.blocks * (lane + 1) / s.count;
        for (Index block = begin; block < end; block++) act(block, block > begin, first, second);
    }
#pragma omp for schedule(static)
    for (Index i = 0; i < size; i++) {
        float more = 0;
        for (Index lane = 1; lane < s.count; lane++) more += s.sums[(lane - 1) * size + i];
        (i < s.first ? s.to_first[i] : s.to_second[i - s.first]) += more;
    }
}

}  // namespace
