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

static inline edge_vb edge_bytes(edge_vf value, edge_vf peak) {
    const edge_vf step = edge_all(1.0f / 127.0f);
    /* Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low bits. */
    const edge_vf rounded = value / peak / step + 12582912.0f;
    return __builtin_convertvector((edge_vu)rounded ^ 0x80u, edge_vb);
}

static inline void edge_fill(const float *x, size_t k, size_t k_padded, float peak, uint8_t *q) {
    if (!(peak > 0)) { /* zeros, or not a number: the bytes do not matter, y is peak times them */
        memset(q, 128, k_padded);
        return;
    }
    const edge_vf peaks = edge_all(peak);
    size_t i = 0;
    for (; i + LANES <= k; i += LANES) {
        const edge_vb bytes = edge_bytes(edge_load(x + i, LANES), peaks);
        memcpy(q + i, &bytes, LANES);
    }
    if (i < k_padded) {
        const edge_vb bytes = edge_bytes(edge_load(x + i, k - i), peaks);
        memcpy(q + i, &bytes, k_padded - i);
    }
}

static float edge_quantize(const float *x, size_t k, size_t k_padded, uint8_t *q) {
    edge_vu magnitudes = {0};
    for (size_t i = 0; i < k; i += LANES)
        magnitudes = edge_max_magnitude(magnitudes, edge_load(x + i, k - i));
    const float peak = edge_peak(magnitudes);
    edge_fill(x, k, k_padded, peak, q);
    return peak;
}

static inline edge_vf edge_select(edge_vi mask, edge_vf yes, edge_vf no) {
    return (edge_vf)((mask & (edge_vi)yes) | (~mask & (edge_vi)no));
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
