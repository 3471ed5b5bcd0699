/* Drives every instruction set of the library that this processor has through awkward shapes and
 * counts the products itself. Built with and without sanitizers; prints the sets it ran. */
#include <stdio.h>
#include <stdlib.h>

#include "linear.h"

edge_linear *edge_layer_new(const char *set, const edge_recipe *recipe);
void edge_layer_free(edge_linear *layer);
int edge_layer_run(const edge_linear *layer, const float *x, size_t m, float *out, int32_t *raw);
const char *edge_kernel_set(void);
int edge_self_test(void);
int edge_attention_self_test(void);
int edge_attention_once(const char *set, size_t tokens, size_t heads, size_t kv_heads, size_t dim,
                        size_t window, size_t capacity, const float *rows, float *keys,
                        float *values, const float *cos, const float *sin, float *out);

static int check(const char *set, size_t m, size_t k, size_t n, int transposed) {
    int8_t *w = malloc(k * n); /* exact sizes, so that a byte too far is seen */
    float *x = malloc(m * k * sizeof *x), *scale = calloc(n, sizeof *scale);
    float *out = malloc(m * n * sizeof *out);
    int32_t *raw = malloc(m * n * sizeof *raw);
    for (size_t i = 0; i < k * n; ++i)
        w[i] = (int8_t)(i * 89 % 256 - 128);
    for (size_t i = 0; i < m * k; ++i)
        x[i] = i % k == k / 2 ? 127.0f : (float)((int)(i * 53 % 255) - 127);
    edge_recipe recipe = {.k = k, .n = n, .parts = 1, .transposed = transposed, .zero = 128, .levels = 127,
                          .w = w, .scale = scale};
    edge_linear *layer = edge_layer_new(set, &recipe);
    int wrong = !layer || edge_layer_run(layer, x, m, NULL, raw) || edge_layer_run(layer, x, m, out, NULL);
    for (size_t r = 0; r < m && !wrong; ++r)
        for (size_t c = 0; c < n; ++c) {
            int32_t sum = 0;
            for (size_t i = 0; i < k; ++i)
                sum += (int32_t)x[r * k + i] * (transposed ? w[c * k + i] : w[i * n + c]);
            wrong |= sum != raw[r * n + c] || out[r * n + c] != 0.0f;
        }
    if (layer)
        edge_layer_free(layer);
    recipe.parts = n % 2 ? 1 : 2;
    recipe.n = n / recipe.parts;
    layer = edge_layer_new(set, &recipe);
    wrong |= !layer || edge_layer_run(layer, x, m, out, NULL) || out[m * recipe.n - 1] != 0.0f;
    if (layer)
        edge_layer_free(layer);
    free(w);
    free(x);
    free(scale);
    free(out);
    free(raw);
    return wrong;
}

/* Slots that the tokens fill to the last float, and values of one: so is every mean of them. */
static int attend(const char *set, size_t tokens, size_t group, size_t dim, size_t window) {
    const size_t heads = 2 * group, row = (heads + 4) * dim;
    float *rows = malloc(tokens * row * sizeof *rows), *out = malloc(tokens * heads * dim * sizeof *out);
    float *keys = malloc(2 * tokens * dim * sizeof *keys), *values = malloc(2 * tokens * dim * sizeof *values);
    float *cos = malloc(tokens * dim / 2 * sizeof *cos), *sin = calloc(tokens * dim / 2, sizeof *sin);
    for (size_t i = 0; i < tokens * row; ++i)
        rows[i] = i % row < (heads + 2) * dim ? (float)((int)(i * 53 % 255) - 127) / 64 : 1.0f;
    for (size_t i = 0; i < tokens * dim / 2; ++i)
        cos[i] = 1;
    int wrong = edge_attention_once(set, tokens, heads, 2, dim, window, tokens, rows, keys, values, cos, sin, out);
    for (size_t i = 0; i < tokens * heads * dim && !wrong; ++i)
        wrong |= !(out[i] > 0.9999f && out[i] < 1.0001f);
    wrong |= tokens > 1 && edge_attention_once(set, tokens, heads, 2, dim, window, tokens - 1, rows, keys,
                                               values, cos, sin, out) != -1;
    free(rows);
    free(out);
    free(keys);
    free(values);
    free(cos);
    free(sin);
    return wrong;
}

int main(void) {
    static const char *const sets[] = {"avx512vnni", "avxvnni", "avx2"};
    static const size_t widths[] = {1, 3, 8, 31, 65, 200}, columns[] = {1, 7, 16, 33, 96, 97};
    static const size_t tokens[] = {1, 5, 64, 70, 130}, groups[] = {1, 3, 7}, heads[] = {2, 10, 32, 64, 80};
    int failures = edge_kernel_set() ? (edge_self_test() != 0) + (edge_attention_self_test() != 0) : 0;
    for (size_t s = 0; s < 3; ++s) {
        if (!edge_kernels_named(sets[s]))
            continue;
        printf("%s\n", sets[s]);
        for (size_t t = 0; t < 5; ++t)
            for (size_t g = 0; g < 3; ++g)
                for (size_t d = 0; d < 5; ++d)
                    if (attend(sets[s], tokens[t], groups[g], heads[d], t % 2 ? 33 : 0)) {
                        printf("wrong: %s attention of %zu, group %zu, width %zu\n", sets[s], tokens[t],
                               groups[g], heads[d]);
                        ++failures;
                    }
        for (size_t m = 1; m < 33; ++m)
            for (size_t k = 0; k < 6; ++k)
                for (size_t n = 0; n < 6; ++n)
                    if (check(sets[s], m, widths[k], columns[n], (int)(m + k + n) % 2)) {
                        printf("wrong: %s m %zu k %zu n %zu\n", sets[s], m, widths[k], columns[n]);
                        ++failures;
                    }
    }
    return failures != 0;
}
