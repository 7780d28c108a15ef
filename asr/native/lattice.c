/* Sums over the paths of a transducer lattice, and how often the paths take each arc.
 *
 * State (t, s) has read t frames and given out s tokens. Two arcs leave it: blank, to (t + 1, s), and the next
 * token, to (t, s + 1) in the regular topology (Graves 2012) or (t + 1, s + 1) in the modified one (a token
 * takes a frame). Only states s = begin[t] ... begin[t] + R - 1 exist at frame t (the band of Kuang et al.
 * 2022; a band of all tokens is the full lattice). All paths end in (frames, tokens).
 *
 * One sweep from the end gives each state's log-probability of finishing and the share of it that goes through
 * the token arc. A second sweep pours a weight of 1 into the first state and lets it run down by these shares:
 * what flows through an arc is its occupation, the gradient of the total. That sweep needs no logarithms, and
 * nothing in it can overflow or cancel.
 */
#include <stdlib.h>

#include "lattice.h"

typedef struct {
    const float *symbol, *blank; /* (T, R) log-probabilities of one utterance */
    const int64_t *begin;        /* (T,), or NULL for a band that always begins at 0 */
    float *symbol_flow, *blank_flow;
    int64_t frames, width, tokens;
    int modified;
} Lattice;

INLINE int64_t first(const Lattice *l, int64_t t) {
    if (!l->begin) return 0;
    if (t < l->frames) return l->begin[t];
    return l->tokens >= l->width ? l->tokens - l->width + 1 : 0;
}

/* How many of frame t's R states are states at all, that is not beyond the last token. */
INLINE int64_t states(const Lattice *l, int64_t first_token) {
    int64_t n = l->tokens - first_token + 1;
    return n < 0 ? 0 : n < l->width ? n : l->width;
}

/* Fills share (T, R) with the token arc's share of each state; returns the log-probability of the whole. */
VECTOR static double sweep_back(const Lattice *l, double *row, double *next, float *share) {
    int64_t width = l->width, next_first = first(l, l->frames);
    for (int64_t r = 0; r < width; r++) next[r] = next_first + r == l->tokens ? 0.0 : NOTHING;
    for (int64_t t = l->frames - 1; t >= 0; t--) {
        const float *symbol = l->symbol + t * width, *blank = l->blank + t * width;
        float *shares = share + t * width;
        int64_t this_first = first(l, t), shift = this_first - next_first, n = states(l, this_first);
        for (int64_t r = width - 1; r >= n; r--) row[r] = NOTHING;
        for (int64_t r = n - 1; r >= 0; r--) {
            int64_t after = r + shift; /* the same token, in the next frame's band */
            double stay = after >= 0 && after < width ? next[after] : NOTHING, go = NOTHING;
            if (this_first + r < l->tokens) {
                if (!l->modified)
                    go = r + 1 < width ? row[r + 1] : NOTHING;
                else if (after + 1 >= 0 && after + 1 < width)
                    go = next[after + 1];
                go += held(symbol[r]);
            }
            stay += held(blank[r]);
            double larger = go > stay ? go : stay, smaller = go > stay ? stay : go;
            double ratio = exp_double(smaller - larger);
            double part = 1.0 / (1.0 + ratio);
            shares[r] = (float)(go > stay ? part : ratio * part);
            row[r] = larger + log1p_double(ratio);
            if (row[r] < NOTHING) row[r] = NOTHING;
        }
        double *swap = row;
        row = next, next = swap, next_first = this_first;
    }
    return next_first == 0 ? next[0] : NOTHING;
}

/* Lets the flow of 1 run from the first state to the last; share is the token arcs' part of it. */
static void sweep_on(const Lattice *l, double *row, double *next, const float *share) {
    int64_t width = l->width, this_first = 0;
    memset(row, 0, (size_t)width * sizeof *row);
    row[0] = 1.0;
    for (int64_t t = 0; t < l->frames; t++) {
        const float *shares = share + t * width;
        float *symbol = l->symbol_flow + t * width, *blank = l->blank_flow + t * width;
        int64_t next_first = first(l, t + 1), shift = this_first - next_first, n = states(l, this_first);
        memset(next, 0, (size_t)width * sizeof *next);
        for (int64_t r = 0; r < n; r++) {
            double go = kept(row[r] * shares[r]), stay = kept(row[r] - go);
            int64_t after = r + shift;
            symbol[r] = (float)go;
            blank[r] = (float)stay;
            if (after >= 0 && after < width) next[after] += stay;
            if (!l->modified && r + 1 < width) row[r + 1] += go;
            if (l->modified && after + 1 >= 0 && after + 1 < width) next[after + 1] += go;
        }
        double *swap = row;
        row = next, next = swap, this_first = next_first;
    }
}

/* symbol, blank, symbol_flow, blank_flow: (B, T, R); begin: (B, T) or NULL; scores: (B,). The flows may be NULL.
 * An impossible utterance scores minus infinity and has no flow. Returns 0, or 1 when memory ran out. */
EXPORT int rill_lattice(const float *symbol, const float *blank, const int64_t *begin, const int64_t *tokens,
                        const int64_t *frames, double *scores, float *symbol_flow, float *blank_flow,
                        int64_t batch, int64_t time, int64_t width, int modified, int threads) {
    int failed = 0;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (batch > 1)
    for (int64_t b = 0; b < batch; b++) {
        int64_t plane = time * width;
        Lattice l = {symbol + b * plane, blank + b * plane, begin ? begin + b * time : NULL,
                     NULL, NULL, frames[b], width, tokens[b], modified};
        double *rows = malloc((size_t)(2 * width + 1) * sizeof *rows);
        float *share = malloc((size_t)(plane + 1) * sizeof *share);
        if (!rows || !share) {
#pragma omp atomic write
            failed = 1;
        } else {
            double score = sweep_back(&l, rows, rows + width, share);
            scores[b] = score < IMPOSSIBLE ? -INFINITY : score;
            if (symbol_flow) {
                l.symbol_flow = symbol_flow + b * plane, l.blank_flow = blank_flow + b * plane;
                memset(l.symbol_flow, 0, (size_t)plane * sizeof(float));
                memset(l.blank_flow, 0, (size_t)plane * sizeof(float));
                if (!(score < IMPOSSIBLE)) sweep_on(&l, rows, rows + width, share);
            }
        }
        free(rows);
        free(share);
    }
    return failed;
}
