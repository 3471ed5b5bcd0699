#include "linear.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    QUANTIZE_TASKS = 16,
    SERIAL_FLOATS = 16384, /* fewer are quantised faster than a thread wakes up */
    TASK_BYTES = 49152,    /* of weights: a task costs some hundred nanoseconds to hand out */
    SLOTS = 8,
};

/* Working memory is kept between calls: a step makes a hundred of them. */
typedef struct {
    size_t size;
    char bytes[];
} scratch;

static _Atomic(scratch *) slots[SLOTS];

static scratch *take_scratch(size_t size) {
    for (int i = 0; i < SLOTS; ++i) {
        scratch *s = atomic_exchange(&slots[i], NULL);
        if (s && s->size >= size)
            return s;
        free(s);
        if (s)
            break;
    }
    scratch *s = malloc(sizeof *s + size);
    if (s)
        s->size = size;
    return s;
}

static void give_scratch(scratch *s) {
    for (int i = 0; i < SLOTS; ++i) {
        scratch *empty = NULL;
        if (atomic_compare_exchange_strong(&slots[i], &empty, s))
            return;
    }
    free(s);
}

typedef struct {
    const edge_linear *layer;
    const float *x;
    size_t m, rows_a_task, strips_a_task;
    uint8_t *q;    /* tiles of quantised rows */
    float *peaks;  /* [m] */
    uint8_t *line; /* [tasks, k_padded] one row before it goes into its tile */
    float *out;
    int32_t *raw;
} work;

static void quantize_rows(void *data, size_t task) {
    const work *w = data;
    const edge_kernels *kernels = w->layer->kernels;
    const size_t k = w->layer->weights->k, padded = w->layer->weights->k_padded;
    uint8_t *line = w->line + task * padded;
    size_t end = (task + 1) * w->rows_a_task;
    end = end < w->m ? end : w->m;
    size_t first = 0, rows = 0; /* of the tile that holds the row */
    for (size_t r = task * w->rows_a_task; r < end; ++r) {
        while (r >= first + rows) {
            first += rows;
            rows = edge_tile_rows(w->m, first, kernels->max_rows);
        }
        uint8_t *target = rows == 1 ? w->q + first * padded : line;
        w->peaks[r] = kernels->quantize(&w->layer->grid, w->x + r * k, k, padded, target);
        if (rows == 1)
            continue;
        uint8_t *into = w->q + first * padded + (r - first) * 4;
        for (size_t i = 0; i < padded; i += 4, into += rows * 4)
            memcpy(into, line + i, 4);
    }
}

static void multiply_strip(const work *w, size_t index) {
    const edge_linear *layer = w->layer;
    const edge_weights *weights = layer->weights;
    const size_t column = index / weights->parts * EDGE_STRIP, at = index * EDGE_STRIP;
    const edge_strip strip = {
        .rows = w->q,
        .peaks = w->peaks,
        .m = w->m,
        .k = weights->k_padded,
        .strip = weights->data + at * weights->k_padded,
        .zeros = layer->zeros + at,
        .scale = layer->scale + at,
        .bias = layer->bias ? layer->bias + at : NULL,
        .out = w->out ? w->out + column : NULL,
        .gated = index % weights->parts == 1,
        .raw = w->raw ? w->raw + column : NULL,
        .stride = weights->n,
        .columns = weights->n - column < EDGE_STRIP ? weights->n - column : EDGE_STRIP,
    };
    layer->kernels->strip(&strip);
}

static void multiply_strips(void *data, size_t task) {
    const work *w = data;
    const edge_weights *weights = w->layer->weights;
    size_t end = (task + 1) * w->strips_a_task;
    end = end < weights->strips ? end : weights->strips;
    for (size_t s = task * w->strips_a_task * weights->parts; s < end * weights->parts; ++s)
        multiply_strip(w, s);
}

int edge_linear_run(const edge_linear *layer, const float *x, size_t m, float *out, int32_t *raw,
                    const edge_parallel *parallel, void **error) {
    *error = NULL;
    const edge_weights *weights = layer->weights;
    const size_t padded = weights->k_padded;
    if (m == 0 || weights->n == 0)
        return 0;
    const int serial = m == 1 || m * weights->k <= SERIAL_FLOATS;
    const size_t tasks = serial ? 1 : m < QUANTIZE_TASKS ? m : QUANTIZE_TASKS;
    const size_t rows_bytes = edge_round_up(m * padded, EDGE_LINE);
    const size_t peaks_bytes = edge_round_up(m * sizeof(float), EDGE_LINE);
    const size_t line_bytes = edge_round_up(tasks * padded, EDGE_LINE);
    scratch *memory = take_scratch(rows_bytes + peaks_bytes + line_bytes + EDGE_LINE);
    if (!memory)
        return -1;
    char *at = (char *)edge_round_up((uintptr_t)memory->bytes, EDGE_LINE);
    work w = {.layer = layer, .x = x, .m = m, .out = out, .raw = raw};
    w.q = (uint8_t *)at;
    w.peaks = (float *)(void *)(at + rows_bytes);
    w.line = (uint8_t *)(at + rows_bytes + peaks_bytes);
    w.rows_a_task = (m + tasks - 1) / tasks;
    if (serial)
        quantize_rows(&w, 0);
    else
        *error = parallel->run(parallel->context, quantize_rows,
                               (m + w.rows_a_task - 1) / w.rows_a_task, &w);
    w.strips_a_task = TASK_BYTES / (padded * EDGE_STRIP * weights->parts);
    if (w.strips_a_task < 1 || m > 32)
        w.strips_a_task = 1;
    if (!*error)
        *error =
            parallel->run(parallel->context, multiply_strips,
                          (weights->strips + w.strips_a_task - 1) / w.strips_a_task, &w);
    give_scratch(memory);
    return 0;
}

/* A vector [parts * n] in the order of the packed columns, times `factor`; zeros between. */
static float *interleave(const float *from, const edge_weights *weights, float factor) {
    const size_t parts = weights->parts, size = weights->strips * parts * EDGE_STRIP;
    float *to = aligned_alloc(EDGE_LINE, edge_round_up(size * sizeof *to + 1, EDGE_LINE));
    for (size_t i = 0; to && i < size; ++i) {
        const size_t column = i / (parts * EDGE_STRIP) * EDGE_STRIP + i % EDGE_STRIP;
        const size_t part = i / EDGE_STRIP % parts;
        to[i] = column < weights->n ? factor * from[part * weights->n + column] : 0.0f;
    }
    return to;
}

static int32_t *times_zero(const edge_weights *weights, int zero) {
    const size_t size = weights->strips * weights->parts * EDGE_STRIP;
    int32_t *to = aligned_alloc(EDGE_LINE, edge_round_up(size * sizeof *to + 1, EDGE_LINE));
    for (size_t i = 0; to && i < size; ++i)
        to[i] = zero * weights->sums[i];
    return to;
}

int edge_linear_init(edge_linear *layer, const edge_kernels *kernels, const edge_recipe *recipe) {
    memset(layer, 0, sizeof *layer);
    layer->kernels = kernels;
    layer->grid.zero = recipe->zero;
    layer->grid.step = (float)(1.0 / recipe->levels);
    layer->grid.one_sided = recipe->zero < 128;
    layer->grid.floor = recipe->floor;
    layer->weights = edge_weights_take(recipe->w, recipe->parts, recipe->k, recipe->n,
                                       recipe->transposed);
    if (layer->weights) {
        layer->zeros = times_zero(layer->weights, recipe->zero);
        layer->scale = interleave(recipe->scale, layer->weights, layer->grid.step);
        layer->bias = recipe->bias ? interleave(recipe->bias, layer->weights, 1.0f) : NULL;
    }
    if (layer->weights && layer->zeros && layer->scale && (layer->bias || !recipe->bias))
        return 0;
    edge_linear_free(layer);
    return -1;
}

void edge_linear_free(edge_linear *layer) {
    edge_weights_give(layer->weights);
    free(layer->zeros);
    free(layer->scale);
    free(layer->bias);
    memset(layer, 0, sizeof *layer);
}
