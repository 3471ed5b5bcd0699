/* Queries of one slot and key head against its keys and values, written once over vectors of
 * LANES floats; include behind rows.h with EDGE_TILE, the rows that fit the registers, and
 * edge_fma. Arithmetic and rules: attention.h. */

enum {
    BLOCK = EDGE_KEY_BLOCK,
    PAIR = 2 * LANES, /* columns of a product */
    PARTS = 16,       /* sums of weights a row, whatever the set: the same bits from each */
};

#if LANES == 16
#define EDGE_LOW(a, b) \
    __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define EDGE_HIGH(a, b) \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#else
#define EDGE_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define EDGE_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#endif

/* LANES keys x LANES columns from `rows` into `to`, columns first, BLOCK apart. */
static inline __attribute__((always_inline)) void turn(const float *const *rows, size_t column,
                                                       float *to) {
    edge_vf a[LANES], b[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i)
        memcpy(&a[i], rows[i] + column, sizeof a[i]);
#pragma GCC unroll 4
    for (int stage = 1; stage < LANES; stage *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; ++i) {
            b[2 * i] = EDGE_LOW(a[i], a[i + LANES / 2]);
            b[2 * i + 1] = EDGE_HIGH(a[i], a[i + LANES / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i)
            a[i] = b[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i)
        memcpy(to + i * BLOCK, &a[i], sizeof a[i]);
}

/* Memory wanted soon, fetched evenly while there is work to do: turning a block of keys fetches
 * the block of values beside it, and multiplying fetches the block of keys that comes next. */
typedef struct {
    const char *at, *end;
} edge_fetch;

static inline edge_fetch edge_fetch_floats(const float *from, size_t floats) {
    return (edge_fetch){(const char *)from, (const char *)(from + floats)};
}

/* The first `count` keys as [dim][BLOCK]; places behind them repeat the last, which nobody uses. */
static void turn_keys(const float *keys, size_t count, size_t dim, float *to, edge_fetch fetch) {
    for (size_t first = 0; first < edge_round_up(count, PAIR); first += LANES) {
        const float *rows[LANES];
        for (size_t i = 0; i < LANES; ++i)
            rows[i] = keys + (first + i < count ? first + i : count - 1) * dim;
        size_t d = 0;
        for (; d + LANES <= dim; d += LANES) {
            for (int line = 0; line < LANES * LANES / 16 && fetch.at < fetch.end; ++line) {
                _mm_prefetch(fetch.at, _MM_HINT_T0);
                fetch.at += EDGE_LINE;
            }
            turn(rows, d, to + d * BLOCK + first);
        }
        for (; d < dim; ++d)
            for (size_t i = 0; i < LANES; ++i)
                to[d * BLOCK + first + i] = rows[i][d];
    }
}

/* c[r][0 .. PAIR) += sum over i of a[r][i] * b[i][0 .. PAIR), in the order of i. Rows of a are
 * BLOCK apart. */
static inline __attribute__((always_inline)) void product(const float *a, const float *b,
                                                          size_t b_row, size_t count, float *c,
                                                          size_t c_row, const int rows,
                                                          const int fresh, edge_fetch *fetch) {
    const char *ahead = fetch->at, *const end = fetch->end;
    edge_vf sum[EDGE_TILE][2];
#pragma GCC unroll 14
    for (int r = 0; r < rows; ++r) {
        sum[r][0] = sum[r][1] = (edge_vf){0};
        if (!fresh) {
            memcpy(&sum[r][0], c + (size_t)r * c_row, sizeof sum[r][0]);
            memcpy(&sum[r][1], c + (size_t)r * c_row + LANES, sizeof sum[r][1]);
        }
    }
    for (size_t i = 0; i < count; ++i) {
        edge_vf b0, b1;
        memcpy(&b0, b, sizeof b0);
        memcpy(&b1, b + LANES, sizeof b1);
        b += b_row;
        _mm_prefetch(ahead, _MM_HINT_T0);
        ahead += ahead < end ? EDGE_LINE : 0;
#pragma GCC unroll 14
        for (int r = 0; r < rows; ++r) {
            const edge_vf x = edge_set(a[r * BLOCK + i]);
            sum[r][0] = edge_fma(x, b0, sum[r][0]);
            sum[r][1] = edge_fma(x, b1, sum[r][1]);
        }
    }
    fetch->at = ahead;
#pragma GCC unroll 14
    for (int r = 0; r < rows; ++r) {
        memcpy(c + (size_t)r * c_row, &sum[r][0], sizeof sum[r][0]);
        memcpy(c + (size_t)r * c_row + LANES, &sum[r][1], sizeof sum[r][1]);
    }
}

typedef struct {
    const float *a, *b;
    float *c;
    size_t b_row, c_row, count, columns;
    edge_fetch *fetch;
} edge_product;

static inline __attribute__((always_inline)) void across(const edge_product *p, const int rows,
                                                         const int fresh) {
    for (size_t column = 0; column < p->columns; column += PAIR)
        product(p->a, p->b + column, p->b_row, p->count, p->c + column, p->c_row, rows, fresh,
                p->fetch);
}

#define EDGE_CASE(n)         \
    case n:                  \
        if (fresh)           \
            across(p, n, 1); \
        else                 \
            across(p, n, 0); \
        break;

static void multiply_rows(const edge_product *p, size_t rows, int fresh) {
    switch (rows) {
        EDGE_CASE(1) EDGE_CASE(2) EDGE_CASE(3) EDGE_CASE(4) EDGE_CASE(5) EDGE_CASE(6)
#if EDGE_TILE > 6
        EDGE_CASE(7) EDGE_CASE(8) EDGE_CASE(9) EDGE_CASE(10) EDGE_CASE(11) EDGE_CASE(12)
        EDGE_CASE(13) EDGE_CASE(14)
#endif
    }
}

/* exp(x) for x <= 0 to 2 units in the last place; below -87 the value there; 1 at 0. */
static inline edge_vf edge_exp_fused(edge_vf x) {
    const edge_vf low = edge_set(-87.0f), magic = edge_set(12582912.0f);
    x = edge_select(x < low, low, x); /* NaN stays */
    const edge_vf shifted = edge_fma(x, edge_set(1.44269504f), magic);
    const edge_vf n = shifted - magic;
    edge_vf r = edge_fma(n, edge_set(-0.693359375f), x);
    r = edge_fma(n, edge_set(2.12194440e-4f), r);
    edge_vf p = edge_set(1.9875691500e-4f); /* as edge_exp */
    p = edge_fma(p, r, edge_set(1.3981999507e-3f));
    p = edge_fma(p, r, edge_set(8.3334519073e-3f));
    p = edge_fma(p, r, edge_set(4.1665795894e-2f));
    p = edge_fma(p, r, edge_set(1.6666665459e-1f));
    p = edge_fma(p, r, edge_set(5.0000001201e-1f));
    p = edge_fma(p, r * r, r) + 1.0f;
    const edge_vi power = ((edge_vi)shifted - 0x4b400000 + 127) << 23;
    return p * (edge_vf)power;
}

static inline float edge_largest(edge_vf value) {
#if LANES == 16
    edge_vf other = __builtin_shufflevector(value, value, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3,
                                            4, 5, 6, 7);
    value = edge_select(other > value, other, value);
    other = __builtin_shufflevector(value, value, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3);
    value = edge_select(other > value, other, value);
#else
    edge_vf other = __builtin_shufflevector(value, value, 4, 5, 6, 7, 0, 1, 2, 3);
    value = edge_select(other > value, other, value);
#endif
    float most = value[0];
    for (int i = 1; i < 4; ++i)
        most = value[i] > most ? value[i] : most;
    return most;
}

/* Scores of one row become weights; only places lo .. hi - 1 of the block count. `sums` holds the
 * row's sums, `width` floats of values and PARTS of weights, which a higher peak scales down. */
static void weigh(float *scores, size_t lo, size_t hi, float *peak, float *sums, size_t width) {
    edge_vi place;
    for (int lane = 0; lane < LANES; ++lane)
        place[lane] = lane;
    const edge_vi from = (edge_vi){0} + (int32_t)lo, to = (edge_vi){0} + (int32_t)hi;
    const size_t first = lo / PARTS * PARTS, end = edge_round_up(hi, PARTS);
    edge_vf most = edge_set(*peak);
    for (size_t i = first; i < end; i += LANES) {
        const edge_vi at = place + (int32_t)i;
        edge_vf s;
        memcpy(&s, scores + i, sizeof s);
        s = edge_select((at >= from) & (at < to), s, most);
        most = edge_select(s > most, s, most);
    }
    const float now = edge_largest(most);
    if (now > *peak) {
        const edge_vf factor = edge_exp_fused(edge_set(*peak - now));
        for (size_t i = 0; i < width + PARTS; i += LANES) {
            edge_vf sum;
            memcpy(&sum, sums + i, sizeof sum);
            sum = sum * factor;
            memcpy(sums + i, &sum, sizeof sum);
        }
        *peak = now;
    }
    const edge_vf top = edge_set(*peak);
    for (size_t i = first; i < end; i += LANES) {
        const edge_vi at = place + (int32_t)i;
        edge_vf p, sum;
        memcpy(&p, scores + i, sizeof p);
        p = edge_select((at >= from) & (at < to), edge_exp_fused(p - top), (edge_vf){0});
        memcpy(scores + i, &p, sizeof p);
        memcpy(&sum, sums + width + i % PARTS, sizeof sum);
        sum = sum + p;
        memcpy(sums + width + i % PARTS, &sum, sizeof sum);
    }
}

/* One query row, turned to its place and scaled, in pieces of BLOCK columns. */
static void place_query(const edge_queries *task, size_t row, size_t rows, float *q) {
    const size_t half = task->dim / 2, index = row / task->group;
    const float *x = task->q + index * task->q_row + row % task->group * task->dim;
    const float *cos = task->cos + (task->first + index) * half;
    const float *sin = task->sin + (task->first + index) * half;
    float turned[EDGE_MAX_WIDTH];
    for (size_t i = 0; i < half; ++i) {
        turned[i] = (x[i] * cos[i] - x[half + i] * sin[i]) * task->scale;
        turned[half + i] = (x[half + i] * cos[i] + x[i] * sin[i]) * task->scale;
    }
    for (size_t d = 0; d < task->dim; d += BLOCK)
        memcpy(q + (d * rows + row * BLOCK), turned + d,
               (task->dim - d < BLOCK ? task->dim - d : BLOCK) * sizeof *q);
}

typedef struct {
    float *q, *scores, *sums, *peaks, *turned, *values;
    size_t rows, width, sums_row;
    edge_fetch next;
} edge_desk;

/* Places of the block at `base` that the query of `row` sees: lo .. hi - 1. */
static inline void seen(const edge_queries *task, size_t row, size_t base, size_t *lo, size_t *hi) {
    const size_t end = task->first + row / task->group + 1;
    const size_t start = task->window && end > task->window ? end - task->window : 0;
    *lo = start > base ? start - base : 0;
    *hi = end <= base ? 0 : end - base < BLOCK ? end - base : BLOCK;
}

/* Rows `row` .. `row + rows - 1` against the block at `base`. */
static void attend_tile(const edge_queries *task, edge_desk *desk, size_t row, size_t rows,
                        size_t base, const float *values, size_t values_row) {
    size_t lo[EDGE_TILE], hi[EDGE_TILE];
    for (size_t r = 0; r < rows; ++r)
        seen(task, row + r, base, &lo[r], &hi[r]);
    if (hi[rows - 1] <= lo[0]) /* lo and hi rise with the row */
        return;
    float *scores = desk->scores;
    for (size_t d = 0; d < task->dim; d += BLOCK) {
        const edge_product p = {
            .a = desk->q + (d * desk->rows + row * BLOCK), .b = desk->turned + d * BLOCK,
            .c = scores, .b_row = BLOCK, .c_row = BLOCK,
            .count = task->dim - d < BLOCK ? task->dim - d : BLOCK,
            .columns = edge_round_up(hi[rows - 1], PAIR), .fetch = &desk->next};
        multiply_rows(&p, rows, d == 0);
    }
    for (size_t r = 0; r < rows; ++r)
        if (hi[r] > lo[r])
            weigh(scores + r * BLOCK, lo[r], hi[r], &desk->peaks[row + r],
                  desk->sums + (row + r) * desk->sums_row, desk->width);
    for (size_t r = 0, same; r < rows; r += same) {
        for (same = 1; r + same < rows && lo[r + same] == lo[r] && hi[r + same] == hi[r];)
            ++same;
        if (hi[r] <= lo[r])
            continue;
        const edge_product p = {
            .a = scores + r * BLOCK + lo[r], .b = values + lo[r] * values_row,
            .c = desk->sums + (row + r) * desk->sums_row, .b_row = values_row,
            .c_row = desk->sums_row, .count = hi[r] - lo[r], .columns = desk->width,
            .fetch = &desk->next};
        multiply_rows(&p, same, 0);
    }
}

static void finish(const edge_queries *task, const edge_desk *desk) {
    for (size_t row = 0; row < desk->rows; ++row) {
        const float *sums = desk->sums + row * desk->sums_row, *parts = sums + desk->width;
        float four[4], *out = task->out + row / task->group * task->out_row +
                              row % task->group * task->dim;
        for (int i = 0; i < 4; ++i)
            four[i] = (parts[i] + parts[i + 8]) + (parts[i + 4] + parts[i + 12]);
        const float share = 1.0f / ((four[0] + four[2]) + (four[1] + four[3]));
        for (size_t d = 0; d < task->dim; ++d)
            out[d] = sums[d] * share;
    }
}

static void edge_attend(const edge_queries *task, float *memory) {
    const size_t dim = task->dim, rows = task->queries * task->group;
    edge_desk desk = {.rows = rows, .width = edge_round_up(dim, EDGE_WIDTH_STEP)};
    desk.sums_row = desk.width + PARTS;
    desk.turned = memory;
    desk.values = desk.turned + edge_round_up(dim, BLOCK) * BLOCK;
    desk.scores = desk.values + BLOCK * desk.width;
    desk.q = desk.scores + EDGE_TILE_MOST * BLOCK;
    desk.sums = desk.q + rows * edge_round_up(dim, BLOCK);
    desk.peaks = desk.sums + rows * desk.sums_row;
    memset(desk.sums, 0, rows * desk.sums_row * sizeof(float));
    for (size_t row = 0; row < rows; ++row) {
        place_query(task, row, rows, desk.q);
        desk.peaks[row] = -__builtin_inff();
    }
    const size_t end = task->first + task->queries;
    const size_t start =
        task->window && task->first + 1 > task->window ? task->first + 1 - task->window : 0;
    for (size_t base = start / BLOCK * BLOCK; base < end; base += BLOCK) {
        const size_t count = end - base < BLOCK ? end - base : BLOCK;
        const float *values = task->values + base * dim;
        const size_t next = end - base - count < BLOCK ? end - base - count : BLOCK;
        desk.next = next ? edge_fetch_floats(task->keys + (base + count) * dim, next * dim)
                         : edge_fetch_floats(task->next_keys, task->next_count * dim);
        turn_keys(task->keys + base * dim, count, dim, desk.turned,
                  edge_fetch_floats(values, count * dim));
        if (dim != desk.width) { /* the products read whole pairs of vectors */
            for (size_t i = 0; i < count; ++i) {
                memcpy(desk.values + i * desk.width, values + i * dim, dim * sizeof(float));
                memset(desk.values + i * desk.width + dim, 0, (desk.width - dim) * sizeof(float));
            }
            values = desk.values;
        }
        size_t some;
        for (size_t row = 0; row < rows; row += some) {
            some = edge_tile_rows(rows, row, EDGE_TILE);
            attend_tile(task, &desk, row, some, base, values, desk.width);
        }
    }
    finish(task, &desk);
}
