/* A matrix product of a few rows whose sums stay in registers: what all products of small sizes here are made of. */
#ifndef RILL_TILE_H
#define RILL_TILE_H

#include "vector_math.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#define LANES 16 /* floats in a vector: one of AVX-512, or a few smaller ones */
#define ROWS 8

typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t up_to(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/* sum (rows x `vectors`) += a (rows x n) times b (n x `vectors`). `rows`, at most 12, and `vectors`, 1 or 2, must be
 * constants where this is inlined. */
INLINE void multiply_tile(float *restrict sum, int64_t sum_row, const float *a, int64_t a_row, int64_t a_step,
                          const float *b, int64_t b_row, int64_t n, int rows, int vectors) {
    Vector s[12][2];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) s[r][v] = *(const Vector *)(sum + r * sum_row + v * LANES);
    for (int64_t j = 0; j < n; j++, a += a_step, b += b_row) {
        Vector first = *(const Vector *)b, second = vectors > 1 ? *(const Vector *)(b + LANES) : first;
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            float x = a[r * a_row];
            s[r][0] += x * first;
            if (vectors > 1) s[r][1] += x * second;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) *(Vector *)(sum + r * sum_row + v * LANES) = s[r][v];
}

/* The same for ROWS rows and any whole number of vectors, `columns` floats. */
INLINE void multiply_rows(float *restrict sum, int64_t sum_row, const float *a, int64_t a_row, int64_t a_step,
                          const float *b, int64_t b_row, int64_t n, int64_t columns) {
    int64_t j = 0;
    for (; j + 2 * LANES <= columns; j += 2 * LANES)
        multiply_tile(sum + j, sum_row, a, a_row, a_step, b + j, b_row, n, ROWS, 2);
    if (j < columns) multiply_tile(sum + j, sum_row, a, a_row, a_step, b + j, b_row, n, ROWS, 1);
}

INLINE int thread_number(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

#endif
