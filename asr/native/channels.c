/* Passes over rows of channels: statistics of each channel, and Balancer's push of a gradient. */
#include "vector_math.h"

#define COLUMNS 64 /* channels that a thread sums at once */
#define ROWS 128   /* rows summed in float before they are added up in double */

/* Means of the channels and of their squares, of `columns` channels from column c on. */
VECTOR static void moments(const float *x, double *mean, double *square, int64_t rows, int64_t stride, int64_t columns) {
    double total[COLUMNS] = {0}, squares[COLUMNS] = {0};
    for (int64_t i = 0; i < rows; i += ROWS) {
        float sum[COLUMNS] = {0}, sum_square[COLUMNS] = {0};
        int64_t end = i + ROWS < rows ? i + ROWS : rows;
        for (int64_t j = i; j < end; j++) {
            const float *row = x + j * stride;
#pragma omp simd
            for (int64_t c = 0; c < columns; c++) {
                sum[c] += row[c];
                sum_square[c] += row[c] * row[c];
            }
        }
        for (int64_t c = 0; c < columns; c++) total[c] += sum[c], squares[c] += sum_square[c];
    }
    for (int64_t c = 0; c < columns; c++) mean[c] = total[c] / (double)rows, square[c] = squares[c] / (double)rows;
}

VECTOR static void push(const float *x, const float *g, const float *offset, const float *slope, float *y,
                        int64_t columns) {
#pragma omp simd
    for (int64_t c = 0; c < columns; c++) y[c] = g[c] + fabsf(g[c]) * (offset[c] + slope[c] * x[c]);
}

/* x: (rows, columns); mean, square: (columns,). */
EXPORT void rill_moments(const float *x, double *mean, double *square, int64_t rows, int64_t columns, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * columns > 32768)
    for (int64_t c = 0; c < columns; c += COLUMNS)
        moments(x + c, mean + c, square + c, rows, columns, columns - c < COLUMNS ? columns - c : COLUMNS);
}

/* y = g + |g| (offset + slope x): x, g, y: (rows, columns); offset, slope: (columns,). */
EXPORT void rill_push(const float *x, const float *g, const float *offset, const float *slope, float *y, int64_t rows,
                      int64_t columns, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * columns > 32768)
    for (int64_t i = 0; i < rows; i++)
        push(x + i * columns, g + i * columns, offset, slope, y + i * columns, columns);
}
