/* Linear layers of inference: weights in the order in which they are read, for few rows as for many. */
#ifndef RILL_LINEAR_H
#define RILL_LINEAR_H

#include "tile.h"

#define PANEL (2 * LANES) /* outputs computed at once */
#define QUAD 4            /* bytes that one instruction multiplies and adds up */

/* weight: (outputs / PANEL, inputs, PANEL), zeros beyond the outputs; bias: (outputs up to PANEL,).
 * Or weight is NULL, and bytes (outputs / PANEL, inputs / QUAD, PANEL, QUAD) times scale, by output, stand for it;
 * offset, by output, is 128 times the sum of its bytes. */
typedef struct {
    const float *weight, *bias;
    const int8_t *bytes;
    const float *scale;
    const int32_t *offset;
    int64_t inputs, outputs;
} Linear;

enum { PLAIN = 0, SWOOSH_L = 1, ADD = 2 }; /* what becomes of the result: written, activated, or added to y */

/* Floats of scratch for so many rows of inputs. */
INLINE int64_t linear_scratch(int64_t rows, int64_t inputs) { return rows * (up_to(inputs, 4 * LANES) / 4 + 1) + LANES; }

/* x: (rows, inputs) -> y: (rows, outputs), both contiguous. */
void rill_linear(const Linear *l, const float *x, float *y, int64_t rows, int kind, float *scratch, int threads);

#endif
