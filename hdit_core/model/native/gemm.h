// The matrix product that torch itself calls, for use inside parallel regions.
#pragma once

#include "rowwise.h"

struct Gemm {
    void* sgemm;  // the Fortran BLAS function of torch's library
    void* limit;  // MKL_Set_Num_Threads_Local: sets the calling thread's thread limit and returns the previous one

    // c [rows, columns] = a b, or c += a b if `add`; a is [rows, inner] and b [inner, columns], stored as [inner, rows]
    // and [columns, inner] if TRANSPOSED. `_step` is the row stride. BLAS matrices are column-major.
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

// During its lifetime, matrix products of the calling thread run on that thread only.
class SingleThreaded {
  public:
    explicit SingleThreaded(const Gemm& gemm) : limit(reinterpret_cast<int (*)(int)>(gemm.limit)), before(limit(1)) {}
    ~SingleThreaded() { limit(before); }
    SingleThreaded(const SingleThreaded&) = delete;

  private:
    int (*limit)(int);
    int before;
};
