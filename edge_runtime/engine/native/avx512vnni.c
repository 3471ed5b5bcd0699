/* AVX-512 with VNNI: 14 rows by 32 columns in 28 of the 32 registers. */
#define LANES 16
#include "rows.h"

#include <immintrin.h>

enum { MAX_ROWS = 14 };

#define EDGE_TILE 14
static inline edge_vf edge_set(float value) {
    return (edge_vf)_mm512_set1_ps(value);
}
static inline edge_vf edge_fma(edge_vf a, edge_vf b, edge_vf c) {
    return (edge_vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
#include "attend.h"

static inline __attribute__((always_inline)) void store(const edge_strip *s, edge_target to,
                                                        size_t first, size_t r, int half,
                                                        __mmask16 mask, __m512i sum) {
    sum = _mm512_sub_epi32(sum, _mm512_loadu_si512(s->zeros + 16 * half));
    if (s->raw) {
        _mm512_mask_storeu_epi32(s->raw + (first + r) * s->stride + 16 * half, mask, sum);
        return;
    }
    __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(s->scale + 16 * half));
    y = _mm512_mul_ps(y, _mm512_set1_ps(s->peaks[first + r]));
    if (s->bias)
        y = _mm512_add_ps(y, _mm512_loadu_ps(s->bias + 16 * half));
    _mm512_mask_storeu_ps(to.out + r * to.stride + 16 * half, mask, y);
}

/* Four k of one row times 32 columns. Written out because compilers that choose the order
 * themselves load the rows early and then run out of registers for the sums. */
static inline __attribute__((always_inline)) void multiply(__m512i *sum0, __m512i *sum1,
                                                           const uint8_t *four, __m512i w0,
                                                           __m512i w1) {
    __m512i x;
    __asm__("vpbroadcastd %[four], %[x]\n\t"
            "vpdpbusd %[w0], %[x], %[sum0]\n\t"
            "vpdpbusd %[w1], %[x], %[sum1]"
            : [sum0] "+v"(*sum0), [sum1] "+v"(*sum1), [x] "=&v"(x)
            : [four] "m"(*(const uint8_t(*)[4])four), [w0] "v"(w0), [w1] "v"(w1));
}

/* `fetch`: lines at `ahead` fetched for each 4 lines used; 4 means that memory is the limit, so
 * the lines are wanted soon. Constant, like `rows`, in each call. */
static inline __attribute__((always_inline)) void tile(const edge_strip *s, edge_target to,
                                                       size_t first, const int8_t *ahead,
                                                       const int rows, const int fetch) {
    __m512i sum[MAX_ROWS][2];
#pragma GCC unroll 14
    for (int r = 0; r < rows; ++r)
        sum[r][0] = sum[r][1] = _mm512_setzero_si512();
    const uint8_t *q = s->rows + first * s->k;
    const int8_t *w = s->strip;
    for (const int8_t *end = w + s->k * EDGE_STRIP; w != end; w += 256) {
#pragma GCC unroll 4
        for (int line = 0; line < fetch; ++line)
            if (fetch == 4)
                _mm_prefetch((const char *)ahead + line * EDGE_LINE, _MM_HINT_T0);
            else
                _mm_prefetch((const char *)ahead + line * EDGE_LINE, _MM_HINT_T1);
        ahead += fetch * EDGE_LINE;
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const __m512i w0 = _mm512_load_si512(w + half * 128);
            const __m512i w1 = _mm512_load_si512(w + half * 128 + 64);
#pragma GCC unroll 14
            for (int r = 0; r < rows; ++r) {
                multiply(&sum[r][0], &sum[r][1], q + (half * rows + r) * 4, w0, w1);
            }
        }
        q += rows * 8;
    }
    const __mmask16 mask0 = (__mmask16)(s->columns >= 16 ? 0xffff : (1u << s->columns) - 1);
    const __mmask16 mask1 =
        (__mmask16)(s->columns >= 32 ? 0xffff
                                     : s->columns <= 16 ? 0 : (1u << (s->columns - 16)) - 1);
#pragma GCC unroll 14
    for (int r = 0; r < rows; ++r) {
        store(s, to, first, (size_t)r, 0, mask0, sum[r][0]);
        store(s, to, first, (size_t)r, 1, mask1, sum[r][1]);
    }
}

#define ROWS(n)                              \
    case n:                                  \
        if (fetch == 4)                      \
            tile(s, to, first, ahead, n, 4); \
        else if (fetch == 2)                 \
            tile(s, to, first, ahead, n, 2); \
        else if (fetch == 1)                 \
            tile(s, to, first, ahead, n, 1); \
        else                                 \
            tile(s, to, first, ahead, n, 0); \
        break;

static void strip(const edge_strip *s) {
    const size_t bytes = s->k * EDGE_STRIP;
    const size_t tiles = (s->m + MAX_ROWS - 1) / MAX_ROWS;
    /* One tile: stay a fixed distance ahead. More: the next strip is fetched while this one is
     * used again and again, evenly over the first two or four tiles. */
    const int pace = tiles == 1 ? 4 : tiles < 4 ? 2 : 1;
    const size_t fetching = tiles == 1 ? 1 : (size_t)(4 / pace);
    const int8_t *ahead = s->strip + (tiles == 1 ? (size_t)EDGE_AHEAD : bytes);
    float beside[MAX_ROWS * EDGE_STRIP];
    size_t rows, index = 0;
    for (size_t first = 0; first < s->m; first += rows, ++index) {
        const int fetch = index < fetching ? pace : 0;
        rows = edge_tile_rows(s->m, first, MAX_ROWS);
        const edge_target to = edge_tile_target(s, first, beside);
        switch (rows) {
            ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7)
            ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14)
        }
        edge_tile_done(s, first, rows, beside);
        ahead += bytes / fetching;
    }
}

const edge_kernels edge_avx512vnni = {"avx512vnni", MAX_ROWS, edge_quantize, strip, edge_attend};
