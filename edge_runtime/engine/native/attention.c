#include "attention.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    TASK_ROWS = 112,         /* query rows (queries x heads of a group) that share turned keys */
    APPEND_ROWS = 64,        /* new keys of a task where queries are dealt out separately */
    SERIAL_WORK = 1 << 16,   /* multiplications done sooner than a thread wakes up */
    SLOTS = 16,
};

/* Working memory is kept between calls: a step makes many of them. */
typedef struct {
    size_t floats;
    float *memory;
} desk;

static _Atomic(desk *) desks[SLOTS];

static void discard(desk *d) {
    if (d)
        free(d->memory);
    free(d);
}

static desk *take_desk(size_t floats) {
    for (int i = 0; i < SLOTS; ++i) {
        if (!atomic_load_explicit(&desks[i], memory_order_relaxed))
            continue;
        desk *d = atomic_exchange(&desks[i], NULL);
        if (d && d->floats >= floats)
            return d;
        discard(d);
    }
    desk *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->floats = floats;
    d->memory = aligned_alloc(EDGE_LINE, edge_round_up(floats * sizeof(float), EDGE_LINE));
    if (d->memory)
        return d;
    free(d);
    return NULL;
}

static void give_desk(desk *d) {
    for (int i = 0; i < SLOTS; ++i) {
        desk *empty = NULL;
        if (atomic_compare_exchange_strong(&desks[i], &empty, d))
            return;
    }
    discard(d);
}

/* Rows first .. first + count - 1 of a slot's new rows, for one of its key heads. */
typedef struct {
    uint32_t slot, head, first, count;
    size_t start; /* packed row of the slot's first new row */
    size_t work;  /* keys seen, times queries */
} piece;

typedef struct {
    const edge_attention *attention;
    const edge_step *step;
    const piece *pieces;
    size_t count;
    int owned; /* a piece is all of its slot and head: it brings its own keys in */
    atomic_int short_of_memory;
} job;

static size_t cached(const edge_step *step, size_t slot) {
    return (size_t)step->last[slot] + 1 - (size_t)step->counts[slot];
}

static void append(const job *j, const piece *p) {
    const edge_step *step = j->step;
    const size_t dim = j->attention->dim, half = dim / 2, before = cached(step, p->slot);
    const size_t base = (p->slot * j->attention->kv_heads + p->head) * step->capacity;
    for (size_t i = p->first; i < p->first + p->count; ++i) {
        const float *k = step->k + (p->start + i) * step->kv_row + p->head * dim;
        const float *v = step->v + (p->start + i) * step->kv_row + p->head * dim;
        const float *cos = step->cos + (before + i) * half, *sin = step->sin + (before + i) * half;
        float *key = step->keys + (base + before + i) * dim;
        for (size_t d = 0; d < half; ++d) {
            key[d] = k[d] * cos[d] - k[half + d] * sin[d];
            key[half + d] = k[half + d] * cos[d] + k[d] * sin[d];
        }
        memcpy(step->values + (base + before + i) * dim, v, dim * sizeof *v);
    }
}

static void append_piece(void *data, size_t index) {
    const job *j = data;
    append(j, &j->pieces[index]);
}

/* Where the keys that a piece attends first begin. */
static const float *first_keys(const job *j, const piece *p, size_t *count) {
    const edge_attention *a = j->attention;
    const size_t place = cached(j->step, p->slot) + p->first, end = place + p->count;
    size_t start = a->window && place + 1 > a->window ? place + 1 - a->window : 0;
    start = start / EDGE_KEY_BLOCK * EDGE_KEY_BLOCK;
    *count = end - start < EDGE_KEY_BLOCK ? end - start : EDGE_KEY_BLOCK;
    const size_t base = (p->slot * a->kv_heads + p->head) * j->step->capacity;
    return j->step->keys + (base + start) * a->dim;
}

static void attend_piece(void *data, size_t index) {
    job *j = data;
    const piece *p = &j->pieces[index];
    const edge_attention *a = j->attention;
    const edge_step *step = j->step;
    const size_t group = a->heads / a->kv_heads, row = p->start + p->first;
    const size_t base = (p->slot * a->kv_heads + p->head) * step->capacity * a->dim;
    const size_t column = p->head * group * a->dim;
    size_t near;
    const char *first = (const char *)first_keys(j, p, &near);
    for (size_t at = 0; at < near * a->dim * sizeof(float); at += EDGE_LINE)
        __builtin_prefetch(first + at); /* under way while rows are turned to their places */
    if (j->owned)
        append(j, p);
    edge_queries task = {
        .q = step->q + row * step->q_row + column,
        .out = step->out + row * a->heads * a->dim + column,
        .keys = step->keys + base,
        .values = step->values + base,
        .cos = step->cos,
        .sin = step->sin,
        .q_row = step->q_row,
        .out_row = a->heads * a->dim,
        .queries = p->count,
        .first = cached(step, p->slot) + p->first,
        .group = group,
        .dim = a->dim,
        .window = a->window,
        .scale = a->scale,
    };
    if (index + 1 < j->count) /* a thread takes neighbours while it finds them */
        task.next_keys = first_keys(j, p + 1, &task.next_count);
    desk *d = take_desk(edge_attend_floats(p->count, group, a->dim));
    if (!d) {
        atomic_store(&j->short_of_memory, 1);
        return;
    }
    a->kernels->attend(&task, d->memory);
    give_desk(d);
}

const char *edge_attention_check(const edge_step *step) {
    size_t rows = 0;
    for (size_t slot = 0; slot < step->slots; ++slot) {
        const int64_t count = step->counts[slot], total = (int64_t)step->last[slot] + 1;
        if (count < 0)
            return "query_seqlens must not be negative";
        rows += (size_t)count;
        if (count == 0)
            continue;
        if (total < count)
            return "seqlens_k must be cached and new tokens, minus one";
        if ((size_t)total > step->capacity)
            return "cached and new tokens do not fit the slots";
        if ((size_t)total > step->positions)
            return "cached and new tokens reach beyond the rope tables";
    }
    return rows == step->tokens ? NULL : "query_seqlens must add up to the packed rows";
}

static size_t queries_a_task(const edge_attention *a) {
    const size_t queries = TASK_ROWS / (a->heads / a->kv_heads);
    return queries ? queries : 1;
}

/* Cut the slots' new rows into pieces of up to `most`, for each key head. Returns how many. */
static size_t cut(const edge_attention *a, const edge_step *step, size_t most, piece *pieces) {
    size_t count = 0, start = 0;
    for (size_t slot = 0; slot < step->slots; ++slot) {
        const size_t rows = (size_t)step->counts[slot];
        for (size_t first = 0; first < rows; first += most)
            for (size_t head = 0; head < a->kv_heads; ++head) {
                const size_t some = rows - first < most ? rows - first : most;
                const size_t end = cached(step, slot) + first + some;
                const size_t keys = a->window && end > a->window + some ? a->window + some : end;
                pieces[count++] = (piece){(uint32_t)slot, (uint32_t)head, (uint32_t)first,
                                          (uint32_t)some, start, keys * some};
            }
        start += rows;
    }
    return count;
}

static int by_work(const void *left, const void *right) {
    const piece *l = left, *r = right;
    return (l->work < r->work) - (l->work > r->work);
}

static void *run(const job *j, size_t count, void (*body)(void *, size_t), int serial,
                 const edge_parallel *parallel) {
    if (!serial && count > 1)
        return parallel->run(parallel->context, body, count, (void *)(uintptr_t)j);
    for (size_t i = 0; i < count; ++i)
        body((void *)(uintptr_t)j, i);
    return NULL;
}

int edge_attention_run(const edge_attention *attention, const edge_step *step,
                       const edge_parallel *parallel, void **error) {
    *error = NULL;
    if (step->tokens == 0)
        return 0;
    piece few[64], *pieces = few;
    const size_t most = queries_a_task(attention), bound = step->tokens * attention->kv_heads;
    if (bound > sizeof few / sizeof *few && !(pieces = malloc(bound * sizeof *pieces)))
        return -1;
    job j = {.attention = attention, .step = step, .pieces = pieces, .owned = 1};
    for (size_t slot = 0; slot < step->slots; ++slot)
        if ((size_t)step->counts[slot] > most)
            j.owned = 0;
    if (!j.owned)
        *error = run(&j, cut(attention, step, APPEND_ROWS, pieces), append_piece, 0, parallel);
    const size_t count = cut(attention, step, most, pieces);
    size_t work = 0;
    for (size_t i = 0; i < count; ++i)
        work += pieces[i].work * (attention->heads / attention->kv_heads) * attention->dim * 2;
    /* Threads take pieces in turn: the large ones first, so that none is left at the end. Single
     * tokens are many small ones, not worth it. */
    if (count < step->tokens * attention->kv_heads)
        qsort(pieces, count, sizeof *pieces, by_work);
    j.count = count;
    if (!*error)
        *error = run(&j, count, attend_piece, work <= SERIAL_WORK, parallel);
    if (pieces != few)
        free(pieces);
    return atomic_load(&j.short_of_memory) ? -1 : 0;
}
