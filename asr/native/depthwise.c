/* Depthwise convolutions over time, or time and frequency, of tensors whose last dimension is the channel.
 *
 * Frame t of the output sees the frames t - reach ... t - reach + kernel - 1 of the input, and `width` columns
 * around its own. Frames outside the chunk count as zeros; with `before` there are no chunks, and the `reach` frames
 * in it precede the input. Blocks of LANES channels are copied to a small window, zeros included, so that the one
 * loop that multiplies knows neither edges nor strides.
 */
#include "vector_math.h"

#define LANES 16     /* channels worked on at once: a vector of AVX-512, or a few smaller ones */
#define TILE 8       /* sums held in registers */
#define SEGMENT 64   /* frames worked on at once, at most */
#define WINDOW 1024  /* vectors in a window; these two limits are checked in depthwise.py */
#define TAPS 128     /* vectors for the weights: width * (kernel + TILE) */

typedef struct {
    const float *x, *before, *weight, *bias, *edge;
    int64_t batch, inputs, frames, columns, dim, chunk, kernel, width, reach;
} Convolution;

/* The frames begin ... end - 1, of which those outside low ... high - 1 are zeros. */
typedef struct {
    int64_t begin, end, low, high;
} Range;

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int64_t row_of(const Convolution *c) { return (c->columns + c->width - 1) * LANES; }

/* Frames that a window has room for, beside the kernel's others and the last tile's. */
INLINE int64_t segment_of(const Convolution *c) {
    return least(SEGMENT, (WINDOW * LANES / row_of(c) - c->kernel - TILE) / TILE * TILE);
}

INLINE void copy_in(float *to, const float *from, int64_t lanes) {
    if (lanes == LANES) {
        memcpy(to, from, LANES * sizeof *to);
    } else {
        memset(to, 0, LANES * sizeof *to);
        memcpy(to, from, (size_t)lanes * sizeof *to);
    }
}

INLINE void copy_out(float *to, const float *from, int64_t lanes) {
    if (lanes == LANES)
        memcpy(to, from, LANES * sizeof *to);
    else
        memcpy(to, from, (size_t)lanes * sizeof *to);
}

/* Zeros in all of a window that may be read: the columns at the sides, and the rows of an incomplete tile. */
INLINE void clear(const Convolution *c, float *window) {
    memset(window, 0, (size_t)((segment_of(c) + c->kernel + TILE) * row_of(c)) * sizeof *window);
}

/* Fills a window with frames of x (those before 0 are in `before`), each times its row of edge unless NULL. The zeros
 * around the columns are there already. */
INLINE void load(const Convolution *c, float *window, const float *x, const float *before, const float *edge,
                 Range r, int64_t lanes) {
    int64_t row = row_of(c), frame_size = c->columns * c->dim;
    for (int64_t t = r.begin; t < r.end; t++, window += row) {
        if (t < r.low || t >= r.high) {
            memset(window, 0, (size_t)row * sizeof *window);
            continue;
        }
        const float *from = (t < 0 ? before : x) + t * frame_size;
        float *to = window + c->width / 2 * LANES;
        for (int64_t f = 0; f < c->columns; f++) copy_in(to + f * LANES, from + f * c->dim, lanes);
        if (edge) {
            const float *scale = edge + (t - r.low) * c->dim;
            for (int64_t f = 0; f < c->columns; f++)
                for (int64_t l = 0; l < lanes; l++) to[f * LANES + l] *= scale[l];
        }
    }
}

/* sum[s] += the n rows of a, each of `columns` vectors, times the rows of the window from row s on, for s < TILE.
 * With weights for a this is the convolution; with a column of the output's gradient, the gradient of weights. */
INLINE void multiply(float *restrict sum, const float *a, int64_t a_step, const float *window, int64_t row, int64_t n,
                     int64_t columns) {
    float s[TILE][LANES]; /* the compiler keeps it in registers */
    memcpy(s, sum, sizeof s);
    for (int64_t i = 0; i < n; i++, window += row)
        for (int64_t j = 0; j < columns; j++, a += a_step) {
            const float *w = window + j * LANES, *w4 = w + 4 * row;
#pragma omp simd
            for (int64_t l = 0; l < LANES; l++) {
                s[0][l] += a[l] * w[l], s[1][l] += a[l] * w[row + l];
                s[2][l] += a[l] * w[2 * row + l], s[3][l] += a[l] * w[3 * row + l];
                s[4][l] += a[l] * w4[l], s[5][l] += a[l] * w4[row + l];
                s[6][l] += a[l] * w4[2 * row + l], s[7][l] += a[l] * w4[3 * row + l];
            }
        }
    memcpy(sum, s, sizeof s);
}

/* TILE frames of one column: bias (LANES, NULL: none) plus the window under the weights. */
INLINE void convolve(const Convolution *c, float *sum, const float *weight, const float *bias, const float *window) {
    for (int64_t s = 0; s < TILE; s++)
        for (int64_t l = 0; l < LANES; l++) sum[s * LANES + l] = bias ? bias[l] : 0.0f;
    if (c->width == 1) /* a constant, for which the compiler drops the inner loop */
        multiply(sum, weight, LANES, window, row_of(c), c->kernel, 1);
    else
        multiply(sum, weight, LANES, window, row_of(c), c->kernel, c->width);
}

VECTOR static void forward(const Convolution *c, float *y, int64_t b, int64_t d) {
    _Alignas(64) float window[WINDOW * LANES], weight[TAPS * LANES], bias[LANES], sum[TILE * LANES];
    int64_t lanes = least(LANES, c->dim - d), frame_size = c->columns * c->dim, row = row_of(c);
    const float *x = c->x + b * c->inputs * frame_size + d;
    const float *before = c->before ? c->before + (b + 1) * c->reach * frame_size + d : NULL;
    clear(c, window);
    for (int64_t k = 0; k < c->kernel * c->width; k++) copy_in(weight + k * LANES, c->weight + k * c->dim + d, lanes);
    copy_in(bias, c->bias + d, lanes);
    y += b * c->frames * frame_size + d;
    for (int64_t u = 0; u < c->frames; u += c->chunk)
        for (int64_t t = u, n; t < u + c->chunk; t += n) {
            n = least(segment_of(c), u + c->chunk - t);
            int64_t begin = t - c->reach;
            Range r = {begin, begin + n + c->kernel - 1, before ? -c->reach : u, before ? c->inputs : u + c->chunk};
            load(c, window, x, before, NULL, r, lanes);
            for (int64_t s = 0; s < n; s += TILE)
                for (int64_t f = 0; f < c->columns; f++) {
                    convolve(c, sum, weight, bias, window + s * row + f * LANES);
                    for (int64_t i = 0; i < TILE && s + i < n; i++) {
                        const float *scale = c->edge ? c->edge + (t + s + i - u) * c->dim + d : NULL;
                        if (scale)
                            for (int64_t l = 0; l < lanes; l++) sum[i * LANES + l] *= scale[l];
                        copy_out(y + (t + s + i) * frame_size + f * c->dim, sum + i * LANES, lanes);
                    }
                }
        }
}

/* dx: the same convolution, of dy, with the weights turned round. */
VECTOR static void input_gradient(const Convolution *c, const float *dy, float *dx, int64_t b, int64_t d) {
    _Alignas(64) float window[WINDOW * LANES], weight[TAPS * LANES], sum[TILE * LANES];
    int64_t lanes = least(LANES, c->dim - d), frame_size = c->columns * c->dim, row = row_of(c);
    int64_t taps = c->kernel * c->width, beyond = c->inputs - c->frames;
    const float *edge = c->edge ? c->edge + d : NULL;
    clear(c, window);
    for (int64_t k = 0; k < taps; k++) copy_in(weight + k * LANES, c->weight + (taps - 1 - k) * c->dim + d, lanes);
    dy += b * c->frames * frame_size + d;
    dx += b * c->inputs * frame_size + d;
    for (int64_t u = 0; u < c->frames; u += c->chunk)
        for (int64_t t = u, n; t < u + c->chunk + beyond; t += n) {
            n = least(segment_of(c), u + c->chunk + beyond - t);
            int64_t begin = t + c->reach - c->kernel + 1;
            Range r = {begin, begin + n + c->kernel - 1, u, u + c->chunk};
            load(c, window, dy, NULL, edge, r, lanes);
            for (int64_t s = 0; s < n; s += TILE)
                for (int64_t f = 0; f < c->columns; f++) {
                    convolve(c, sum, weight, NULL, window + s * row + f * LANES);
                    for (int64_t i = 0; i < TILE && s + i < n; i++)
                        copy_out(dx + (t + s + i) * frame_size + f * c->dim, sum + i * LANES, lanes);
                }
        }
}

/* What the edge has to do with the loss: dy times what it scales. */
INLINE void edge_gradient(const Convolution *c, const float *weight, const float *bias, const float *window,
                          const float *dy, float *d_edge, int64_t n, int64_t lanes) {
    _Alignas(64) float sum[TILE * LANES];
    for (int64_t s = 0; s < n; s += TILE) {
        convolve(c, sum, weight, bias, window + s * row_of(c));
        for (int64_t i = s; i < n && i < s + TILE; i++)
            for (int64_t l = 0; l < lanes; l++)
                d_edge[i * c->dim + l] += dy[i * c->dim + l] * sum[(i - s) * LANES + l];
    }
}

/* Sums over the whole batch, in its order: the result does not depend on the number of threads. */
VECTOR static void weight_gradient(const Convolution *c, const float *dy, float *d_weight, float *d_bias,
                                   float *d_edge, int64_t d) {
    _Alignas(64) float window[WINDOW * LANES], gradient[WINDOW * LANES], weight[TAPS * LANES], bias[LANES];
    _Alignas(64) float total[TAPS * LANES], bias_total[LANES], sum[TILE * LANES];
    int64_t lanes = least(LANES, c->dim - d), frame_size = c->columns * c->dim, row = row_of(c);
    int64_t padded = (c->kernel + TILE - 1) / TILE * TILE, taps = c->kernel * c->width;
    const float *edge = c->edge ? c->edge + d : NULL;
    clear(c, window);
    clear(c, gradient);
    memset(total, 0, (size_t)(c->width * padded * LANES) * sizeof *total);
    memset(bias_total, 0, sizeof bias_total);
    for (int64_t k = 0; k < taps; k++) copy_in(weight + k * LANES, c->weight + k * c->dim + d, lanes);
    copy_in(bias, c->bias + d, lanes);
    for (int64_t b = 0; b < c->batch; b++) {
        const float *x = c->x + b * c->inputs * frame_size + d, *g = dy + b * c->frames * frame_size + d;
        const float *before = c->before ? c->before + (b + 1) * c->reach * frame_size + d : NULL;
        for (int64_t u = 0; u < c->frames; u += c->chunk)
            for (int64_t t = u, n; t < u + c->chunk; t += n) {
                n = least(segment_of(c), u + c->chunk - t);
                int64_t begin = t - c->reach;
                int64_t low = before ? -c->reach : u, high = before ? c->inputs : u + c->chunk;
                Range seen = {begin, begin + n + c->kernel - 1, low, high};
                Range own = {t, t + n, u, u + c->chunk};
                load(c, window, x, before, NULL, seen, lanes);
                load(c, gradient, g, NULL, edge, own, lanes);
                if (edge)
                    edge_gradient(c, weight, bias, window, g + t * c->dim, d_edge + (t - u) * c->dim + d, n, lanes);
                for (int64_t f = 0; f < c->columns; f++) {
                    const float *column = gradient + (c->width / 2 + f) * LANES;
                    for (int64_t j = 0; j < c->width; j++)
                        for (int64_t i = 0; i < padded; i += TILE) {
                            memset(sum, 0, sizeof sum);
                            multiply(sum, column, row, window + i * row + (f + j) * LANES, row, n, 1);
                            for (int64_t l = 0; l < TILE * LANES; l++)
                                total[(j * padded + i) * LANES + l] += sum[l];
                        }
                    memset(sum, 0, sizeof sum);
                    for (int64_t i = 0; i < n; i++)
                        for (int64_t l = 0; l < LANES; l++) sum[l] += column[i * row + l];
                    for (int64_t l = 0; l < LANES; l++) bias_total[l] += sum[l];
                }
            }
    }
    for (int64_t k = 0; k < taps; k++) {
        int64_t i = k / c->width, j = k % c->width;
        copy_out(d_weight + k * c->dim + d, total + (j * padded + i) * LANES, lanes);
    }
    copy_out(d_bias + d, bias_total, lanes);
}

/* x: (B, inputs, columns, D); before: (B, reach, columns, D) or NULL; weight: (kernel, width, D); bias: (D,);
 * edge: (chunk, D), a factor of each frame of the output by its place in the chunk, or NULL (then any columns).
 * y: (B, frames, columns, D). frames is a multiple of chunk; without `before` inputs is frames, with it chunk is. */
EXPORT void rill_depthwise(const float *x, const float *before, const float *weight, const float *bias,
                           const float *edge, float *y, int64_t batch, int64_t inputs, int64_t frames,
                           int64_t columns, int64_t dim, int64_t chunk, int64_t kernel, int64_t width,
                           int64_t reach, int threads) {
    Convolution c = {x, before, weight, bias, edge, batch, inputs, frames, columns, dim, chunk, kernel, width, reach};
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads) if (batch * frames * columns * dim > 16384)
    for (int64_t b = 0; b < batch; b++)
        for (int64_t d = 0; d < dim; d += LANES) forward(&c, y, b, d);
}

/* dy: as y; dx: as x, or NULL; d_weight, d_bias, d_edge: as theirs, d_edge zeros (it is added to) or NULL. */
EXPORT void rill_depthwise_gradient(const float *x, const float *before, const float *weight, const float *bias,
                                    const float *edge, const float *dy, float *dx, float *d_weight, float *d_bias,
                                    float *d_edge, int64_t batch, int64_t inputs, int64_t frames, int64_t columns,
                                    int64_t dim, int64_t chunk, int64_t kernel, int64_t width, int64_t reach,
                                    int threads) {
    Convolution c = {x, before, weight, bias, edge, batch, inputs, frames, columns, dim, chunk, kernel, width, reach};
    if (dx) {
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
        for (int64_t b = 0; b < batch; b++)
            for (int64_t d = 0; d < dim; d += LANES) input_gradient(&c, dy, dx, b, d);
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t d = 0; d < dim; d += LANES) weight_gradient(&c, dy, d_weight, d_bias, d_edge, d);
}
