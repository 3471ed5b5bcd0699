/* AVX-VNNI (256 bits, no AVX-512): 3 rows by 32 columns in 12 of the 16 registers. */
#define LANES 8
#include "rows.h"
#include "ymm.h"
#include "attend.h"

enum { MAX_ROWS = 3 };

static inline __attribute__((always_inline)) void tile(const edge_strip *s, edge_target to,
                                                       size_t first, const int rows) {
    __m256i sum[MAX_ROWS][4];
#pragma GCC unroll 3
    for (int r = 0; r < rows; ++r)
        sum[r][0] = sum[r][1] = sum[r][2] = sum[r][3] = _mm256_setzero_si256();
    const uint8_t *q = s->rows + first * s->k;
    const int8_t *w = s->strip;
    for (const int8_t *end = w + s->k * EDGE_STRIP; w != end; w += 128) {
        _mm_prefetch((const char *)w + EDGE_AHEAD, _MM_HINT_T0);
        _mm_prefetch((const char *)w + EDGE_AHEAD + EDGE_LINE, _MM_HINT_T0);
#pragma GCC unroll 3
        for (int r = 0; r < rows; ++r) {
            int32_t four;
            memcpy(&four, q + r * 4, sizeof four);
            const __m256i x = _mm256_set1_epi32(four);
#pragma GCC unroll 4
            for (int c = 0; c < 4; ++c)
                sum[r][c] = _mm256_dpbusd_avx_epi32(
                    sum[r][c], x, _mm256_load_si256((const __m256i *)(w + 32 * c)));
        }
        q += rows * 4;
    }
#pragma GCC unroll 3
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c)
            store(s, to, first, (size_t)r, (size_t)(8 * c), sum[r][c]);
}

static void strip(const edge_strip *s) {
    float beside[MAX_ROWS * EDGE_STRIP];
    size_t rows;
    for (size_t first = 0; first < s->m; first += rows) {
        rows = edge_tile_rows(s->m, first, MAX_ROWS);
        const edge_target to = edge_tile_target(s, first, beside);
        switch (rows) {
        case 1:
            tile(s, to, first, 1);
            break;
        case 2:
            tile(s, to, first, 2);
            break;
        default:
            tile(s, to, first, 3);
        }
        edge_tile_done(s, first, rows, beside);
    }
}

const edge_kernels edge_avxvnni = {"avxvnni", MAX_ROWS, edge_quantize, strip, edge_attend};
