/* A whole Zipformer block (Yao et al. 2023, figure 2) of inference, streamed or not: what a step of a stream computes
 * is so little that the calls of its hundred operations took most of its time. asr/encoders/zipformer.py says the same
 * in torch, line by line. */
#include "linear.h"

typedef struct {
    Linear project, feed_in[3], feed_out[3], nonlinear_in, nonlinear_out;
    Linear attention_in[2], attention_out[2], convolution_in[2], convolution_out[2];
    const float *past_weight[2], *past_bias[2], *weight[2], *bias[2]; /* depthwise, (kernel, D) and (D,) */
    const float *middle, *bypass, *norm_bias;
    double norm_scale;
    int64_t dim, heads, size, position, value, hidden, kernel;
} Block;

/* Tensors of one call; a cache comes as it was and goes as it will be. */
typedef struct {
    const float *x, *table, *edge[2];
    const float *keys, *nonlinear, *values[2], *past[2];
    float *y, *next_keys, *next_nonlinear, *next_values[2], *next_past[2];
    float *work, *bytes;
    const int64_t *begin, *end;
    int64_t batch, frames, chunk, left;
    int64_t threads;
} Step;

void rill_attention_weights(const float *, const float *, const float *, const int64_t *, const int64_t *, float *,
                            float *, float *, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                            int);
void rill_attention_values(const float *, const float *, const float *, const int64_t *, const int64_t *, float *,
                           float *, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int);
int64_t rill_attention_scratch(int64_t, int64_t, int64_t, int64_t);
void rill_depthwise(const float *, const float *, const float *, const float *, const float *, float *, int64_t,
                    int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int);

#define FOR_ROWS \
    _Pragma("omp parallel for schedule(static) num_threads((int)s->threads) if (rows > 128)") \
    for (int64_t i = 0; i < rows; i++)

/* next: (B, L, D), the last L frames of the cache (B, L, D) and of x, D of each of whose `row` numbers count. */
static void remember(const float *cache, const float *x, int64_t row, float *next, int64_t left, int64_t dim,
                     const Step *s) {
    int64_t kept = most(0, left - s->frames), come = left - kept;
    for (int64_t b = 0; b < s->batch; b++, cache += left * dim, next += left * dim) {
        memcpy(next, cache + (left - kept) * dim, (size_t)(kept * dim) * sizeof *next);
        for (int64_t u = 0; u < come; u++)
            memcpy(next + (kept + u) * dim, x + ((b + 1) * s->frames - come + u) * row, (size_t)dim * sizeof *next);
    }
}

VECTOR static void gate_tanh(const float *x, float *y, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = x[n + j] * (1.0f - 2.0f / (1.0f + exp_float(2.0f * x[j])));
}

VECTOR static void gate_sigmoid(const float *x, float *y, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = x[j] / (1.0f + exp_float(-x[n + j]));
}

VECTOR static void times(const float *x, float *y, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] *= x[j];
}

VECTOR static void swoosh_r_of_sum(const float *x, float *y, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        float sum = x[j] + y[j], z = sum - 1.0f;
        y[j] = (z > 0.0f ? z : 0.0f) + log1p_float(exp_float(-fabsf(z))) - 0.08f * sum - 0.313261687f;
    }
}

VECTOR static void bypass(const float *x, const float *share, float factor, float *y, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = x[j] + (y[j] * factor - x[j]) * share[j];
}

VECTOR static float norm_factor(const Block *block, const float *x) {
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < block->dim; j++) {
        float difference = x[j] - block->norm_bias[j];
        total += difference * difference;
    }
    return (float)(block->norm_scale / sqrt((double)total / (double)block->dim));
}

static void feed_forward(const Block *block, const Step *s, int which, float *a) {
    int64_t rows = s->batch * s->frames;
    rill_linear(&block->feed_in[which], s->y, a, rows, SWOOSH_L, s->bytes, (int)s->threads);
    rill_linear(&block->feed_out[which], a, s->y, rows, ADD, s->bytes, (int)s->threads);
}

static void attention(const Block *block, const Step *s, int which, const float *weights, float *a, float *b,
                      float *scratch) {
    int64_t rows = s->batch * s->frames, dim = block->heads * block->value;
    rill_linear(&block->attention_in[which], s->y, a, rows, PLAIN, s->bytes, (int)s->threads);
    rill_attention_values(a, s->values[which], weights, s->begin, s->end, b, scratch, s->batch, s->frames, block->heads,
                          block->value, s->chunk, s->left, (int)s->threads);
    remember(s->values[which], a, dim, s->next_values[which], s->left, dim, s);
    rill_linear(&block->attention_out[which], b, s->y, rows, ADD, s->bytes, (int)s->threads);
}

static void nonlinear_attention(const Block *block, const Step *s, const float *first, float *a, float *b, float *c,
                                float *scratch) {
    int64_t rows = s->batch * s->frames, hidden = block->hidden;
    rill_linear(&block->nonlinear_in, s->y, a, rows, PLAIN, s->bytes, (int)s->threads);
    FOR_ROWS gate_tanh(a + i * 3 * hidden, b + i * hidden, hidden);
    rill_attention_values(b, s->nonlinear, first, s->begin, s->end, c, scratch, s->batch, s->frames, 1, hidden,
                          s->chunk, s->left, (int)s->threads);
    remember(s->nonlinear, b, hidden, s->next_nonlinear, s->left, hidden, s);
    FOR_ROWS times(a + i * 3 * hidden + 2 * hidden, c + i * hidden, hidden);
    rill_linear(&block->nonlinear_out, c, s->y, rows, ADD, s->bytes, (int)s->threads);
}

static void convolution(const Block *block, const Step *s, int which, float *a, float *b, float *c) {
    int64_t rows = s->batch * s->frames, dim = block->dim, reach = block->kernel / 2;
    rill_linear(&block->convolution_in[which], s->y, a, rows, PLAIN, s->bytes, (int)s->threads);
    FOR_ROWS {
        if (i % s->frames < s->end[i / s->frames])
            gate_sigmoid(a + i * 2 * dim, b + i * dim, dim);
        else
            memset(b + i * dim, 0, (size_t)dim * sizeof *b);
    }
    rill_depthwise(b, s->past[which], block->past_weight[which], block->past_bias[which], NULL, a, s->batch, s->frames,
                   s->frames, 1, dim, s->frames, reach + 1, 1, reach, (int)s->threads);
    rill_depthwise(b, NULL, block->weight[which], block->bias[which], s->edge[which], c, s->batch, s->frames, s->frames,
                   1, dim, s->chunk, block->kernel, 1, reach, (int)s->threads);
    remember(s->past[which], b, dim, s->next_past[which], reach, dim, s);
    FOR_ROWS swoosh_r_of_sum(c + i * dim, a + i * dim, dim);
    rill_linear(&block->convolution_out[which], a, s->y, rows, ADD, s->bytes, (int)s->threads);
}

/* The widest that a frame gets. */
static int64_t widest(const Block *block) {
    int64_t width = most(most(3 * block->hidden, 2 * block->dim), block->heads * (2 * block->size + block->position));
    for (int i = 0; i < 3; i++) width = most(width, block->feed_in[i].outputs);
    return up_to(most(width, block->heads * block->value), LANES);
}

static int64_t scratch_of(const Block *block, const Step *s) {
    int64_t wide = rill_attention_scratch(block->hidden, 0, s->chunk, s->left);
    int64_t many = rill_attention_scratch(block->size, block->position, s->chunk, s->left);
    return s->threads * most(most(wide, many), rill_attention_scratch(block->value, 0, s->chunk, s->left));
}

/* Floats that `work` must have. */
EXPORT int64_t rill_zipformer_block_work(const Block *block, const Step *s) {
    int64_t rows = s->batch * s->frames;
    int64_t weights = rows * (block->heads + 1) * up_to(s->left + s->chunk, LANES);
    return 3 * rows * widest(block) + weights + linear_scratch(rows, widest(block)) + scratch_of(block, s);
}

EXPORT void rill_zipformer_block(const Block *block, Step *s) {
    int64_t rows = s->batch * s->frames, dim = block->dim, width = widest(block), keys = s->left + s->chunk;
    float *a = s->work, *b = a + rows * width, *c = b + rows * width, *weights = c + rows * width;
    float *first = weights + rows * block->heads * keys, *scratch = first + rows * up_to(keys, LANES);
    s->bytes = scratch + scratch_of(block, s);
    int64_t all = block->heads * block->size;
    rill_linear(&block->project, s->x, a, rows, PLAIN, s->bytes, (int)s->threads);
    rill_attention_weights(a, s->keys, s->table, s->begin, s->end, weights, first, scratch, s->batch, s->frames,
                           block->project.outputs, block->heads, block->size, block->position, s->chunk, s->left,
                           (int)s->threads);
    remember(s->keys, a + all, block->project.outputs, s->next_keys, s->left, all, s);
    memcpy(s->y, s->x, (size_t)(rows * dim) * sizeof *s->y);
    feed_forward(block, s, 0, a);
    nonlinear_attention(block, s, first, a, b, c, scratch);
    attention(block, s, 0, weights, a, b, scratch);
    convolution(block, s, 0, a, b, c);
    feed_forward(block, s, 1, a);
    FOR_ROWS bypass(s->x + i * dim, block->middle, 1.0f, s->y + i * dim, dim);
    attention(block, s, 1, weights, a, b, scratch);
    convolution(block, s, 1, a, b, c);
    feed_forward(block, s, 2, a);
    FOR_ROWS {
        float *y = s->y + i * dim;
        bypass(s->x + i * dim, block->bypass, norm_factor(block, y), y, dim);
    }
}
