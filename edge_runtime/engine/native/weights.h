/* Packed weights: one copy a process, in large pages, however many nodes and sessions use it. */
#ifndef EDGE_WEIGHTS_H
#define EDGE_WEIGHTS_H

#include "kernels.h"

typedef struct edge_weights {
    size_t k, n;         /* as given */
    size_t k_padded;     /* multiple of EDGE_K_STEP */
    size_t strips;       /* of EDGE_STRIP columns */
    const int8_t *data;  /* strips * k_padded * EDGE_STRIP bytes */
    const int32_t *sums; /* [strips * EDGE_STRIP] 128 * sum of each column */
} edge_weights;

/* Pack w: [k, n], or [n, k] when `transposed`. Equal weights packed before are shared. NULL when
 * memory is short. Thread-safe. Costs one pass over w and k * n bytes. */
const edge_weights *edge_weights_take(const int8_t *w, size_t k, size_t n, int transposed);

/* Give back one `take`; the memory goes with the last. NULL is nothing. */
void edge_weights_give(const edge_weights *weights);

/* Packed matrices held now, for tests. */
size_t edge_weights_held(void);

#endif
