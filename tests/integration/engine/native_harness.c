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

int main(void) {
    static const char *const sets[] = {"avx512vnni", "avxvnni", "avx2"};
    static const size_t widths[] = {1, 3, 8, 31, 65, 200}, columns[] = {1, 7, 16, 33, 96, 97};
    int failures = edge_kernel_set() ? edge_self_test() != 0 : 0;
    for (size_t s = 0; s < 3; ++s) {
        if (!edge_kernels_named(sets[s]))
            continue;
        printf("%s\n", sets[s]);
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
