/* What the sums over lattices have in common. */
#ifndef RILL_LATTICE_H
#define RILL_LATTICE_H

#include "vector_math.h"

/* Stands for log 0: finite, so that the difference of two of them is a number. */
#define NOTHING (-1e30)
#define IMPOSSIBLE (-1e29)

/* Flows below this are dropped: float32's denormal numbers would slow the caller's matrix products tenfold. */
#define TRICKLE 1e-30

INLINE double held(float x) { return x < (float)NOTHING ? NOTHING : (double)x; }

INLINE double kept(double flow) { return flow < TRICKLE ? 0.0 : flow; }

#endif
