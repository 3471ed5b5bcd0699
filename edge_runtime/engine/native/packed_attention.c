/* PackedAttention(q, past_key, past_value, query_seqlens, seqlens_k, cos, sin, k?, v?)
 *     -> (out, present_key, present_value)
 *
 * q: float32 [T, ...] of H * D floats a row, or with k and v absent of (H + 2 Hkv) * D: q, k and
 * v joined. k, v: float32 [T, ...] of Hkv * D. past, present: float32 [B, Hkv, C, D]; bound to the
 * same memory they are written in place, else the past is copied. query_seqlens: int32 [B] new
 * tokens of each slot; seqlens_k: int32 [B] cached and new, minus one. cos, sin: float32
 * [positions, D / 2]. out: float32 [T, H * D].
 *
 * Packed rows lie slot after slot. Attributes num_heads, kv_num_heads (int), local_window_size
 * (int, -1: none; else the keys that a query attends, itself included), scale (float, 1 / sqrt(D)).
 * Arithmetic and rules: attention.h.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "attention.h"
#include "ort_help.h"

enum { Q, PAST_KEY, PAST_VALUE, COUNTS, LAST, COS, SIN, K, V, INPUTS };

typedef struct {
    const OrtApi *api;
    edge_attention attention; /* dim is known at the first run only */
    int joined;
} kernel;

static OrtStatus *create_kernel(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info,
                                void **out) {
    (void)op;
    int64_t heads = 0, kv_heads = 0, window = -1;
    float scale = 0;
    size_t inputs = 0;
    optional_int(api, info, "num_heads", &heads);
    optional_int(api, info, "kv_num_heads", &kv_heads);
    optional_int(api, info, "local_window_size", &window);
    optional_float(api, info, "scale", &scale);
    TRY(ORT_FN(api, OrtInfoInputCount, ORT_KernelInfo_GetInputCount)(info, &inputs));
    const edge_kernels *kernels = edge_best_kernels();
    if (!kernels)
        return fail(api, ORT_FAIL,
                    "PackedAttention: this processor has no AVX2; use the portable graph");
    if (heads < 1 || kv_heads < 1 || heads % kv_heads || heads > 65536)
        return fail(api, ORT_INVALID_ARGUMENT,
                    "PackedAttention: num_heads must be a multiple of kv_num_heads");
    if (inputs != K && inputs != INPUTS)
        return fail(api, ORT_INVALID_ARGUMENT, "PackedAttention: both k and v, or neither");
    kernel *made = calloc(1, sizeof *made);
    if (!made)
        return fail(api, ORT_FAIL, "PackedAttention: out of memory");
    made->api = api;
    made->joined = inputs == K;
    made->attention = (edge_attention){.kernels = kernels,
                                       .heads = (size_t)heads,
                                       .kv_heads = (size_t)kv_heads,
                                       .window = window > 0 ? (size_t)window : 0,
                                       .scale = scale};
    *out = made;
    return NULL;
}

static int is_float(const tensor *t, size_t rank) {
    return t->type == ORT_FLOAT && t->rank == rank;
}

static size_t row_floats(const tensor *t) {
    size_t floats = 1;
    for (size_t i = 1; i < t->rank; ++i)
        floats *= (size_t)t->shape[i];
    return floats;
}

static int is_rows(const tensor *t, int64_t rows, size_t floats) {
    return t->type == ORT_FLOAT && t->rank >= 2 && t->shape[0] == rows && row_floats(t) == floats;
}

/* What is wrong with the shapes, or NULL and `step` and `attention` filled, present excepted. */
static const char *understand(const kernel *self, const tensor *in, edge_attention *attention,
                              edge_step *step) {
    const tensor *past = &in[PAST_KEY], *cos = &in[COS];
    if (!is_float(past, 4) || !is_float(&in[PAST_VALUE], 4) ||
        memcmp(past->shape, in[PAST_VALUE].shape, 4 * sizeof *past->shape))
        return "PackedAttention: past keys and values must be float32 [B, Hkv, C, D]";
    const int64_t slots = past->shape[0], dim = past->shape[3], tokens = in[Q].shape[0];
    const size_t heads = self->attention.heads, kv_heads = self->attention.kv_heads;
    if (past->shape[1] != (int64_t)kv_heads || dim < 2 || dim % 2 || dim > EDGE_MAX_WIDTH)
        return "PackedAttention: slots of another number of heads, or heads of an odd width";
    const size_t q = heads * (size_t)dim, kv = kv_heads * (size_t)dim;
    if (!is_rows(&in[Q], tokens, self->joined ? q + 2 * kv : q) ||
        (!self->joined && (!is_rows(&in[K], tokens, kv) || !is_rows(&in[V], tokens, kv))))
        return "PackedAttention: rows must be as wide as the heads of the slots";
    for (int i = COUNTS; i <= LAST; ++i)
        if (in[i].type != ORT_INT32 || in[i].rank != 1 || in[i].shape[0] != slots)
            return "PackedAttention: query_seqlens and seqlens_k must be int32, one for each slot";
    if (!is_float(cos, 2) || !is_float(&in[SIN], 2) || cos->shape[1] != dim / 2 ||
        memcmp(cos->shape, in[SIN].shape, 2 * sizeof *cos->shape))
        return "PackedAttention: cos and sin must be float32 [positions, D / 2]";
    *attention = self->attention;
    attention->dim = (size_t)dim;
    if (attention->scale == 0)
        attention->scale = 1.0f / sqrtf((float)dim);
    const float *rows = in[Q].data;
    *step = (edge_step){.tokens = (size_t)tokens, .slots = (size_t)slots,
                        .capacity = (size_t)past->shape[2], .positions = (size_t)cos->shape[0],
                        .q = rows, .k = self->joined ? rows + q : in[K].data,
                        .v = self->joined ? rows + q + kv : in[V].data,
                        .q_row = self->joined ? q + 2 * kv : q,
                        .kv_row = self->joined ? q + 2 * kv : kv,
                        .counts = in[COUNTS].data, .last = in[LAST].data,
                        .cos = cos->data, .sin = in[SIN].data};
    return edge_attention_check(step);
}

/* The present as an output; the past's contents are brought over when it lies elsewhere. */
static OrtStatus *present(const OrtApi *api, OrtKernelContext *context, size_t index,
                          const tensor *past, float **data) {
    OrtValue *value;
    void *memory;
    TRY(ORT_FN(api, OrtOutput, ORT_KernelContext_GetOutput)(context, index, past->shape, past->rank,
                                                            &value));
    TRY(ORT_FN(api, OrtTensorData, ORT_GetTensorMutableData)(value, &memory));
    if (memory != past->data)
        memmove(memory, past->data, (size_t)past->shape[0] * row_floats(past) * sizeof(float));
    *data = memory;
    return NULL;
}

static OrtStatus *compute_attention(void *state, OrtKernelContext *context) {
    const kernel *self = state;
    const OrtApi *api = self->api;
    tensor in[INPUTS];
    for (size_t i = 0; i < (size_t)(self->joined ? K : INPUTS); ++i) {
        const OrtValue *input = NULL;
        TRY(ORT_FN(api, OrtInput, ORT_KernelContext_GetInput)(context, i, &input));
        if (!input)
            return fail(api, ORT_INVALID_ARGUMENT, "PackedAttention: an input is missing");
        TRY(read_tensor(api, input, &in[i]));
    }
    if (in[Q].rank < 1)
        return fail(api, ORT_INVALID_ARGUMENT, "PackedAttention: rows must be [T, ...]");
    edge_attention attention;
    edge_step step;
    const char *wrong = understand(self, in, &attention, &step);
    if (wrong)
        return fail(api, ORT_INVALID_ARGUMENT, wrong);
    const int64_t shape[] = {in[Q].shape[0], (int64_t)(attention.heads * attention.dim)};
    OrtValue *output;
    void *out, *bad;
    TRY(ORT_FN(api, OrtOutput, ORT_KernelContext_GetOutput)(context, 0, shape, 2, &output));
    TRY(ORT_FN(api, OrtTensorData, ORT_GetTensorMutableData)(output, &out));
    step.out = out;
    TRY(present(api, context, 1, &in[PAST_KEY], &step.keys));
    TRY(present(api, context, 2, &in[PAST_VALUE], &step.values));
    pool threads = {api, context};
    const edge_parallel parallel = {&threads, run_parallel};
    const int short_of_memory = edge_attention_run(&attention, &step, &parallel, &bad);
    if (bad)
        return bad;
    return short_of_memory ? fail(api, ORT_FAIL, "PackedAttention: out of memory") : NULL;
}

static const char *attention_name(const OrtCustomOp *op) {
    (void)op;
    return "PackedAttention";
}

static int attention_input_type(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index == COUNTS || index == LAST ? ORT_INT32 : ORT_FLOAT;
}

static size_t attention_inputs(const OrtCustomOp *op) {
    (void)op;
    return INPUTS;
}

static int attention_input_kind(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index >= K ? ORT_OPTIONAL : ORT_REQUIRED;
}

static int attention_output_type(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return ORT_FLOAT;
}

static size_t attention_outputs(const OrtCustomOp *op) {
    (void)op;
    return 3;
}

static int attention_output_kind(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return ORT_REQUIRED;
}

const OrtCustomOp edge_packed_attention = {
    .version = ORT_ABI_VERSION,
    .GetName = attention_name,
    .GetExecutionProviderType = provider,
    .GetInputType = attention_input_type,
    .GetInputTypeCount = attention_inputs,
    .GetOutputType = attention_output_type,
    .GetOutputTypeCount = attention_outputs,
    .KernelDestroy = free,
    .GetInputCharacteristic = attention_input_kind,
    .GetOutputCharacteristic = attention_output_kind,
    .GetInputMemoryType = memory_kind,
    .CreateKernelV2 = create_kernel,
    .KernelComputeV2 = compute_attention,
    .GetStartVersion = first_version,
    .GetEndVersion = first_version,
};
