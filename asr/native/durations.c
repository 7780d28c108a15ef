/* Sums over the paths of a token-and-duration transducer's lattice (Xu et al. 2023), and how often they take each arc.
 *
 * From state (t, s) a token leads to (t + d, s + 1) and a blank to (t + d, s), for each duration d; a blank of 0 frames
 * there is none. Paths lead from (0, 0) to (frames, tokens), and a blank is their last arc. Otherwise as in lattice.c:
 * one sweep from the end for the arcs' shares, one from the beginning that lets a weight of 1 run down by them.
 */
#include <stdlib.h>

#include "lattice.h"

typedef struct {
    const float *symbol, *blank;     /* (T, R) log-probabilities of one utterance */
    const float *duration;           /* (T, R, D), those of the durations */
    const int64_t *length;           /* (D,) the durations */
    float *symbol_flow, *blank_flow; /* (T, R, D), at first the shares */
    int64_t frames, tokens, states, count;
} Lattice;

/* Where an arc of the k-th duration leads in a plane (frames + 1, R), or -1 where there is none. */
INLINE int64_t after_symbol(const Lattice *l, int64_t t, int64_t s, int64_t k) {
    int64_t to = t + l->length[k];
    return s < l->tokens && to < l->frames ? to * l->states + s + 1 : -1;
}

INLINE int64_t after_blank(const Lattice *l, int64_t t, int64_t s, int64_t k) {
    int64_t to = t + l->length[k];
    return l->length[k] > 0 && to <= l->frames ? to * l->states + s : -1;
}

/* The log-probability of finishing by way of an arc. */
INLINE double by_way(const double *plane, int64_t to, float arc, float duration) {
    return to < 0 ? NOTHING : plane[to] + held(arc) + held(duration);
}

/* Fills the shares and plane (frames + 1, R), each state's log-probability of finishing; returns that of the first. */
static double sweep_back(const Lattice *l, double *plane) {
    int64_t count = l->count, states = l->states;
    for (int64_t i = 0; i < (l->frames + 1) * states; i++) plane[i] = NOTHING;
    plane[l->frames * states + l->tokens] = 0.0;
    for (int64_t t = l->frames - 1; t >= 0; t--)
        for (int64_t s = l->tokens; s >= 0; s--) {
            int64_t state = t * states + s, at = state * count;
            double top = NOTHING, total = 0.0;
            for (int64_t k = 0; k < count; k++) {
                double go = by_way(plane, after_symbol(l, t, s, k), l->symbol[state], l->duration[at + k]);
                double stay = by_way(plane, after_blank(l, t, s, k), l->blank[state], l->duration[at + k]);
                top = go > top ? go : top;
                top = stay > top ? stay : top;
            }
            for (int64_t k = 0; k < count; k++) {
                double go = by_way(plane, after_symbol(l, t, s, k), l->symbol[state], l->duration[at + k]);
                double stay = by_way(plane, after_blank(l, t, s, k), l->blank[state], l->duration[at + k]);
                go = exp_double(go - top), stay = exp_double(stay - top);
                l->symbol_flow[at + k] = (float)go, l->blank_flow[at + k] = (float)stay;
                total += go + stay;
            }
            for (int64_t k = 0; k < count; k++) {
                l->symbol_flow[at + k] /= (float)total;
                l->blank_flow[at + k] /= (float)total;
            }
            plane[state] = top + log(total);
            if (plane[state] < NOTHING) plane[state] = NOTHING;
        }
    return plane[0];
}

/* Lets the flow of 1 run from the first state to the last; `plane` holds what comes into each state. */
static void sweep_on(const Lattice *l, double *plane) {
    memset(plane, 0, (size_t)((l->frames + 1) * l->states) * sizeof *plane);
    plane[0] = 1.0;
    for (int64_t t = 0; t < l->frames; t++)
        for (int64_t s = 0; s <= l->tokens; s++) {
            int64_t at = (t * l->states + s) * l->count;
            double here = plane[t * l->states + s];
            for (int64_t k = 0; k < l->count; k++) {
                int64_t go = after_symbol(l, t, s, k), stay = after_blank(l, t, s, k);
                double by_symbol = go < 0 ? 0.0 : kept(here * l->symbol_flow[at + k]);
                double by_blank = stay < 0 ? 0.0 : kept(here * l->blank_flow[at + k]);
                l->symbol_flow[at + k] = (float)by_symbol, l->blank_flow[at + k] = (float)by_blank;
                if (go >= 0) plane[go] += by_symbol;
                if (stay >= 0) plane[stay] += by_blank;
            }
        }
}

/* symbol, blank: (B, T, R); duration and the flows: (B, T, R, D); length: (D,); scores: (B,). An impossible utterance
 * scores minus infinity and has no flow. Returns 0, or 1 when memory ran out. */
EXPORT int rill_durations(const float *symbol, const float *blank, const float *duration, const int64_t *length,
                          const int64_t *tokens, const int64_t *frames, double *scores, float *symbol_flow,
                          float *blank_flow, int64_t batch, int64_t time, int64_t states, int64_t count, int threads) {
    int failed = 0;
    int64_t size = time * states * count;
    memset(symbol_flow, 0, (size_t)(batch * size) * sizeof *symbol_flow);
    memset(blank_flow, 0, (size_t)(batch * size) * sizeof *blank_flow);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (batch > 1)
    for (int64_t b = 0; b < batch; b++) {
        Lattice l = {symbol + b * time * states, blank + b * time * states, duration + b * size, length,
                     symbol_flow + b * size, blank_flow + b * size, frames[b], tokens[b], states, count};
        double *plane = malloc((size_t)((time + 1) * states) * sizeof *plane);
        if (!plane) {
#pragma omp atomic write
            failed = 1;
            continue;
        }
        double score = sweep_back(&l, plane);
        scores[b] = score < IMPOSSIBLE ? -INFINITY : score;
        if (score < IMPOSSIBLE) {
            memset(l.symbol_flow, 0, (size_t)size * sizeof(float));
            memset(l.blank_flow, 0, (size_t)size * sizeof(float));
        } else {
            sweep_on(&l, plane);
        }
        free(plane);
    }
    return failed;
}
