/* Attention by chunks with relative positions: weights of the keys that a chunk sees, and values by these weights.
 *
 * The c queries of a chunk see L + c keys, of which those before `begin` and from `end` on (frames, counted from the
 * first of this step; both by stream) do not exist: they are never read, and their weight is 0. Keys before frame 0 are
 * in the cache. Positions are a product of a few numbers of the query with a table over distances, whose row starts one
 * number later for each earlier query; no matrix of positions is ever made.
 */
#include "tile.h"

#define BLOCK (2 * LANES) /* keys, or channels, that a tile has */

typedef struct {
    const float *x, *cache, *table; /* (B, U, row), (B, L, H size) or NULL, (H position, L + 2 c) */
    const int64_t *begin, *end;     /* (B,) */
    int64_t batch, frames, row, heads, size, position, chunk, left;
} Attention;

/* One chunk's keys: the window starts at frame `start`, and keys low ... high - 1 of it exist. */
typedef struct {
    int64_t start, low, high, keys, padded;
} Window;

INLINE Window window_of(const Attention *a, int64_t b, int64_t n) {
    int64_t start = n * a->chunk - a->left, keys = a->left + a->chunk;
    int64_t low = least(most(a->begin[b] - start, 0), keys), high = least(most(a->end[b] - start, low), keys);
    return (Window){start, low, high, keys, up_to(keys, BLOCK)};
}

/* `size` numbers from `offset` on of the frame of a key. */
INLINE const float *frame_of(const Attention *a, int64_t b, int64_t frame, int64_t offset, int64_t offset_in_cache) {
    if (frame < 0) return a->cache + ((b + 1) * a->left + frame) * a->heads * a->size + offset_in_cache;
    return a->x + (b * a->frames + frame) * a->row + offset;
}

/* to (size, padded): the keys' numbers, transposed; zeros where there is no key. */
INLINE void load_transposed(const Attention *a, float *to, Window w, int64_t b, int64_t offset, int64_t in_cache) {
    memset(to, 0, (size_t)(a->size * w.padded) * sizeof *to);
    for (int64_t k = w.low; k < w.high; k++) {
        const float *from = frame_of(a, b, w.start + k, offset, in_cache);
        for (int64_t j = 0; j < a->size; j++) to[j * w.padded + k] = from[j];
    }
}

/* to (padded, width): the same, not transposed. */
INLINE void load_keys(const Attention *a, float *to, int64_t width, Window w, int64_t b, int64_t offset,
                      int64_t in_cache, int64_t size) {
    memset(to, 0, (size_t)(w.padded * width) * sizeof *to);
    for (int64_t k = w.low; k < w.high; k++)
        memcpy(to + k * width, frame_of(a, b, w.start + k, offset, in_cache), (size_t)size * sizeof *to);
}

/* to (ROWS, width): some rows of a matrix and, where there are fewer, zeros. */
INLINE void load_rows(float *to, int64_t width, const float *from, int64_t from_row, int64_t rows, int64_t size) {
    for (int64_t r = 0; r < ROWS; r++) {
        memset(to + r * width, 0, (size_t)width * sizeof *to);
        if (r < rows) memcpy(to + r * width, from + r * from_row, (size_t)size * sizeof *to);
    }
}

INLINE int64_t table_row(const Attention *a) { return up_to(a->left + 2 * a->chunk, BLOCK) + ROWS + BLOCK; }

/* to (position, table_row): one head's part of the table, with ROWS zeros in front and more behind. */
INLINE void load_table(const Attention *a, float *to, int64_t h) {
    int64_t width = a->left + 2 * a->chunk;
    memset(to, 0, (size_t)(a->position * table_row(a)) * sizeof *to);
    for (int64_t j = 0; j < a->position; j++)
        memcpy(to + j * table_row(a) + ROWS, a->table + (h * a->position + j) * width, (size_t)width * sizeof *to);
}

/* Where a query's distances to the keys begin in a row of the loaded table. */
INLINE int64_t distance(const Attention *a, int64_t query) { return ROWS + a->chunk - query; }

INLINE void softmax(float *x, float *y, Window w) {
    float top = -INFINITY, total = 0.0f;
#pragma omp simd reduction(max : top)
    for (int64_t k = w.low; k < w.high; k++) top = x[k] > top ? x[k] : top;
#pragma omp simd reduction(+ : total)
    for (int64_t k = w.low; k < w.high; k++) {
        x[k] = exp_float(x[k] - top);
        total += x[k];
    }
    float scale = 1.0f / total;
    memset(y, 0, (size_t)w.low * sizeof *y);
#pragma omp simd
    for (int64_t k = w.low; k < w.high; k++) y[k] = x[k] * scale;
    memset(y + w.high, 0, (size_t)(w.keys - w.high) * sizeof *y);
}

/* The scores of ROWS queries from q on: (ROWS, padded). */
INLINE void score(const Attention *a, float *scores, const float *query, const float *position, const float *keys,
                  const float *table, int64_t q, Window w) {
    memset(scores, 0, (size_t)(ROWS * w.padded) * sizeof *scores);
    for (int64_t k = 0; k < w.padded; k += BLOCK) {
        multiply_tile(scores + k, w.padded, query, a->size, 1, keys + k, w.padded, a->size, ROWS, 2);
        for (int64_t j = 0; j < a->position; j++)
            for (int64_t r = 0; r < ROWS; r++) {
                const float *from = table + j * table_row(a) + distance(a, q + r) + k;
                float x = position[r * a->position + j], *to = scores + r * w.padded + k;
#pragma omp simd
                for (int64_t l = 0; l < BLOCK; l++) to[l] += x * from[l];
            }
    }
}

VECTOR static void weights_of(const Attention *a, float *weights, float *first, float *scratch, int64_t b, int64_t n,
                              int64_t h) {
    Window w = window_of(a, b, n);
    int64_t all = a->heads * a->size, chunks = a->frames / a->chunk;
    float *keys = scratch, *table = keys + a->size * w.padded, *query = table + a->position * table_row(a);
    float *position = query + ROWS * a->size, *scores = position + ROWS * a->position;
    load_transposed(a, keys, w, b, all + h * a->size, h * a->size);
    load_table(a, table, h);
    weights += ((b * chunks + n) * a->heads + h) * a->chunk * w.keys;
    first += h == 0 ? (b * chunks + n) * a->chunk * w.keys : 0;
    for (int64_t q = 0; q < a->chunk; q += ROWS) {
        int64_t rows = least(ROWS, a->chunk - q);
        const float *x = a->x + (b * a->frames + n * a->chunk + q) * a->row;
        load_rows(query, a->size, x + h * a->size, a->row, rows, a->size);
        load_rows(position, a->position, x + 2 * all + h * a->position, a->row, rows, a->position);
        score(a, scores, query, position, keys, table, q, w);
        for (int64_t r = 0; r < rows; r++) {
            float *to = weights + (q + r) * w.keys;
            softmax(scores + r * w.padded, to, w);
            if (h == 0) memcpy(first + (q + r) * w.keys, to, (size_t)w.keys * sizeof *to);
        }
    }
}

/* d_x gets the gradients of query, key and position of one stream and head; d_table (position, L + 2 c) its own. */
VECTOR static void weights_gradient(const Attention *a, const float *weights, const float *d_weights,
                                    const float *d_first, float *d_x, float *d_table, float *scratch, int64_t b,
                                    int64_t h) {
    int64_t all = a->heads * a->size, chunks = a->frames / a->chunk, wide = up_to(a->size, LANES);
    int64_t width = a->left + 2 * a->chunk, padded = up_to(a->left + a->chunk, BLOCK);
    float *table = scratch, *table_sum = table + a->position * table_row(a);
    float *keys = table_sum + a->position * table_row(a), *key_sum = keys + padded * wide;
    float *query = key_sum + padded * wide, *sum = query + ROWS * wide, *slope = sum + ROWS * wide;
    load_table(a, table, h);
    memset(table_sum, 0, (size_t)(a->position * table_row(a)) * sizeof *table_sum);
    for (int64_t u = 0; u < a->frames; u++)
        memset(d_x + (b * a->frames + u) * a->row + all + h * a->size, 0, (size_t)a->size * sizeof *d_x);
    for (int64_t n = 0; n < chunks; n++) {
        Window w = window_of(a, b, n);
        load_keys(a, keys, wide, w, b, all + h * a->size, h * a->size, a->size);
        memset(key_sum, 0, (size_t)(padded * wide) * sizeof *key_sum);
        for (int64_t q = 0; q < a->chunk; q += ROWS) {
            int64_t rows = least(ROWS, a->chunk - q), frame = b * a->frames + n * a->chunk + q;
            const float *x = a->x + frame * a->row;
            int64_t at = (((b * chunks + n) * a->heads + h) * a->chunk + q) * w.keys;
            load_rows(query, wide, x + h * a->size, a->row, rows, a->size);
            memset(slope, 0, (size_t)(ROWS * padded) * sizeof *slope);
            for (int64_t r = 0; r < rows; r++) {
                const float *y = weights + at + r * w.keys, *dy = d_weights + at + r * w.keys;
                const float *more = d_first + ((b * chunks + n) * a->chunk + q + r) * w.keys;
                float *to = slope + r * padded, mean = 0.0f;
                if (h == 0)
                    for (int64_t k = w.low; k < w.high; k++) to[k] = dy[k] + more[k];
                else
                    memcpy(to + w.low, dy + w.low, (size_t)(w.high - w.low) * sizeof *to);
#pragma omp simd reduction(+ : mean)
                for (int64_t k = w.low; k < w.high; k++) mean += to[k] * y[k];
#pragma omp simd
                for (int64_t k = w.low; k < w.high; k++) to[k] = y[k] * (to[k] - mean);
            }
            memset(sum, 0, (size_t)(ROWS * wide) * sizeof *sum);
            multiply_rows(sum, wide, slope + w.low, padded, 1, keys + w.low * wide, wide, w.high - w.low, wide);
            for (int64_t r = 0; r < rows; r++)
                memcpy(d_x + (frame + r) * a->row + h * a->size, sum + r * wide, (size_t)a->size * sizeof *sum);
            for (int64_t k = 0; k < padded; k += ROWS)
                multiply_rows(key_sum + k * wide, wide, slope + k, 1, padded, query, wide, ROWS, wide);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t j = 0; j < a->position; j++) {
                    int64_t from = j * table_row(a) + distance(a, q + r);
                    const float *t = table + from, *s = slope + r * padded;
                    float *to = table_sum + from, p = x[r * a->row + 2 * all + h * a->position + j], total = 0.0f;
#pragma omp simd reduction(+ : total)
                    for (int64_t k = w.low; k < w.high; k++) {
                        total += s[k] * t[k];
                        to[k] += p * s[k];
                    }
                    d_x[(frame + r) * a->row + 2 * all + h * a->position + j] = total;
                }
        }
        for (int64_t k = most(w.low, -w.start); k < w.high; k++) {
            float *to = d_x + (b * a->frames + w.start + k) * a->row + all + h * a->size;
            for (int64_t j = 0; j < a->size; j++) to[j] += key_sum[k * wide + j];
        }
    }
    for (int64_t j = 0; j < a->position; j++)
        memcpy(d_table + ((b * a->heads + h) * a->position + j) * width, table_sum + j * table_row(a) + ROWS,
               (size_t)width * sizeof *d_table);
}

/* y (B, U, H size) of one stream, chunk and head; first is NULL or counts the heads that weights leave out. */
VECTOR static void values_of(const Attention *a, const float *weights, float *y, float *scratch, int64_t b, int64_t n,
                             int64_t h) {
    Window w = window_of(a, b, n);
    int64_t all = a->heads * a->size, seen = w.high - w.low;
    float *values = scratch, *tail = values + w.padded * BLOCK, *sum = tail + ROWS * w.padded;
    weights += ((b * (a->frames / a->chunk) + n) * a->heads + h) * a->chunk * w.keys;
    for (int64_t j = 0; j < a->size; j += BLOCK) {
        int64_t some = least(BLOCK, a->size - j), offset = h * a->size + j;
        load_keys(a, values, BLOCK, w, b, offset, offset, some);
        for (int64_t q = 0; q < a->chunk; q += ROWS) {
            int64_t rows = least(ROWS, a->chunk - q);
            const float *from = weights + q * w.keys;
            if (rows < ROWS) {
                load_rows(tail, w.keys, from, w.keys, rows, w.keys);
                from = tail;
            }
            memset(sum, 0, ROWS * BLOCK * sizeof *sum);
            multiply_rows(sum, BLOCK, from + w.low, w.keys, 1, values + w.low * BLOCK, BLOCK, seen, up_to(some, LANES));
            for (int64_t r = 0; r < rows; r++)
                memcpy(y + (b * a->frames + n * a->chunk + q + r) * all + offset, sum + r * BLOCK,
                       (size_t)some * sizeof *y);
        }
    }
}

/* d_weights, and the gradient of the values of one stream and head; cached ones have none. */
VECTOR static void values_gradient(const Attention *a, const float *weights, const float *dy, float *d_weights,
                                   float *d_x, float *scratch, int64_t b, int64_t h) {
    int64_t all = a->heads * a->size, chunks = a->frames / a->chunk, wide = up_to(a->size, LANES);
    int64_t padded = up_to(a->left + a->chunk, BLOCK);
    float *values = scratch, *value_sum = values + a->size * padded, *slope = value_sum + padded * wide;
    float *some = slope + ROWS * wide, *sum = some + ROWS * padded;
    for (int64_t u = 0; u < a->frames; u++)
        memset(d_x + (b * a->frames + u) * all + h * a->size, 0, (size_t)a->size * sizeof *d_x);
    for (int64_t n = 0; n < chunks; n++) {
        Window w = window_of(a, b, n);
        load_transposed(a, values, w, b, h * a->size, h * a->size);
        memset(value_sum, 0, (size_t)(padded * wide) * sizeof *value_sum);
        for (int64_t q = 0; q < a->chunk; q += ROWS) {
            int64_t rows = least(ROWS, a->chunk - q);
            int64_t at = (((b * chunks + n) * a->heads + h) * a->chunk + q) * w.keys;
            load_rows(slope, wide, dy + (b * a->frames + n * a->chunk + q) * all + h * a->size, all, rows, a->size);
            load_rows(some, padded, weights + at, w.keys, rows, w.keys);
            memset(sum, 0, (size_t)(ROWS * padded) * sizeof *sum);
            for (int64_t k = 0; k < padded; k += BLOCK)
                multiply_tile(sum + k, padded, slope, wide, 1, values + k, padded, a->size, ROWS, 2);
            for (int64_t r = 0; r < rows; r++)
                memcpy(d_weights + at + r * w.keys, sum + r * padded, (size_t)w.keys * sizeof *sum);
            for (int64_t k = 0; k < padded; k += ROWS)
                multiply_rows(value_sum + k * wide, wide, some + k, 1, padded, slope, wide, ROWS, wide);
        }
        for (int64_t k = most(w.low, -w.start); k < w.high; k++) {
            float *to = d_x + (b * a->frames + w.start + k) * all + h * a->size;
            for (int64_t j = 0; j < a->size; j++) to[j] += value_sum[k * wide + j];
        }
    }
}

/* Floats of scratch that a thread needs for any of the functions here. */
EXPORT int64_t rill_attention_scratch(int64_t size, int64_t position, int64_t chunk, int64_t left) {
    int64_t padded = up_to(left + chunk, BLOCK), wide = up_to(size, LANES), table = left + 2 * chunk + ROWS + 2 * BLOCK;
    return up_to(2 * position * table + 2 * padded * wide + ROWS * (2 * wide + position + 2 * padded + 2 * BLOCK), LANES);
}

#define ATTENTION(x, cache, table) \
    {x, cache, table, begin, end, batch, frames, row, heads, size, position, chunk, left}
#define MANY (batch * frames * heads * (left + chunk) > 16384)

/* x: (B, U, row) holds queries, keys (H size each) and positions (H position); weights: (B, n, H, c, L + c), of which
 * `first` (B, n, 1, c, L + c) is the first head's; scratch: rill_attention_scratch for each thread. */
EXPORT void rill_attention_weights(const float *x, const float *cache, const float *table, const int64_t *begin,
                                   const int64_t *end, float *weights, float *first, float *scratch, int64_t batch,
                                   int64_t frames, int64_t row, int64_t heads, int64_t size, int64_t position,
                                   int64_t chunk, int64_t left, int threads) {
    Attention a = ATTENTION(x, cache, table);
    int64_t part = rill_attention_scratch(size, position, chunk, left), chunks = frames / chunk;
#pragma omp parallel for schedule(static) num_threads(threads) if (MANY)
    for (int64_t i = 0; i < batch * chunks * heads; i++)
        weights_of(&a, weights, first, scratch + thread_number() * part, i / heads / chunks, i / heads % chunks, i % heads);
}

/* d_x: as x; d_table: (B, H position, L + 2 c), to be summed over the streams. */
EXPORT void rill_attention_weights_gradient(const float *x, const float *cache, const float *table,
                                            const int64_t *begin, const int64_t *end, const float *weights,
                                            const float *d_weights, const float *d_first, float *d_x, float *d_table,
                                            float *scratch, int64_t batch, int64_t frames, int64_t row, int64_t heads,
                                            int64_t size, int64_t position, int64_t chunk, int64_t left, int threads) {
    Attention a = ATTENTION(x, cache, table);
    int64_t part = rill_attention_scratch(size, position, chunk, left);
#pragma omp parallel for schedule(static) num_threads(threads) if (MANY)
    for (int64_t i = 0; i < batch * heads; i++)
        weights_gradient(&a, weights, d_weights, d_first, d_x, d_table, scratch + thread_number() * part, i / heads,
                         i % heads);
}

/* x: (B, U, H size) values; cache: (B, L, H size); y: as x. */
EXPORT void rill_attention_values(const float *x, const float *cache, const float *weights, const int64_t *begin,
                                  const int64_t *end, float *y, float *scratch, int64_t batch, int64_t frames,
                                  int64_t heads, int64_t size, int64_t chunk, int64_t left, int threads) {
    int64_t row = heads * size, position = 0;
    Attention a = ATTENTION(x, cache, NULL);
    int64_t part = rill_attention_scratch(size, position, chunk, left), chunks = frames / chunk;
#pragma omp parallel for schedule(static) num_threads(threads) if (MANY)
    for (int64_t i = 0; i < batch * chunks * heads; i++)
        values_of(&a, weights, y, scratch + thread_number() * part, i / heads / chunks, i / heads % chunks, i % heads);
}

EXPORT void rill_attention_values_gradient(const float *x, const float *cache, const float *weights,
                                           const int64_t *begin, const int64_t *end, const float *dy, float *d_weights,
                                           float *d_x, float *scratch, int64_t batch, int64_t frames, int64_t heads,
                                           int64_t size, int64_t chunk, int64_t left, int threads) {
    int64_t row = heads * size, position = 0;
    Attention a = ATTENTION(x, cache, NULL);
    int64_t part = rill_attention_scratch(size, position, chunk, left);
#pragma omp parallel for schedule(static) num_threads(threads) if (MANY)
    for (int64_t i = 0; i < batch * heads; i++)
        values_gradient(&a, weights, dy, d_weights, d_x, scratch + thread_number() * part, i / heads, i % heads);
}
