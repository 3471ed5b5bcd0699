/* Plain C entries beside the operators: what the loader asks before it trusts the library, and
 * what tests and sanitizers drive without onnxruntime. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"

#define EXPORT __attribute__((visibility("default")))

static void *in_turn(void *context, void (*body)(void *, size_t), size_t total, void *data) {
    (void)context;
    for (size_t i = 0; i < total; ++i)
        body(data, i);
    return NULL;
}

static const edge_parallel serial = {NULL, in_turn};

/* The instruction set that would be used, or NULL where none can run. */
EXPORT const char *edge_kernel_set(void) {
    const edge_kernels *best = edge_best_kernels();
    return best ? best->name : NULL;
}

EXPORT size_t edge_packed_matrices(void) {
    return edge_weights_held();
}

/* One layer for later runs; `set` NULL means the best. NULL when memory is short, when k is out
 * of range or when the set cannot run here. */
EXPORT edge_linear *edge_layer_new(const char *set, const edge_recipe *recipe) {
    const edge_kernels *kernels = set ? edge_kernels_named(set) : edge_best_kernels();
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

/* Run on the calling thread; `raw` not NULL receives the exact sums instead of `out`. */
EXPORT int edge_layer_run(const edge_linear *layer, const float *x, size_t m, float *out,
                          int32_t *raw) {
    void *error;
    return edge_linear_run(layer, x, m, out, raw, &serial, &error);
}

/* Attention of `tokens` joined rows from the start of one empty slot of `capacity`, on the calling
 * thread; cos and sin have as many positions. 0, 1 when the set cannot run here, -1 when the step
 * does not fit or memory is short. */
EXPORT int edge_attention_once(const char *set, size_t tokens, size_t heads, size_t kv_heads,
                               size_t dim, size_t window, size_t capacity, const float *rows,
                               float *keys, float *values, const float *cos, const float *sin,
                               float *out) {
    const edge_kernels *kernels = edge_kernels_named(set);
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

static int8_t weight_at(size_t k, size_t n) {
    return (int8_t)((int)((k * 37 + n * 101 + k * n) % 255) - 127);
}

/* A small product whose result is known by counting: 0 when this processor gets it right for
 * every height of tile, else the height that went wrong. */
EXPORT int edge_self_test(void) {
    enum { K = 203, N = 77, M = 29 };
    static const float scale[N] = {0};
    int8_t *w = malloc(K * N);
    float *x = malloc(sizeof(float) * M * K);
    int32_t *sums = malloc(sizeof(int32_t) * M * N);
    edge_linear *layer = NULL;
    int wrong = -1;
    if (!w || !x || !sums)
        goto done;
    for (size_t k = 0; k < K; ++k)
        for (size_t n = 0; n < N; ++n)
            w[k * N + n] = weight_at(k, n);
    for (size_t i = 0; i < M * K; ++i) /* whole numbers up to 127 are their own bytes */
        x[i] = i % K == 7 ? -127.0f : (float)((int)(i * 53 % 255) - 127);
    const edge_recipe recipe = {.k = K, .n = N, .parts = 1, .zero = 128, .levels = 127, .w = w, .scale = scale};
    layer = edge_layer_new(NULL, &recipe);
    for (int m = 1; layer && m <= M; ++m) {
        wrong = m;
        if (edge_layer_run(layer, x, (size_t)m, NULL, sums))
            goto done;
        for (size_t r = 0; r < (size_t)m; ++r)
            for (size_t n = 0; n < N; ++n) {
                int32_t sum = 0;
                for (size_t k = 0; k < K; ++k)
                    sum += (int32_t)x[r * K + k] * weight_at(k, n);
                if (sum != sums[r * N + n])
                    goto done;
            }
        wrong = 0;
    }
done:
    if (layer)
        edge_layer_free(layer);
    free(w);
    free(x);
    free(sums);
    return wrong;
}
