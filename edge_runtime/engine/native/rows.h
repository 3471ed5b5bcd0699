/* Quantising rows and gating results, written once over vectors of LANES floats and compiled for each set.
 *
 * Every step is one IEEE operation a lane, so all sets give the same bytes.
 */
#include <stdint.h>
#include <string.h>

#include "kernels.h"

typedef float edge_vf __attribute__((vector_size(LANES * 4)));
typedef int32_t edge_vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t edge_vu __attribute__((vector_size(LANES * 4)));
typedef uint8_t edge_vb __attribute__((vector_size(LANES)));

static inline edge_vf edge_all(float value) {
    return value - (edge_vf){0};
}

static inline edge_vf edge_load(const float *from, size_t count) {
    edge_vf value = {0};
    if (count >= LANES)
        memcpy(&value, from, sizeof value);
    else
        memcpy(&value, from, count * sizeof(float));
    return value;
}

static inline edge_vu edge_max_magnitude(edge_vu peak, edge_vf value) {
    const edge_vu bits = (edge_vu)value & 0x7fffffffu;
    const edge_vu larger = (edge_vu)(bits > peak);
    return (bits & larger) | (peak & ~larger);
}

/* As integers, so that NaN and infinity are larger than every number. */
static inline float edge_peak(edge_vu magnitudes) {
    uint32_t bits = 0;
    for (int lane = 0; lane < LANES; ++lane)
        bits = magnitudes[lane] > bits ? magnitudes[lane] : bits;
    float peak;
    memcpy(&peak, &bits, sizeof peak);
    return peak;
}

static inline edge_vf edge_select(edge_vi mask, edge_vf yes, edge_vf no) {
    return (edge_vf)((mask & (edge_vi)yes) | (~mask & (edge_vi)no));
}

static inline edge_vb edge_bytes(const edge_grid *grid, edge_vf value, float peak) {
    const edge_vf most = edge_all((float)(255 - grid->zero)), least = edge_all((float)-grid->zero);
    edge_vf code = value / peak / grid->step;
    code = edge_select(code > most, most, code);
    code = edge_select(code < least, least, code);
    /* Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low bits. */
    const edge_vi whole = (edge_vi)(code + 12582912.0f) + grid->zero;
    return __builtin_convertvector((edge_vu)whole, edge_vb);
}

static inline void edge_fill(const edge_grid *grid, const float *x, size_t k, size_t k_padded,
                             float peak, uint8_t *q) {
    if (!(peak > 0)) { /* zeros, or not a number: the bytes do not matter, y is peak times them */
        memset(q, grid->zero, k_padded);
        return;
    }
    size_t i = 0;
    for (; i + LANES <= k; i += LANES) {
        const edge_vb bytes = edge_bytes(grid, edge_load(x + i, LANES), peak);
        memcpy(q + i, &bytes, LANES);
    }
    if (i < k_padded) {
        const edge_vb bytes = edge_bytes(grid, edge_load(x + i, k - i), peak);
        memcpy(q + i, &bytes, k_padded - i);
    }
}

static float edge_quantize(const edge_grid *grid, const float *x, size_t k, size_t k_padded,
                           uint8_t *q) {
    edge_vu magnitudes = {0};
    edge_vf highest = edge_all(grid->floor);
    for (size_t i = 0; i < k; i += LANES) {
        const edge_vf value = edge_load(x + i, k - i);
        magnitudes = edge_max_magnitude(magnitudes, value);
        highest = edge_select(value > highest, value, highest);
    }
    float peak = edge_peak(magnitudes);
    if (grid->one_sided && peak <= 3.4028235e38f) { /* what is not finite stays the peak */
        peak = grid->floor;
        for (int lane = 0; lane < LANES; ++lane)
            peak = highest[lane] > peak ? highest[lane] : peak;
    }
    edge_fill(grid, x, k, k_padded, peak, q);
    return peak;
}

/* exp(x) to 2 units in the last place for |x| <= 88; beyond, the value at the bound. */
static inline edge_vf edge_exp(edge_vf x) {
    const edge_vf high = edge_all(88.0f), low = edge_all(-87.0f);
    x = edge_select(x > high, high, x);
    x = edge_select(x < low, low, x);
    const edge_vf shifted = x * 1.44269504f + 12582912.0f;
    const edge_vf n = shifted - 12582912.0f;
    const edge_vf r = (x - n * 0.693359375f) - n * -2.12194440e-4f; /* ln 2 in two parts */
    edge_vf p = edge_all(1.9875691500e-4f); /* Cephes' expf: minimax on |r| <= ln 2 / 2 */
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const edge_vi power = ((edge_vi)shifted - 0x4b400000 + 127) << 23;
    return p * (edge_vf)power;
}

/* g[i] = silu(g[i]) * y[i], where silu(g) = g / (1 + exp(-g)). */
static void edge_gate(float *g, const float *y, size_t count) {
    for (size_t i = 0; i < count; i += LANES) {
        const edge_vf gate = edge_load(g + i, count - i);
        const edge_vf h = gate / (1.0f + edge_exp(-gate)) * edge_load(y + i, count - i);
        memcpy(g + i, &h, (count - i < LANES ? count - i : LANES) * sizeof(float));
    }
}

/* Where a tile's results go: straight to the output, or first beside the gates they belong to. */
typedef struct {
    float *out;
    size_t stride;
} edge_target;

static inline edge_target edge_tile_target(const edge_strip *s, size_t first, float *beside) {
    if (s->gated)
        return (edge_target){beside, EDGE_STRIP};
    return (edge_target){s->raw ? NULL : s->out + first * s->stride, s->stride};
}

static inline void edge_tile_done(const edge_strip *s, size_t first, size_t rows,
                                  const float *beside) {
    if (!s->gated)
        return;
    for (size_t r = 0; r < rows; ++r)
        edge_gate(s->out + (first + r) * s->stride, beside + r * EDGE_STRIP, s->columns);
}
