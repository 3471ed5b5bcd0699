#include "raw.h"

#include <math.h>
#include <stdlib.h>

static int8_t weight_at(size_t k, size_t n) {
    return (int8_t)((int)((k * 37 + n * 101 + k * n) % 255) - 127);
}

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

enum { TOKENS = 150, HEADS = 4, KV = 2, DIM = 40, HALF = DIM / 2, ROW = (HEADS + 2 * KV) * DIM };

/* Everything the attention test needs, in one piece. */
typedef struct {
    float rows[TOKENS * ROW], keys[KV * TOKENS * DIM], values[KV * TOKENS * DIM];
    float cos[TOKENS * HALF], sin[TOKENS * HALF], out[TOKENS * HEADS * DIM];
    double turned[TOKENS * (HEADS + KV) * DIM];
} attention_case;

/* Between -1 and 1, the same on every machine. */
static float value_at(size_t i) {
    return (float)((int)((i * 7919 + i / 13 * 104729) % 2001) - 1000) / 1000.0f;
}

static void fill_case(attention_case *c) {
    for (size_t i = 0; i < TOKENS * ROW; ++i)
        c->rows[i] = value_at(i) * (i % ROW < HEADS * DIM ? 4.0f : 1.0f); /* some peaks are sharp */
    for (size_t t = 0; t < TOKENS; ++t)
        for (size_t d = 0; d < HALF; ++d) {
            const double angle = (double)t / pow(100.0, (double)d / HALF);
            c->cos[t * HALF + d] = (float)cos(angle);
            c->sin[t * HALF + d] = (float)sin(angle);
        }
    for (size_t t = 0; t < TOKENS; ++t)
        for (size_t h = 0; h < HEADS + KV; ++h)
            for (size_t d = 0; d < HALF; ++d) {
                const float *x = c->rows + t * ROW + h * DIM;
                const double turn = c->cos[t * HALF + d], lean = c->sin[t * HALF + d];
                double *y = c->turned + (t * (HEADS + KV) + h) * DIM;
                y[d] = x[d] * turn - x[d + HALF] * lean;
                y[d + HALF] = x[d + HALF] * turn + x[d] * lean;
            }
}

/* Whether one head of one row is near what its definition gives. */
static int is_right(const attention_case *c, size_t token, size_t head, size_t window) {
    const size_t kv = head / (HEADS / KV), width = HEADS + KV;
    const size_t first = window && token + 1 > window ? token + 1 - window : 0;
    const double *q = c->turned + (token * width + head) * DIM;
    double total = 0, sum[DIM] = {0};
    for (size_t t = first; t <= token; ++t) {
        const double *k = c->turned + (t * width + HEADS + kv) * DIM;
        const float *v = c->rows + t * ROW + (width + kv) * DIM;
        double score = 0;
        for (size_t d = 0; d < DIM; ++d)
            score += q[d] * k[d];
        const double weight = exp(score / sqrt((double)DIM));
        total += weight;
        for (size_t d = 0; d < DIM; ++d)
            sum[d] += weight * v[d];
    }
    for (size_t d = 0; d < DIM; ++d)
        if (!(fabs(c->out[(token * HEADS + head) * DIM + d] - sum[d] / total) < 1e-4))
            return 0;
    return 1;
}

EXPORT int edge_attention_self_test(void) {
    attention_case *c = malloc(sizeof *c);
    if (!c)
        return -1;
    fill_case(c);
    int wrong = 0;
    for (size_t window = 0; !wrong && window <= 70; window += 70) {
        if (edge_attention_once(NULL, TOKENS, HEADS, KV, DIM, window, TOKENS, c->rows, c->keys,
                                c->values, c->cos, c->sin, c->out))
            wrong = -1;
        for (size_t t = 0; !wrong && t < TOKENS; ++t)
            for (size_t h = 0; h < HEADS; ++h)
                if (!is_right(c, t, h, window))
                    wrong = (int)t + 1;
    }
    free(c);
    return wrong;
}
