/* Depthwise convolutions of 3 x 3 with stride 2 over time and frequency, of tensors whose last dimension is the channel:
 * the subsampling of FastConformer and Squeezeformer.
 *
 * Frame t and column f of the output see the frames 2 t ... 2 t + 2 of the input and its columns 2 f - before ...
 * 2 f - before + 2, of which those that do not exist are zeros. A thread has LANES channels to itself, and their
 * gradients, so that the results do not depend on the number of threads.
 */
#include "vector_math.h"

#define LANES 64 /* channels worked on at once */
#define KERNEL 3
#define STRIDE 2
#define TAPS (KERNEL * KERNEL)

typedef struct {
    int64_t batch, inputs, input_columns, frames, columns, dim, before;
} Shape;

INLINE int64_t input_at(const Shape *s, int64_t b, int64_t t, int64_t f) {
    return ((b * s->inputs + t) * s->input_columns + f) * s->dim;
}

INLINE int64_t output_at(const Shape *s, int64_t b, int64_t t, int64_t f) {
    return ((b * s->frames + t) * s->columns + f) * s->dim;
}

/* Where tap k of output (b, t, f) looks, or -1 for a column that does not exist. */
INLINE int64_t seen_at(const Shape *s, int64_t b, int64_t t, int64_t f, int64_t k) {
    int64_t column = STRIDE * f - s->before + k % KERNEL;
    return column < 0 || column >= s->input_columns ? -1 : input_at(s, b, STRIDE * t + k / KERNEL, column);
}

INLINE void forward(const Shape *s, const float *x, const float *weight, const float *bias, float *y, int64_t lanes) {
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t t = 0; t < s->frames; t++)
            for (int64_t f = 0; f < s->columns; f++) {
                float *to = y + output_at(s, b, t, f), sum[LANES];
                for (int64_t l = 0; l < lanes; l++) sum[l] = bias[l];
                for (int64_t k = 0; k < TAPS; k++) {
                    int64_t at = seen_at(s, b, t, f, k);
                    if (at < 0) continue;
                    for (int64_t l = 0; l < lanes; l++) sum[l] += weight[k * s->dim + l] * x[at + l];
                }
                for (int64_t l = 0; l < lanes; l++) to[l] = sum[l];
            }
}

/* Each row of the output is summed by itself first: many small numbers are not to be added to one large one. */
INLINE void backward(const Shape *s, const float *x, const float *weight, const float *dy, float *dx, float *d_weight,
                     float *d_bias, int64_t lanes) {
    float total[(TAPS + 1) * LANES] = {0};
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t t = 0; t < s->frames; t++) {
            float row[(TAPS + 1) * LANES] = {0};
            for (int64_t f = 0; f < s->columns; f++) {
                const float *g = dy + output_at(s, b, t, f);
                for (int64_t l = 0; l < lanes; l++) row[TAPS * LANES + l] += g[l];
                for (int64_t k = 0; k < TAPS; k++) {
                    int64_t at = seen_at(s, b, t, f, k);
                    if (at < 0) continue;
                    for (int64_t l = 0; l < lanes; l++) {
                        row[k * LANES + l] += g[l] * x[at + l];
                        dx[at + l] += g[l] * weight[k * s->dim + l];
                    }
                }
            }
            for (int64_t k = 0; k < (TAPS + 1) * LANES; k++) total[k] += row[k];
        }
    for (int64_t k = 0; k < TAPS; k++)
        for (int64_t l = 0; l < lanes; l++) d_weight[k * s->dim + l] = total[k * LANES + l];
    for (int64_t l = 0; l < lanes; l++) d_bias[l] = total[TAPS * LANES + l];
}

VECTOR static void forward_lanes(const Shape *s, const float *x, const float *weight, const float *bias, float *y,
                                 int64_t d) {
    if (s->dim - d >= LANES)
        forward(s, x + d, weight + d, bias + d, y + d, LANES);
    else
        forward(s, x + d, weight + d, bias + d, y + d, s->dim - d);
}

VECTOR static void backward_lanes(const Shape *s, const float *x, const float *weight, const float *dy, float *dx,
                                  float *d_weight, float *d_bias, int64_t d) {
    if (s->dim - d >= LANES)
        backward(s, x + d, weight + d, dy + d, dx + d, d_weight + d, d_bias + d, LANES);
    else
        backward(s, x + d, weight + d, dy + d, dx + d, d_weight + d, d_bias + d, s->dim - d);
}

/* x: (B, inputs, input_columns, D), inputs at least 2 frames + 1; weight: (3, 3, D); bias: (D,);
 * y: (B, frames, columns, D). */
EXPORT void rill_strided(const float *x, const float *weight, const float *bias, float *y, int64_t batch,
                         int64_t inputs, int64_t input_columns, int64_t frames, int64_t columns, int64_t dim,
                         int64_t before, int threads) {
    Shape s = {batch, inputs, input_columns, frames, columns, dim, before};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t d = 0; d < dim; d += LANES) forward_lanes(&s, x, weight, bias, y, d);
}

/* dy: as y; dx: as x, zeros (it is added to); d_weight, d_bias: as theirs. */
EXPORT void rill_strided_gradient(const float *x, const float *weight, const float *dy, float *dx, float *d_weight,
                                  float *d_bias, int64_t batch, int64_t inputs, int64_t input_columns, int64_t frames,
                                  int64_t columns, int64_t dim, int64_t before, int threads) {
    Shape s = {batch, inputs, input_columns, frames, columns, dim, before};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t d = 0; d < dim; d += LANES) backward_lanes(&s, x, weight, dy, dx, d_weight, d_bias, d);
}
