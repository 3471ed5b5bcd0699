/* What the two 256-bit sets share: storing 8 sums of a row, and what attention asks for. */
#include <immintrin.h>

static inline __attribute__((always_inline)) void store(const edge_strip *s, edge_target to,
                                                        size_t first, size_t r, size_t column,
                                                        __m256i sum) {
    if (column >= s->columns)
        return;
    const size_t left = s->columns - column;
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(left < 8 ? (int)left : 8), lanes);
    sum = _mm256_sub_epi32(sum, _mm256_loadu_si256((const __m256i *)(s->zeros + column)));
    if (s->raw) {
        _mm256_maskstore_epi32(s->raw + (first + r) * s->stride + column, mask, sum);
        return;
    }
    __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(s->scale + column));
    y = _mm256_mul_ps(y, _mm256_set1_ps(s->peaks[first + r]));
    if (s->bias)
        y = _mm256_add_ps(y, _mm256_loadu_ps(s->bias + column));
    _mm256_maskstore_ps(to.out + r * to.stride + column, mask, y);
}

#define EDGE_TILE 6
static inline edge_vf edge_set(float value) {
    return (edge_vf)_mm256_set1_ps(value);
}
static inline edge_vf edge_fma(edge_vf a, edge_vf b, edge_vf c) {
    return (edge_vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
