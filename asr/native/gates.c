/* Products of training that torch makes of several passes: SwooshL under a mask, a gate, a bypass; and their gradients. */
#include "vector_math.h"

#define COLUMNS 64 /* channels whose sums one thread keeps */

VECTOR static void swoosh_row(const float *x, const float *mask, float *y, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        float z = x[j] - 4.0f;
        y[j] = mask[j] * ((z > 0.0f ? z : 0.0f) + log1p_float(exp_float(-fabsf(z))) - 0.08f * x[j] - 0.035f);
    }
}

VECTOR static void swoosh_gradient_row(const float *x, const float *mask, const float *dy, float *dx, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) dx[j] = mask[j] * dy[j] * (1.0f / (1.0f + exp_float(4.0f - x[j])) - 0.08f);
}

VECTOR static void gate_row(const float *x, float *y, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = x[j] / (1.0f + exp_float(-x[n + j]));
}

VECTOR static void gate_gradient_row(const float *x, const float *dy, float *dx, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        float open = 1.0f / (1.0f + exp_float(-x[n + j]));
        dx[j] = dy[j] * open;
        dx[n + j] = dy[j] * x[j] * open * (1.0f - open);
    }
}

VECTOR static void bypass_row(const float *x, const float *y, const float *scale, float *z, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) z[j] = x[j] + (y[j] - x[j]) * scale[j];
}

/* Some channels of all frames of one stream. */
VECTOR static void bypass_gradient(const float *x, const float *y, const float *scale, const float *dz, float *dx,
                                   float *dy, float *d_scale, int64_t frames, int64_t dim, int64_t n) {
    float sum[COLUMNS] = {0};
    for (int64_t u = 0; u < frames; u++, x += dim, y += dim, dz += dim, dx += dim, dy += dim)
#pragma omp simd
        for (int64_t j = 0; j < n; j++) {
            sum[j] += dz[j] * (y[j] - x[j]);
            dy[j] = dz[j] * scale[j];
            dx[j] = dz[j] - dz[j] * scale[j];
        }
    memcpy(d_scale, sum, (size_t)n * sizeof *sum);
}

#define ROWS \
    _Pragma("omp parallel for schedule(static) num_threads(threads) if (batch * frames > 64)") \
    for (int64_t i = 0; i < batch * frames; i++)

/* x, y, dx, dy: (B, U, D); mask: (B, D). dy NULL: y = SwooshL(x) mask; else y is its gradient. */
EXPORT void rill_swoosh_masked(const float *x, const float *mask, const float *dy, float *y, int64_t batch,
                               int64_t frames, int64_t dim, int threads) {
    ROWS {
        const float *own = mask + i / frames * dim;
        if (dy)
            swoosh_gradient_row(x + i * dim, own, dy + i * dim, y + i * dim, dim);
        else
            swoosh_row(x + i * dim, own, y + i * dim, dim);
    }
}

/* x: (B, U, 2 D); dy NULL: y (B, U, D) = first half times sigmoid of the second, 0 from frame `end` (B,) on; else y
 * (B, U, 2 D) is its gradient. */
EXPORT void rill_gate(const float *x, const int64_t *end, const float *dy, float *y, int64_t batch, int64_t frames,
                      int64_t dim, int threads) {
    ROWS {
        int64_t width = dy ? 2 * dim : dim;
        if (i % frames >= end[i / frames])
            memset(y + i * width, 0, (size_t)width * sizeof *y);
        else if (dy)
            gate_gradient_row(x + i * 2 * dim, dy + i * dim, y + i * width, dim);
        else
            gate_row(x + i * 2 * dim, y + i * width, dim);
    }
}

/* z = x + (y - x) scale; x, y, z: (B, U, D); scale: (B, D). */
EXPORT void rill_bypass(const float *x, const float *y, const float *scale, float *z, int64_t batch, int64_t frames,
                        int64_t dim, int threads) {
    ROWS bypass_row(x + i * dim, y + i * dim, scale + i / frames * dim, z + i * dim, dim);
}

EXPORT void rill_bypass_gradient(const float *x, const float *y, const float *scale, const float *dz, float *dx,
                                 float *dy, float *d_scale, int64_t batch, int64_t frames, int64_t dim, int threads) {
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads) if (batch * frames > 64)
    for (int64_t b = 0; b < batch; b++)
        for (int64_t d = 0; d < dim; d += COLUMNS) {
            int64_t at = b * frames * dim + d, n = dim - d < COLUMNS ? dim - d : COLUMNS;
            bypass_gradient(x + at, y + at, scale + b * dim + d, dz + at, dx + at, dy + at, d_scale + b * dim + d,
                            frames, dim, n);
        }
}
