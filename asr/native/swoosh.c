/* SwooshL and SwooshR (Zipformer, Yao et al. 2023): log(1 + exp(x - offset)) - 0.08 x - constant. */
#include "vector_math.h"

#define SLOPE 0.08f
#define BLOCK 8192

VECTOR static void forward_block(const float *x, float *y, int64_t n, float offset, float constant) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float z = x[i] - offset;
        float positive = z > 0.0f ? z : 0.0f;
        y[i] = positive + log1p_float(exp_float(-fabsf(z))) - SLOPE * x[i] - constant;
    }
}

VECTOR static void backward_block(const float *x, const float *dy, float *dx, int64_t n, float offset) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * (1.0f / (1.0f + exp_float(offset - x[i])) - SLOPE);
}

EXPORT void rill_swoosh_forward(const float *x, float *y, int64_t n, float offset, float constant, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (n > 4 * BLOCK)
    for (int64_t i = 0; i < n; i += BLOCK)
        forward_block(x + i, y + i, n - i < BLOCK ? n - i : BLOCK, offset, constant);
}

EXPORT void rill_swoosh_backward(const float *x, const float *dy, float *dx, int64_t n, float offset, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (n > 4 * BLOCK)
    for (int64_t i = 0; i < n; i += BLOCK)
        backward_block(x + i, dy + i, dx + i, n - i < BLOCK ? n - i : BLOCK, offset);
}
