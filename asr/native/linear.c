#include "linear.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define BYTES __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#endif

#define TALL 12
#define STRIP (8 * TALL) /* rows that one thread works on between two looks at the weights */

INLINE float swoosh_l(float x) {
    float z = x - 4.0f;
    return (z > 0.0f ? z : 0.0f) + log1p_float(exp_float(-fabsf(z))) - 0.08f * x - 0.035f;
}

/* sum (count, PANEL) -> columns of y */
INLINE void write_rows(const Linear *l, float *sum, float *y, int64_t column, int kind, int count) {
    int64_t width = least(PANEL, l->outputs - column);
    for (int r = 0; r < count; r++) {
        float *from = sum + r * PANEL, *to = y + r * l->outputs + column;
        if (kind == ADD) {
            for (int64_t j = 0; j < width; j++) to[j] += from[j];
        } else if (kind == SWOOSH_L) {
#pragma omp simd
            for (int64_t j = 0; j < PANEL; j++) from[j] = swoosh_l(from[j]);
            memcpy(to, from, (size_t)width * sizeof *to);
        } else {
            memcpy(to, from, (size_t)width * sizeof *to);
        }
    }
}

/* Some rows of one panel. `count` is a constant. */
INLINE void some_rows(const Linear *l, const float *x, float *y, int64_t column, int kind, int count) {
    _Alignas(64) float sum[TALL * PANEL];
    for (int r = 0; r < count; r++) memcpy(sum + r * PANEL, l->bias + column, PANEL * sizeof *sum);
    multiply_tile(sum, PANEL, x, l->inputs, 1, l->weight + column * l->inputs, PANEL, l->inputs, count, 2);
    write_rows(l, sum, y, column, kind, count);
}

/* Calls `some(..., count)` for all rows, with constants for count. */
#define IN_TILES(rows, some, ...) \
    for (int64_t at = 0, left = rows, n; left > 0; left -= n, at += n) { \
        if (left >= TALL && left != 16) \
            n = TALL, some(__VA_ARGS__, TALL); \
        else if (left >= 8) \
            n = 8, some(__VA_ARGS__, 8); \
        else if (left >= 4) \
            n = 4, some(__VA_ARGS__, 4); \
        else if (left >= 2) \
            n = 2, some(__VA_ARGS__, 2); \
        else \
            n = 1, some(__VA_ARGS__, 1); \
    }

VECTOR static void panel(const Linear *l, const float *x, float *y, int64_t rows, int64_t column, int kind) {
    IN_TILES(rows, some_rows, l, x + at * l->inputs, y + at * l->outputs, column, kind)
}

/* Bytes that stand for x: 128 + x / scale. Returns the scale. */
VECTOR static float to_bytes(const float *x, uint8_t *y, int64_t n, int64_t padded) {
    float top = 1e-30f;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < n; j++) top = fabsf(x[j]) > top ? fabsf(x[j]) : top;
    float factor = 127.0f / top;
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = (uint8_t)(int32_t)(x[j] * factor + 128.5f);
    for (int64_t j = n; j < padded; j++) y[j] = 128;
    return top / 127.0f;
}

#ifdef BYTES
BYTES static inline __attribute__((always_inline)) void some_bytes(const Linear *l, const uint8_t *x,
                                                                   const float *x_scale, float *y, int64_t column,
                                                                   int kind, int count) {
    _Alignas(64) float sum[TALL * PANEL];
    int64_t quads = (l->inputs + QUAD - 1) / QUAD;
    const int8_t *w = l->bytes + column * quads * QUAD;
    __m512i s[TALL][2];
#pragma GCC unroll 12
    for (int r = 0; r < count; r++) s[r][0] = s[r][1] = _mm512_setzero_si512();
    for (int64_t k = 0; k < quads; k++, w += PANEL * QUAD) {
        __m512i first = _mm512_loadu_si512(w), second = _mm512_loadu_si512(w + LANES * QUAD);
#pragma GCC unroll 12
        for (int r = 0; r < count; r++) {
            int32_t four;
            memcpy(&four, x + r * quads * QUAD + k * QUAD, sizeof four);
            s[r][0] = _mm512_dpbusd_epi32(s[r][0], _mm512_set1_epi32(four), first);
            s[r][1] = _mm512_dpbusd_epi32(s[r][1], _mm512_set1_epi32(four), second);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < count; r++)
        for (int v = 0; v < 2; v++) {
            int64_t j = column + v * LANES;
            __m512 total = _mm512_cvtepi32_ps(_mm512_sub_epi32(s[r][v], _mm512_loadu_si512(l->offset + j)));
            __m512 scale = _mm512_mul_ps(_mm512_set1_ps(x_scale[r]), _mm512_loadu_ps(l->scale + j));
            _mm512_storeu_ps(sum + r * PANEL + v * LANES, _mm512_fmadd_ps(total, scale, _mm512_loadu_ps(l->bias + j)));
        }
    write_rows(l, sum, y, column, kind, count);
}

BYTES static void panel_of_bytes(const Linear *l, const uint8_t *x, const float *x_scale, float *y, int64_t rows,
                                 int64_t column, int kind) {
    int64_t row = up_to(l->inputs, QUAD);
    IN_TILES(rows, some_bytes, l, x + at * row, x_scale + at, y + at * l->outputs, column, kind)
}

EXPORT int rill_multiplies_bytes(void) {
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
}
#else
static void panel_of_bytes(const Linear *l, const uint8_t *x, const float *x_scale, float *y, int64_t rows,
                           int64_t column, int kind) {
    (void)l, (void)x, (void)x_scale, (void)y, (void)rows, (void)column, (void)kind;
}

EXPORT int rill_multiplies_bytes(void) { return 0; }
#endif

EXPORT int64_t rill_linear_scratch(int64_t rows, int64_t inputs) { return linear_scratch(rows, inputs); }

EXPORT void rill_linear(const Linear *l, const float *x, float *y, int64_t rows, int kind, float *scratch,
                        int threads) {
    float *x_scale = scratch;
    uint8_t *bytes = (uint8_t *)(scratch + up_to(rows, LANES));
    int64_t row = up_to(l->inputs, QUAD);
#pragma omp parallel num_threads(threads) if (rows * l->inputs * l->outputs > 65536)
    {
        if (l->bytes) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < rows; i++) x_scale[i] = to_bytes(x + i * l->inputs, bytes + i * row, l->inputs, row);
        }
#pragma omp for collapse(2) schedule(static)
        for (int64_t i = 0; i < rows; i += STRIP)
            for (int64_t j = 0; j < l->outputs; j += PANEL) {
                int64_t some = least(STRIP, rows - i);
                if (l->bytes)
                    panel_of_bytes(l, bytes + i * row, x_scale + i, y + i * l->outputs, some, j, kind);
                else
                    panel(l, x + i * l->inputs, y + i * l->outputs, some, j, kind);
            }
    }
}
