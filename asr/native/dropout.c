/* Dropout: values times a scale, or zero where 16 random bits say so. Its gradient is the same of the gradient. */
#include "vector_math.h"

VECTOR static void drop(const float *x, const int16_t *bits, float *y, int64_t n, int16_t threshold, float scale) {
    for (int64_t i = 0; i < n; i++) y[i] = bits[i] < threshold ? 0.0f : x[i] * scale;
}

/* x, y: n floats; bits: n, of which those below threshold drop their value. */
EXPORT void rill_dropout(const float *x, const int16_t *bits, float *y, int64_t n, int64_t threshold, float scale,
                         int threads) {
    int64_t block = 4096;
#pragma omp parallel for schedule(static) num_threads(threads) if (n > 65536)
    for (int64_t i = 0; i < n; i += block)
        drop(x + i, bits + i, y + i, n - i < block ? n - i : block, (int16_t)threshold, scale);
}
