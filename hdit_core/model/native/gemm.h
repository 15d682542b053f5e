// The matrix product that torch itself calls, for use by threads that each have work of their own.
#pragma once

#include "rowwise.h"

struct Gemm {
    void* sgemm;  // the Fortran function, of the library that torch takes its products from
    void* limit;  // MKL's own that limits the threads of products that this thread asks for; returns the limit before

    // c [rows, columns] = a b, or added to c; a is [rows, inner] and b [inner, columns], or where TRANSPOSED they lie
    // as [inner, rows] and [columns, inner]. Rows lie `_step` apart; the library's own matrices are by columns.
    template <bool TRANSPOSED_A, bool TRANSPOSED_B>
    void product(Index rows, Index columns, Index inner, const float* a, Index a_step, const float* b, Index b_step,
                 float* c, Index c_step, bool add = false) const {
        using Function = void (*)(const char*, const char*, const int*, const int*, const int*, const float*,
                                  const float*, const int*, const float*, const int*, const float*, float*, const int*);
        const int m = int(columns), n = int(rows), k = int(inner);
        const int lda = int(a_step), ldb = int(b_step), ldc = int(c_step);
        const float one = 1, beta = add ? 1 : 0;
        reinterpret_cast<Function>(sgemm)(TRANSPOSED_B ? "T" : "N", TRANSPOSED_A ? "T" : "N", &m, &n, &k, &one, b, &ldb,
                                          a, &lda, &beta, c, &ldc);
    }
};

// While it lives, products that this thread asks for are worked out by this thread alone.
class Alone {
  public:
    explicit Alone(const Gemm& gemm) : limit(reinterpret_cast<int (*)(int)>(gemm.limit)), before(limit(1)) {}
    ~Alone() { limit(before); }
    Alone(const Alone&) = delete;

  private:
    int (*limit)(int);
    int before;
};
