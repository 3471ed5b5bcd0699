#define _GNU_SOURCE
#include "weights.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20, SLAB = 64 << 20 };

/* Matrices of a model lie one behind the other in slabs: small ones share a large page, and the
 * end of one prefetches the start of the next. Pages of a slab cost memory only once written. */
typedef struct slab {
    void *mapping;
    size_t mapped, size, used, users;
    char *start; /* aligned to a large page */
    struct slab *next;
} slab;

typedef struct entry {
    edge_weights weights; /* first: a pointer to it is a pointer to the entry */
    uint64_t hash;
    size_t users;
    slab *home;
    struct entry *next;
} entry;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static slab *slabs;
static entry *entries;

static slab *new_slab(size_t size) {
    slab *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->size = edge_round_up(size > SLAB ? size : SLAB, HUGE_PAGE);
    s->mapped = s->size + HUGE_PAGE;
    s->mapping = mmap(NULL, s->mapped, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->mapping == MAP_FAILED) {
        free(s);
        return NULL;
    }
    s->start = (char *)edge_round_up((uintptr_t)s->mapping, HUGE_PAGE);
    madvise(s->start, s->size, MADV_HUGEPAGE); /* a wish: small pages work too */
    s->next = slabs;
    slabs = s;
    return s;
}

static void *allocate(size_t size, slab **home) {
    size = edge_round_up(size, EDGE_LINE);
    slab *s = slabs;
    while (s && s->size - s->used < size)
        s = s->next;
    if (!s)
        s = new_slab(size);
    if (!s)
        return NULL;
    void *memory = s->start + s->used;
    s->used += size;
    s->users += 1;
    *home = s;
    return memory;
}

static void release(slab *s) {
    if (--s->users)
        return;
    for (slab **at = &slabs; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    munmap(s->mapping, s->mapped);
    free(s);
}

/* `row`, `column`: how far apart the rows (k) and columns of w lie. */
static void pack_strip(const int8_t *w, size_t k, size_t row, size_t column, size_t columns,
                       int8_t *out, int32_t *sums) {
    memset(sums, 0, EDGE_STRIP * sizeof *sums);
    for (size_t i = 0; i < k; i += 4) {
        const size_t rows = k - i < 4 ? k - i : 4;
        int8_t *group = out + i * EDGE_STRIP;
        for (size_t j = 0; j < rows; ++j)
            for (size_t c = 0; c < columns; ++c) {
                const int8_t value = w[(i + j) * row + c * column];
                group[c * 4 + j] = value;
                sums[c] += value;
            }
    }
}

static uint64_t hash_of(const edge_weights *weights, size_t bytes) {
    uint64_t hash = (weights->k * 0x9e3779b97f4a7c15u ^ weights->n) + weights->parts, word;
    for (size_t i = 0; i + sizeof word <= bytes; i += sizeof word) {
        memcpy(&word, weights->data + i, sizeof word);
        hash = (hash ^ word) * 0x100000001b3u;
        hash ^= hash >> 29;
    }
    return hash;
}

static entry *find(const entry *packed, size_t bytes) {
    for (entry *e = entries; e; e = e->next)
        if (e->hash == packed->hash && e->weights.k == packed->weights.k &&
            e->weights.n == packed->weights.n && e->weights.parts == packed->weights.parts &&
            memcmp(e->weights.data, packed->weights.data, bytes) == 0)
            return e;
    return NULL;
}

/* Undo the latest `allocate` of this slab, so that a copy not wanted leaves no hole. */
static void retract(slab *s, const void *memory) {
    s->used = (size_t)((const char *)memory - s->start);
    release(s);
}

static entry *pack(const int8_t *w, size_t parts, size_t k, size_t n, int transposed,
                   size_t *bytes) {
    entry *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    edge_weights *out = &e->weights;
    out->k = k;
    out->n = n;
    out->parts = parts;
    out->k_padded = edge_round_up(k, EDGE_K_STEP);
    out->strips = (n + EDGE_STRIP - 1) / EDGE_STRIP;
    const size_t strip_bytes = out->k_padded * EDGE_STRIP;
    *bytes = out->strips * parts * strip_bytes;
    int8_t *data = allocate(*bytes + out->strips * parts * EDGE_STRIP * sizeof(int32_t), &e->home);
    if (!data) {
        free(e);
        return NULL;
    }
    int32_t *sums = (int32_t *)(void *)(data + *bytes); /* a multiple of 256 bytes on */
    memset(data, 0, *bytes); /* the slab may have been used; padding must be zero */
    const size_t row = transposed ? 1 : parts * n, column = transposed ? k : 1;
    for (size_t s = 0; s < out->strips * parts; ++s) {
        const size_t first = s / parts * EDGE_STRIP;
        const size_t columns = n - first < EDGE_STRIP ? n - first : EDGE_STRIP;
        pack_strip(w + (s % parts * n + first) * column, k, row, column, columns,
                   data + s * strip_bytes, sums + s * EDGE_STRIP);
    }
    out->data = data;
    out->sums = sums;
    e->hash = hash_of(out, *bytes);
    return e;
}

const edge_weights *edge_weights_take(const int8_t *w, size_t parts, size_t k, size_t n,
                                      int transposed) {
    size_t bytes;
    pthread_mutex_lock(&lock);
    entry *packed = pack(w, parts, k, n, transposed, &bytes);
    if (packed) {
        entry *same = find(packed, bytes);
        if (same) {
            retract(packed->home, packed->weights.data);
            free(packed);
            packed = same;
        } else {
            packed->next = entries;
            entries = packed;
        }
        packed->users += 1;
    }
    pthread_mutex_unlock(&lock);
    return packed ? &packed->weights : NULL;
}

void edge_weights_give(const edge_weights *weights) {
    if (!weights)
        return;
    pthread_mutex_lock(&lock);
    entry *e = (entry *)(uintptr_t)weights;
    if (--e->users == 0) {
        for (entry **at = &entries; *at; at = &(*at)->next)
            if (*at == e) {
                *at = e->next;
                break;
            }
        release(e->home);
        free(e);
    }
    pthread_mutex_unlock(&lock);
}

size_t edge_weights_held(void) {
    size_t count = 0;
    pthread_mutex_lock(&lock);
    for (const entry *e = entries; e; e = e->next)
        ++count;
    pthread_mutex_unlock(&lock);
    return count;
}
