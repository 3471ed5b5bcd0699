/* One linear layer over any way of running tasks in parallel. */
#ifndef EDGE_LINEAR_H
#define EDGE_LINEAR_H

#include "weights.h"

typedef struct {
    const edge_kernels *kernels;
    const edge_weights *weights;
    edge_grid grid;
    int32_t *zeros; /* [strips * parts * 32] zero * sum of each column, in the weights' order */
    float *scale;   /* [the same] step * scale of each column */
    float *bias;    /* [the same], or NULL */
} edge_linear;

/* Call body(data, i) for i in [0, total), on any threads; returns when all are done. NULL from a
 * `edge_parallel` is success, anything else is passed through. */
typedef struct {
    void *context;
    void *(*run)(void *context, void (*body)(void *, size_t), size_t total, void *data);
} edge_parallel;

/* What a layer is made of. One part: y = x @ w. Two parts: w holds n columns of gates and then n
 * others; y = silu(x @ gates) * (x @ others). */
typedef struct {
    size_t k, n, parts;
    int transposed;     /* w: [parts * n, k] instead of [k, parts * n] */
    int zero;           /* 0..128: the code of 0; 128 means codes on both sides alike */
    int levels;         /* 1..255: codes from 0 up to the peak; 127, more where zero is lower */
    float floor;        /* least peak of a row; where zero < 128 */
    const int8_t *w;
    const float *scale; /* [parts * n] */
    const float *bias;  /* [parts * n], or NULL */
} edge_recipe;

/* Fill `layer`; 0, or -1 when memory is short. The recipe's arrays are copied. */
int edge_linear_init(edge_linear *layer, const edge_kernels *kernels, const edge_recipe *recipe);
void edge_linear_free(edge_linear *layer);

/* x: [m, k] -> out: [m, n], or the exact sums (of one part) in raw: [m, n] if given.
 * `*error` receives what `parallel` returned. 0, or -1 when memory is short. */
int edge_linear_run(const edge_linear *layer, const float *x, size_t m, float *out, int32_t *raw,
                    const edge_parallel *parallel, void **error);

#endif
