/* The operators as onnxruntime sees them, domain `edge_runtime`, version 1.
 *
 *   RowLinear(x, w, scale, bias?)       y = x @ w + bias
 *   RowGatedLinear(x, w, scale, bias?)  w holds the gates' columns and then as many others:
 *                                       y = silu(x @ gates + ...) * (x @ others + ...)
 *
 * x: float32 [..., K] -> y: float32 [..., N]. w: int8 [K, N] ([K, 2N] when gated), or with the
 * attribute transposed = 1 int8 [N, K] ([2N, K]); scale, bias: float32, one for each column of w.
 * All but x must be initializers. Attributes zero (int, 128), levels (int, 127) and
 * floor (float, 0) place the codes of a row. Arithmetic and rules: kernels.h. The third operator is
 * in packed_attention.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ort_help.h"

typedef struct {
    const OrtApi *api;
    edge_linear layer;
} kernel;

static OrtStatus *constant(const OrtApi *api, const OrtKernelInfo *info, size_t index,
                           tensor *out) {
    int is_constant = 0;
    const OrtValue *value = NULL;
    TRY(ORT_FN(api, OrtConstantInput, ORT_KernelInfoGetConstantInput_tensor)(info, index,
                                                                            &is_constant, &value));
    if (!is_constant || !value)
        return fail(api, ORT_INVALID_ARGUMENT,
                    "RowLinear: weights, scale and bias must be initializers");
    return read_tensor(api, value, out);
}

static int is_vector(const tensor *t, int64_t size) {
    return t->type == ORT_FLOAT && t->rank == 1 && t->shape[0] == size;
}

static OrtStatus *read_recipe(const OrtApi *api, const OrtKernelInfo *info, edge_recipe *recipe) {
    tensor w, scale, bias = {0};
    size_t inputs = 0;
    int64_t transposed = 0, zero = 128, levels = 127;
    optional_int(api, info, "transposed", &transposed);
    optional_int(api, info, "zero", &zero);
    optional_int(api, info, "levels", &levels);
    optional_float(api, info, "floor", &recipe->floor);
    TRY(ORT_FN(api, OrtInfoInputCount, ORT_KernelInfo_GetInputCount)(info, &inputs));
    TRY(constant(api, info, 1, &w));
    TRY(constant(api, info, 2, &scale));
    if (inputs > 3)
        TRY(constant(api, info, 3, &bias));
    if (w.type != ORT_INT8 || w.rank != 2)
        return fail(api, ORT_INVALID_ARGUMENT, "RowLinear: weights must be int8 [K, N]");
    const int64_t k = w.shape[transposed ? 1 : 0], columns = w.shape[transposed ? 0 : 1];
    if (k < 1 || k > EDGE_MAX_K)
        return fail(api, ORT_INVALID_ARGUMENT, "RowLinear: K must be from 1 to 65536");
    if (columns % (int64_t)recipe->parts)
        return fail(api, ORT_INVALID_ARGUMENT, "RowGatedLinear: as many gates as others");
    if (!is_vector(&scale, columns) || (bias.data && !is_vector(&bias, columns)))
        return fail(api, ORT_INVALID_ARGUMENT,
                    "RowLinear: scale and bias must be float32, one for each column");
    if (zero < 0 || zero > 128 || levels < 1 || levels > 255)
        return fail(api, ORT_INVALID_ARGUMENT,
                    "RowLinear: zero must be from 0 to 128 and levels from 1 to 255");
    recipe->k = (size_t)k;
    recipe->n = (size_t)columns / recipe->parts;
    recipe->transposed = transposed != 0;
    recipe->zero = (int)zero;
    recipe->levels = (int)levels;
    recipe->w = w.data;
    recipe->scale = scale.data;
    recipe->bias = bias.data;
    return NULL;
}

static OrtStatus *build(const OrtApi *api, const OrtKernelInfo *info, size_t parts, kernel *out) {
    edge_recipe recipe = {.parts = parts};
    TRY(read_recipe(api, info, &recipe));
    const edge_kernels *kernels = edge_best_kernels();
    if (!kernels)
        return fail(api, ORT_FAIL, "RowLinear: this processor has no AVX2; use the portable graph");
    out->api = api;
    if (edge_linear_init(&out->layer, kernels, &recipe))
        return fail(api, ORT_FAIL, "RowLinear: out of memory for packed weights");
    return NULL;
}

static OrtStatus *create(const OrtApi *api, const OrtKernelInfo *info, size_t parts, void **out) {
    kernel *made = calloc(1, sizeof *made);
    if (!made)
        return fail(api, ORT_FAIL, "RowLinear: out of memory");
    OrtStatus *bad = build(api, info, parts, made);
    if (bad)
        free(made);
    else
        *out = made;
    return bad;
}

static OrtStatus *compute(void *state, OrtKernelContext *context) {
    const kernel *self = state;
    const OrtApi *api = self->api;
    const edge_weights *weights = self->layer.weights;
    const int64_t width = (int64_t)weights->k;
    const OrtValue *input;
    OrtValue *output;
    tensor x;
    void *out;
    TRY(ORT_FN(api, OrtInput, ORT_KernelContext_GetInput)(context, 0, &input));
    TRY(read_tensor(api, input, &x));
    if (x.rank < 1 || x.shape[x.rank - 1] != width) {
        char message[96];
        snprintf(message, sizeof message, "RowLinear: rows must be %lld wide", (long long)width);
        return fail(api, ORT_INVALID_ARGUMENT, message);
    }
    size_t m = 1;
    for (size_t i = 0; i + 1 < x.rank; ++i)
        m *= (size_t)x.shape[i];
    x.shape[x.rank - 1] = (int64_t)weights->n;
    TRY(ORT_FN(api, OrtOutput, ORT_KernelContext_GetOutput)(context, 0, x.shape, x.rank, &output));
    TRY(ORT_FN(api, OrtTensorData, ORT_GetTensorMutableData)(output, &out));
    pool threads = {api, context};
    const edge_parallel parallel = {&threads, run_parallel};
    void *bad;
    if (edge_linear_run(&self->layer, x.data, m, out, NULL, &parallel, &bad))
        return fail(api, ORT_FAIL, "RowLinear: out of memory");
    return bad;
}

static void destroy(void *state) {
    kernel *self = state;
    edge_linear_free(&self->layer);
    free(self);
}

static OrtStatus *create_linear(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info,
                                void **out) {
    (void)op;
    return create(api, info, 1, out);
}

static OrtStatus *create_gated(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info,
                               void **out) {
    (void)op;
    return create(api, info, 2, out);
}

static const char *linear_name(const OrtCustomOp *op) {
    (void)op;
    return "RowLinear";
}

static const char *gated_name(const OrtCustomOp *op) {
    (void)op;
    return "RowGatedLinear";
}

static int input_type(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index == 1 ? ORT_INT8 : ORT_FLOAT;
}

static size_t input_count(const OrtCustomOp *op) {
    (void)op;
    return 4;
}

static int input_kind(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index == 3 ? ORT_OPTIONAL : ORT_REQUIRED;
}

static int output_type(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return ORT_FLOAT;
}

static size_t output_count(const OrtCustomOp *op) {
    (void)op;
    return 1;
}

static int output_kind(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return ORT_REQUIRED;
}

#define OPERATOR(kind)                                                                            \
    {                                                                                             \
        .version = ORT_ABI_VERSION, .GetName = kind##_name, .GetExecutionProviderType = provider, \
        .GetInputType = input_type, .GetInputTypeCount = input_count,                             \
        .GetOutputType = output_type, .GetOutputTypeCount = output_count,                         \
        .KernelDestroy = destroy, .GetInputCharacteristic = input_kind,                           \
        .GetOutputCharacteristic = output_kind, .GetInputMemoryType = memory_kind,                \
        .CreateKernelV2 = create_##kind, .KernelComputeV2 = compute,                              \
        .GetStartVersion = first_version, .GetEndVersion = first_version,                         \
    }

static const OrtCustomOp linear = OPERATOR(linear), gated = OPERATOR(gated);
static const OrtCustomOp *const operators[] = {&linear, &gated, &edge_packed_attention};

/* What onnxruntime calls when the library is registered. The domain lives as long as the library:
 * sessions made from these options keep using it. */
__attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options,
                                                                    const OrtApiBase *base) {
    const OrtApi *api = base->GetApi(ORT_ABI_VERSION);
    if (!api) {
        const OrtApi *old = base->GetApi(1); /* the same table, shorter */
        return old ? fail(old, ORT_FAIL, "edge_runtime needs onnxruntime 1.17 or newer") : NULL;
    }
    OrtCustomOpDomain *domain;
    TRY(ORT_FN(api, OrtCreateDomain, ORT_CreateCustomOpDomain)("edge_runtime", &domain));
    for (size_t i = 0; i < sizeof operators / sizeof *operators; ++i)
        TRY(ORT_FN(api, OrtDomainAdd, ORT_CustomOpDomain_Add)(domain, operators[i]));
    return ORT_FN(api, OrtAddDomain, ORT_AddCustomOpDomain)(options, domain);
}
