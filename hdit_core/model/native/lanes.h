// SIMD vectors with GCC and Clang extensions: types, loads and stores, exp, and transposition.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

using Real = REAL;  // float or double, from the command line
using Integer = std::conditional_t<sizeof(Real) == 4, uint32_t, uint64_t>;

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif
constexpr int LANES = VECTOR_BYTES / sizeof(Real);
constexpr bool MANY_REGISTERS = VECTOR_BYTES == 64;  // 32 vector registers, otherwise 16 (or 32 on ARM)

#define INLINED __attribute__((always_inline))
#define INLINE inline INLINED

template <int I> using Number = std::integral_constant<int, I>;

// Calls act(0) ... act(N - 1) with compile-time constants, so that arrays indexed by them can stay in registers.
template <class Act, int... I> INLINE void unroll(std::integer_sequence<int, I...>, const Act& act) {
    (act(Number<I>()), ...);
}
template <int N, class Act> INLINE void unroll(const Act& act) { unroll(std::make_integer_sequence<int, N>(), act); }

template <int N> struct Lanes {
    typedef Real vector __attribute__((vector_size(N * sizeof(Real))));
};
template <int N> using Vector = typename Lanes<N>::vector;
using Wide = Vector<LANES>;
typedef Integer WideInteger __attribute__((vector_size(VECTOR_BYTES)));

template <int N = LANES> INLINE Vector<N> load(const Real* from) {
    Vector<N> vector;
    std::memcpy(&vector, from, sizeof vector);  // an unaligned load
    return vector;
}

template <int N = LANES> INLINE void store(Real* to, Vector<N> vector) { std::memcpy(to, &vector, sizeof vector); }

template <int N = LANES> INLINE Vector<N> spread(Real number) { return number - Vector<N>{}; }

// Keeps a vector in a register: otherwise GCC reads it from memory again at each use.
template <int N> INLINE void keep(Vector<N>& vector) {
#if defined(__AVX__)
    if constexpr (N * sizeof(Real) >= 16) asm("" : "+v"(vector));
#elif defined(__aarch64__)
    if constexpr (N * sizeof(Real) >= 16) asm("" : "+w"(vector));
#endif
}

inline Wide larger(Wide a, Wide b) { return a > b ? a : b; }

// exp(x) for x <= 0, accurate to the last bits; results below the smallest normal number are that number.
inline Wide exponential(Wide x) {
    if constexpr (sizeof(Real) == 8) {
        for (int lane = 0; lane < LANES; lane++) x[lane] = std::exp(x[lane]);
        return x;
    } else {
        // exp(x) = 2^n exp(r) with |r| <= ln(2)/2; adding and subtracting 1.5 2^23 rounds to an integer
        const Wide least = spread(-87.3f), magic = spread(12582912.0f);
        x = x < least ? least : x;
        const Wide shifted = x * spread(1.44269504f) + magic;
        const Wide n = shifted - magic;
        const Wide r = (x - n * spread(0.693359375f)) + n * spread(2.12194440e-4f);  // ln 2 in two parts
        Wide series = spread(1.0f / 5040);
        for (float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
            series = series * r + spread(factor);
        WideInteger bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        bits = (bits + 127) << 23;  // the low bits are n; the exponent is biased by 127
        Wide power;
        std::memcpy(&power, &bits, sizeof power);
        return series * power;  // a product, so that NaN stays NaN
    }
}

// Interleaves the first halves of two vectors (or the second halves, for OFFSET = LANES / 2).
template <int OFFSET, int... I> inline Wide riffle(Wide a, Wide b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (OFFSET + I / 2 + I % 2 * LANES)...);
#else
    return __builtin_shuffle(a, b, WideInteger{(OFFSET + I / 2 + I % 2 * LANES)...});
#endif
}

// Transposes a square by interleaving the upper half of its rows with the lower half, once per bit of LANES.
inline void transpose(Wide (&rows)[LANES]) {
    constexpr auto order = std::make_integer_sequence<int, LANES>();
    for (int pass = 1; pass < LANES; pass *= 2) {
        Wide mixed[LANES];
        unroll<LANES / 2>([&](auto i) INLINED {
            mixed[2 * i] = riffle<0>(rows[i], rows[i + LANES / 2], order);
            mixed[2 * i + 1] = riffle<LANES / 2>(rows[i], rows[i + LANES / 2], order);
        });
        unroll<LANES>([&](auto i) INLINED { rows[i] = mixed[i]; });
    }
}
