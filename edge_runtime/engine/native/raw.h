/* Plain C entries beside the operators: what the loader asks before it trusts the library, and
 * what tests and sanitizers drive without onnxruntime. All run on the calling thread; a `set` of
 * NULL means the best instruction set of this processor. */
#ifndef EDGE_RAW_H
#define EDGE_RAW_H

#include "attention.h"

#define EXPORT __attribute__((visibility("default")))

/* The instruction set that would be used, or NULL where none can run. */
EXPORT const char *edge_kernel_set(void);

EXPORT size_t edge_packed_matrices(void);

/* One layer for later runs. NULL when memory is short, when k is out of range or when the set
 * cannot run here. */
EXPORT edge_linear *edge_layer_new(const char *set, const edge_recipe *recipe);
EXPORT void edge_layer_free(edge_linear *layer);

/* `raw` not NULL receives the exact sums instead of `out`. */
EXPORT int edge_layer_run(const edge_linear *layer, const float *x, size_t m, float *out,
                          int32_t *raw);

/* Attention of `tokens` joined rows from the start of one empty slot of `capacity`; cos and sin
 * have as many positions. 0, 1 when the set cannot run here, -1 when the step does not fit or
 * memory is short. */
EXPORT int edge_attention_once(const char *set, size_t tokens, size_t heads, size_t kv_heads,
                               size_t dim, size_t window, size_t capacity, const float *rows,
                               float *keys, float *values, const float *cos, const float *sin,
                               float *out);

/* 0 when this processor computes small products whose sums are known by counting, for every
 * height of tile; else the height that went wrong, or -1 when memory is short. */
EXPORT int edge_self_test(void);

/* 0 when attention over a few blocks of keys is what plain arithmetic in double makes of it; else
 * the row that went wrong, from 1, or -1 when memory is short. */
EXPORT int edge_attention_self_test(void);

#endif
