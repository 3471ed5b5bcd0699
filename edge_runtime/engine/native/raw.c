#include "raw.h"

#include <math.h>
#include <stdlib.h>

static void *in_turn(void *context, void (*body)(void *, size_t), size_t total, void *data) {
    (void)context;
    for (size_t i = 0; i < total; ++i)
        body(data, i);
    return NULL;
}

static const edge_parallel serial = {NULL, in_turn};

static const edge_kernels *named(const char *set) {
    return set ? edge_kernels_named(set) : edge_best_kernels();
}

EXPORT const char *edge_kernel_set(void) {
    const edge_kernels *best = edge_best_kernels();
    return best ? best->name : NULL;
}

EXPORT size_t edge_packed_matrices(void) {
    return edge_weights_held();
}

EXPORT edge_linear *edge_layer_new(const char *set, const edge_recipe *recipe) {
    const edge_kernels *kernels = named(set);
    if (!kernels || recipe->k < 1 || recipe->k > EDGE_MAX_K || recipe->zero < 0 ||
        recipe->zero > 128 || recipe->levels < 1 || recipe->levels > 255)
        return NULL;
    edge_linear *layer = malloc(sizeof *layer);
    if (layer && edge_linear_init(layer, kernels, recipe)) {
        free(layer);
        return NULL;
    }
    return layer;
}

EXPORT void edge_layer_free(edge_linear *layer) {
    edge_linear_free(layer);
    free(layer);
}

EXPORT int edge_layer_run(const edge_linear *layer, const float *x, size_t m, float *out,
                          int32_t *raw) {
    void *error;
    return edge_linear_run(layer, x, m, out, raw, &serial, &error);
}

EXPORT int edge_attention_once(const char *set, size_t tokens, size_t heads, size_t kv_heads,
                               size_t dim, size_t window, size_t capacity, const float *rows,
                               float *keys, float *values, const float *cos, const float *sin,
                               float *out) {
    const edge_kernels *kernels = named(set);
    if (!kernels)
        return 1;
    const edge_attention attention = {.kernels = kernels, .heads = heads, .kv_heads = kv_heads,
                                      .dim = dim, .window = window,
                                      .scale = 1.0f / sqrtf((float)dim)};
    const int32_t count = (int32_t)tokens, last = count - 1;
    const size_t row = (heads + 2 * kv_heads) * dim;
    const edge_step step = {.tokens = tokens, .slots = 1, .capacity = capacity,
                            .positions = capacity, .q = rows, .k = rows + heads * dim,
                            .v = rows + (heads + kv_heads) * dim, .q_row = row, .kv_row = row,
                            .counts = &count, .last = &last, .keys = keys, .values = values,
                            .cos = cos, .sin = sin, .out = out};
    void *error;
    return edge_attention_check(&step) ? -1 : edge_attention_run(&attention, &step, &serial, &error);
}
