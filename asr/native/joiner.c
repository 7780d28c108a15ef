/* The transducer's joiner around its matrix products: rows of tanh or relu, and log-softmax that keeps two entries. */
#include "vector_math.h"

#define ROWS 32

/* Probabilities and flows below this count as 0: their products would be denormal numbers, which slow the
 * matrix products that follow a hundredfold. */
#define TRICKLE 1e-18f

/* Log-probabilities of the blank (entry 0) and of each row's token from rows of logits; minus 1e30 for a token
 * of -1, there is none, and for both for -2, the row is not wanted at all. */
VECTOR static void score_rows(float *logits, const float *bias, const int64_t *token, float *symbol,
                              float *blank, float *log_total, int64_t n, int64_t size) {
    for (int64_t i = 0; i < n; i++) {
        float *x = logits + i * size, top = -INFINITY, total = 0.0f;
        if (token[i] < -1) {
            symbol[i] = blank[i] = -1e30f;
            continue;
        }
        if (bias) {
#pragma omp simd
            for (int64_t v = 0; v < size; v++) x[v] += bias[v];
        }
#pragma omp simd reduction(max : top)
        for (int64_t v = 0; v < size; v++) top = x[v] > top ? x[v] : top;
#pragma omp simd reduction(+ : total)
        for (int64_t v = 0; v < size; v++) total += exp_float(x[v] - top);
        log_total[i] = top + logf(total);
        blank[i] = x[0] - log_total[i];
        symbol[i] = token[i] >= 0 ? x[token[i]] - log_total[i] : -1e30f;
    }
}

/* d(loss)/d(logits) where the loss falls by the flow through an arc times its log-probability. */
VECTOR static void gradient_rows(const float *logits, const int64_t *row, int64_t begin, int64_t end,
                                 const int64_t *token, const float *log_total, const float *symbol_flow,
                                 const float *blank_flow, float *gradient, int64_t size) {
    for (int64_t i = begin; i < end; i++) {
        const float *x = logits + (row ? row[i] : i) * size;
        float *g = gradient + i * size, flow = symbol_flow[i] + blank_flow[i], shift = log_total[i];
        if (fabsf(flow) < TRICKLE) {
            memset(g, 0, (size_t)size * sizeof *g);
            continue;
        }
#pragma omp simd
        for (int64_t v = 0; v < size; v++) {
            float probability = exp_float(x[v] - shift);
            g[v] = flow * (probability < TRICKLE ? 0.0f : probability);
        }
        g[0] -= blank_flow[i];
        if (token[i] >= 0) g[token[i]] -= symbol_flow[i];
    }
}

VECTOR static void activated_sum(const float *a, const float *b, float *y, int64_t size, int relu) {
    if (relu) {
#pragma omp simd
        for (int64_t j = 0; j < size; j++) y[j] = a[j] + b[j] < 0.0f ? 0.0f : a[j] + b[j];
    } else {
#pragma omp simd
        for (int64_t j = 0; j < size; j++) y[j] = 1.0f - 2.0f / (1.0f + exp_float(2.0f * (a[j] + b[j])));
    }
}

VECTOR static void activated_gradient(const float *y, const float *dy, float *da, float *db, int64_t size, int relu) {
#pragma omp simd
    for (int64_t j = 0; j < size; j++) {
        float slope = relu ? (y[j] > 0.0f ? 1.0f : 0.0f) : 1.0f - y[j] * y[j];
        float g = dy[j] * slope;
        da[j] += g;
        db[j] += g;
    }
}

/* logits: (N, V), to which bias (V,) is added in place unless NULL; token, symbol, blank, log_total: (N,). */
EXPORT void rill_logits_scores(float *logits, const float *bias, const int64_t *token, float *symbol, float *blank,
                               float *log_total, int64_t rows, int64_t size, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows > 2 * ROWS)
    for (int64_t i = 0; i < rows; i += ROWS)
        score_rows(logits + i * size, bias, token + i, symbol + i, blank + i, log_total + i,
                   rows - i < ROWS ? rows - i : ROWS, size);
}

/* gradient: (N, V) of the rows of logits that row (N,) names, NULL: all in order. token, log_total: theirs, (N,).
 * The flows are (N,), already times the gradient of their utterance's loss. */
EXPORT void rill_logits_gradient(const float *logits, const int64_t *row, const int64_t *token,
                                 const float *log_total, const float *symbol_flow, const float *blank_flow,
                                 float *gradient, int64_t rows, int64_t size, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows > 2 * ROWS)
    for (int64_t i = 0; i < rows; i += ROWS)
        gradient_rows(logits, row, i, rows - i < ROWS ? rows : i + ROWS, token, log_total, symbol_flow, blank_flow,
                      gradient, size);
}

/* hidden (N, J) = tanh or relu of encoder[encoder_row] + predictor[predictor_row]. */
EXPORT void rill_joiner_hidden(const float *encoder, const float *predictor, const int64_t *encoder_row,
                               const int64_t *predictor_row, float *hidden, int64_t rows, int64_t size, int relu,
                               int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows > 2 * ROWS)
    for (int64_t i = 0; i < rows; i++)
        activated_sum(encoder + encoder_row[i] * size, predictor + predictor_row[i] * size, hidden + i * size, size,
                      relu);
}

/* Adds the gradient of hidden (N, J) to those of the encoder's and predictor's rows. Rows meet in the sums,
 * so each thread takes a slice of the columns instead, in whole cache lines. */
EXPORT void rill_joiner_hidden_gradient(const float *hidden, const float *hidden_gradient,
                                        const int64_t *encoder_row, const int64_t *predictor_row,
                                        float *encoder_gradient, float *predictor_gradient, int64_t rows,
                                        int64_t size, int relu, int threads) {
    int64_t slice = ((size + threads - 1) / threads + 15) / 16 * 16;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t j = 0; j < size; j += slice)
        for (int64_t i = 0; i < rows; i++)
            activated_gradient(hidden + i * size + j, hidden_gradient + i * size + j,
                               encoder_gradient + encoder_row[i] * size + j,
                               predictor_gradient + predictor_row[i] * size + j, size - j < slice ? size - j : slice,
                               relu);
}
