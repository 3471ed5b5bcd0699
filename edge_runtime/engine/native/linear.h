/* One linear layer over any way of running tasks in parallel. */
#ifndef EDGE_LINEAR_H
#define EDGE_LINEAR_H

#include "weights.h"

typedef struct {
    const edge_kernels *kernels;
    const edge_weights *weights;
    float *scale;   /* [strips * 32] 1/127 * scale of each column */
    float *bias;    /* [strips * 32] or NULL */
    int swiglu;     /* rows are gate | up, each k wide */
} edge_linear;

/* Call body(data, i) for i in [0, total), on any threads; returns when all are done. NULL from a
 * `edge_parallel` is success, anything else is passed through. */
typedef struct {
    void *context;
    void *(*run)(void *context, void (*body)(void *, size_t), size_t total, void *data);
} edge_parallel;

/* Fill `layer` from w and the parameters; 0, or -1 when memory is short. */
int edge_linear_init(edge_linear *layer, const edge_kernels *kernels, const int8_t *w, size_t k,
                     size_t n, int transposed, const float *scale, const float *bias, int swiglu);
void edge_linear_free(edge_linear *layer);

/* x: [m, k] (or [m, 2k] with swiglu) -> out: [m, n], or the exact sums in raw: [m, n] if given.
 * `*error` receives what `parallel` returned. 0, or -1 when memory is short. */
int edge_linear_run(const edge_linear *layer, const float *x, size_t m, float *out, int32_t *raw,
                    const edge_parallel *parallel, void **error);

#endif
