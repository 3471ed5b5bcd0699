/* Per-row INT8 linear layers: y = (q(x) @ w) * peak(x) * scale + bias.
 *
 *   peak = max|x| of the row;  q = round(x / peak / step) + zero as uint8, ties to even
 *   y[n] = (sum_k (q[k] - zero) * w[k][n]) * (step * scale[n]) * peak + bias[n]
 *
 * with zero = 128 and step = 1/127. Rows that are known never to lie far below zero (behind GELU
 * or ReLU) may take a lower zero, a finer step and peak = max(max x, floor): their codes are then
 * spent above zero.
 *
 * Rules
 * - The sum is exact in int32 (k <= EDGE_MAX_K), so neither the instruction set nor the number
 *   of rows, threads or columns computed together can change one bit of a row.
 * - Float steps are single multiplications and additions in the order above; the files are
 *   compiled without contraction. The portable graph takes the same steps in the same order.
 * - A row with NaN or infinity gives NaN or infinity in that row and nowhere else.
 *
 * Layout of packed weights: strips of 32 columns; in a strip, groups of 4 k; in a group 32
 * columns of 4 bytes, 128 bytes in all. A strip is one contiguous stream and strips follow each
 * other, so a thread reads memory strictly forwards. k is padded to a multiple of 8 and columns
 * to 32, both with zeros.
 *
 * Layout of quantised rows: tiles of up to `max_rows` rows; in a tile, groups of 4 k; in a group
 * 4 bytes of each row of the tile. The inner loop then reads one stream of its own.
 */
#ifndef EDGE_KERNELS_H
#define EDGE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum {
    EDGE_STRIP = 32,    /* columns of a strip */
    EDGE_K_STEP = 8,    /* k is padded to a multiple of this */
    EDGE_MAX_K = 65536, /* 255 * 128 * 65536 < 2^31 */
    EDGE_LINE = 64,
    EDGE_AHEAD = 4096, /* bytes fetched ahead where memory is the limit */
    EDGE_KEY_BLOCK = 64,   /* keys that attention takes together */
    EDGE_WIDTH_STEP = 32,  /* a head's width is padded to a multiple of this */
    EDGE_MAX_WIDTH = 1024, /* of a head */
    EDGE_TILE_MOST = 14,   /* query rows of a tile, in the set with most registers */
};

/* How rows become bytes. */
typedef struct {
    int zero;      /* 0..128 */
    float step;
    int one_sided; /* peak = max(max x, floor) instead of max|x| */
    float floor;
} edge_grid;

/* One strip against all rows. */
typedef struct {
    const uint8_t *rows;  /* tiles of quantised rows */
    const float *peaks;   /* [m] */
    size_t m;
    size_t k;             /* padded */
    const int8_t *strip;  /* k * 32 bytes; what lies behind it is read next */
    const int32_t *zeros; /* [32] zero * sum of each column */
    const float *scale;   /* [32] step * scale of each column */
    const float *bias;    /* [32] or NULL */
    float *out;           /* row r at out + r * stride */
    int gated;            /* out holds g: it becomes silu(g) * y instead of y */
    int32_t *raw;         /* when not NULL the exact sums go here instead */
    size_t stride;
    size_t columns;       /* 1..32 of the strip that exist */
} edge_strip;

/* Some queries of one slot against one of its key heads; the keys are all in place. */
typedef struct {
    const float *q;             /* query i, head h of the group at q + i * q_row + h * dim */
    float *out;                 /* the same with out_row */
    const float *keys, *values; /* [first + queries, dim] */
    const float *cos, *sin;     /* [first + queries, dim / 2] */
    size_t q_row, out_row;
    size_t queries, first;      /* the first query's place in its sequence */
    size_t group, dim, window;  /* window 0: all keys */
    float scale;
    const float *next_keys;     /* fetched ahead: the first keys of what comes next */
    size_t next_count;
} edge_queries;

typedef struct {
    const char *name;
    size_t max_rows; /* of a tile */
    /* Quantise one row of k floats to k_padded bytes; returns the peak. */
    float (*quantize)(const edge_grid *grid, const float *x, size_t k, size_t k_padded, uint8_t *q);
    void (*strip)(const edge_strip *);
    /* `memory`: edge_attend_floats of it, aligned to a line. */
    void (*attend)(const edge_queries *, float *memory);
} edge_kernels;

/* Rows of the tile that starts at row `first`, when m rows are dealt out evenly. */
static inline size_t edge_tile_rows(size_t m, size_t first, size_t max_rows) {
    const size_t tiles = (m + max_rows - 1) / max_rows;
    const size_t small = m / tiles;
    const size_t large_rows = (m % tiles) * (small + 1);
    return first < large_rows ? small + 1 : small;
}

static inline size_t edge_round_up(size_t value, size_t step) {
    return (value + step - 1) / step * step;
}

/* Working memory of one `attend`. */
static inline size_t edge_attend_floats(size_t queries, size_t group, size_t dim) {
    const size_t rows = queries * group, blocks = edge_round_up(dim, EDGE_KEY_BLOCK);
    const size_t width = edge_round_up(dim, EDGE_WIDTH_STEP);
    return blocks * EDGE_KEY_BLOCK + EDGE_KEY_BLOCK * width + EDGE_TILE_MOST * EDGE_KEY_BLOCK +
           rows * (blocks + width + 17);
}

extern const edge_kernels edge_avx512vnni;
extern const edge_kernels edge_avxvnni;
extern const edge_kernels edge_avx2;

/* The fastest set that this processor and its system can run; NULL if none can. */
const edge_kernels *edge_best_kernels(void);
/* The set of that name if it can run here, else NULL. */
const edge_kernels *edge_kernels_named(const char *name);

#endif
