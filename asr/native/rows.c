/* The states of B streams, apart and together: a row of bytes for each stream, in which its leaves follow one another,
 * and a block for each leaf, in which those of the streams do (asr/packed_state.py). `ends` (count): where each leaf
 * ends in a row. */
#include <string.h>

#include "tile.h"

EXPORT void rill_join_rows(const char *const *rows, char *blocks, const int64_t *ends, int64_t count, int64_t streams,
                           int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count && streams * ends[count - 1] > 1 << 18)
    for (int64_t b = 0; b < streams; b++)
        for (int64_t i = 0, begin = 0; i < count; begin = ends[i++])
            memcpy(blocks + streams * begin + b * (ends[i] - begin), rows[b] + begin, (size_t)(ends[i] - begin));
}

EXPORT void rill_split_rows(const char *const *blocks, char *const *rows, const int64_t *ends, int64_t count,
                            int64_t streams, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count && streams * ends[count - 1] > 1 << 18)
    for (int64_t b = 0; b < streams; b++)
        for (int64_t i = 0, begin = 0; i < count; begin = ends[i++])
            memcpy(rows[b] + begin, blocks[i] + b * (ends[i] - begin), (size_t)(ends[i] - begin));
}
