/* Packed weights: one copy a process, in large pages, however many nodes and sessions use it. */
#ifndef EDGE_WEIGHTS_H
#define EDGE_WEIGHTS_H

#include "kernels.h"

typedef struct edge_weights {
    size_t k, n;         /* of each part */
    size_t parts;        /* matrices packed together, strip by strip in turn */
    size_t k_padded;     /* multiple of EDGE_K_STEP */
    size_t strips;       /* of EDGE_STRIP columns, of each part */
    const int8_t *data;  /* strip s of part p is the (s * parts + p)th of k_padded * 32 bytes */
    const int32_t *sums; /* [strips * parts * 32] in that order: sum of each column */
} edge_weights;

/* Pack w: [k, parts * n], or [parts * n, k] when `transposed`. Equal ones packed before are
 * shared. NULL when memory is short. Thread-safe. Costs a few passes over the weights and as many
 * bytes as they have. */
const edge_weights *edge_weights_take(const int8_t *w, size_t parts, size_t k, size_t n,
                                      int transposed);

/* Give back one `take`; the memory goes with the last. NULL is nothing. */
void edge_weights_give(const edge_weights *weights);

/* Packed matrices held now, for tests. */
size_t edge_weights_held(void);

#endif
