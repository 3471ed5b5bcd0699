/* Attention over packed rows and slots of keys and values.
 *
 *   q, k := rope(q, k);  the new keys and values join their slot
 *   out = softmax(scale * q . keys) @ values over the keys up to the query's own place, the last
 *   `window` of them where there is a window
 *
 * Rules
 * - A query's bits depend on its own row and on the keys and values that it attends, on nothing
 *   else: not on the chunk it came in, its slot, its neighbours or the threads. Sums over a head's
 *   width and over keys run upwards, one fused multiplication and addition a step. Keys are taken
 *   in blocks of 64 from place 0; each block may raise the row's peak, and what was summed before
 *   is then scaled down.
 * - What a query may not see is never multiplied, not even by zero: NaN stays where it is.
 */
#ifndef EDGE_ATTENTION_H
#define EDGE_ATTENTION_H

#include "linear.h"

typedef struct {
    const edge_kernels *kernels;
    size_t heads, kv_heads, dim;
    size_t window; /* keys a query attends, itself included; 0: all */
    float scale;
} edge_attention;

/* One step. Rows of a slot lie behind each other, slot after slot. */
typedef struct {
    size_t tokens, slots, capacity, positions;
    const float *q, *k, *v;    /* first rows; a row of q is q_row floats behind the one before */
    size_t q_row, kv_row;
    const int32_t *counts;     /* [slots] new rows, 0: idle */
    const int32_t *last;       /* [slots] place of the last new key; of idle slots not read */
    float *keys, *values;      /* [slots, kv_heads, capacity, dim], written */
    const float *cos, *sin;    /* [positions, dim / 2] */
    float *out;                /* [tokens, heads * dim] */
} edge_step;

/* Why the step cannot run, or NULL. */
const char *edge_attention_check(const edge_step *step);

/* Run a step that was checked. `*error` receives what `parallel` returned. 0, or -1 when memory is
 * short: the output is then incomplete. */
int edge_attention_run(const edge_attention *attention, const edge_step *step,
                       const edge_parallel *parallel, void **error);

#endif
