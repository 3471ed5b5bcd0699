/* AVX2 without VNNI. Its uint8 x int8 instruction saturates at 16 bits, so bytes are widened
 * and multiplied as 16-bit pairs: exact, at a quarter of the speed. 2 rows by 16 columns. */
#define LANES 8
#include "rows.h"
#include "ymm.h"
#include "attend.h"

enum { MAX_ROWS = 2 };

static inline __attribute__((always_inline)) void tile(const edge_strip *s, edge_target to,
                                                       size_t first, const int rows,
                                                       const int half) {
    __m256i sum[MAX_ROWS][4]; /* 4 columns each, two partial sums a column */
#pragma GCC unroll 2
    for (int r = 0; r < rows; ++r)
        sum[r][0] = sum[r][1] = sum[r][2] = sum[r][3] = _mm256_setzero_si256();
    const uint8_t *q = s->rows + first * s->k;
    const int8_t *w = s->strip;
    for (const int8_t *end = w + s->k * EDGE_STRIP; w != end; w += 128) {
        _mm_prefetch((const char *)w + half * EDGE_LINE + EDGE_AHEAD, _MM_HINT_T0);
        __m256i x[MAX_ROWS];
#pragma GCC unroll 2
        for (int r = 0; r < rows; ++r) {
            int32_t four;
            memcpy(&four, q + r * 4, sizeof four);
            x[r] = _mm256_cvtepu8_epi16(_mm_set1_epi32(four));
        }
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) {
            const __m256i wide = _mm256_cvtepi8_epi16(
                _mm_load_si128((const __m128i *)(w + half * EDGE_LINE + 16 * c)));
#pragma GCC unroll 2
            for (int r = 0; r < rows; ++r)
                sum[r][c] = _mm256_add_epi32(sum[r][c], _mm256_madd_epi16(x[r], wide));
        }
        q += rows * 4;
    }
#pragma GCC unroll 2
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
        for (int c = 0; c < 2; ++c) {
            /* Adding neighbours works in 128-bit lanes: columns 0 1 4 5 | 2 3 6 7. */
            const __m256i pair = _mm256_hadd_epi32(sum[r][2 * c], sum[r][2 * c + 1]);
            store(s, to, first, (size_t)r, (size_t)(16 * half + 8 * c),
                  _mm256_permute4x64_epi64(pair, 0xd8));
        }
}

static void strip(const edge_strip *s) {
    float beside[MAX_ROWS * EDGE_STRIP];
    size_t rows;
    for (size_t first = 0; first < s->m; first += rows) {
        rows = edge_tile_rows(s->m, first, MAX_ROWS);
        const edge_target to = edge_tile_target(s, first, beside);
        if (rows == 1) {
            tile(s, to, first, 1, 0);
            tile(s, to, first, 1, 1);
        } else {
            tile(s, to, first, 2, 0);
            tile(s, to, first, 2, 1);
        }
        edge_tile_done(s, first, rows, beside);
    }
}

const edge_kernels edge_avx2 = {"avx2", MAX_ROWS, edge_quantize, strip, edge_attend};
