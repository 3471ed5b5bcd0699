/* What the operators share: errors, reading tensors and attributes, running on onnxruntime's
 * threads. */
#ifndef EDGE_ORT_HELP_H
#define EDGE_ORT_HELP_H

#include "linear.h"
#include "ort_abi.h"

enum { MAX_RANK = 16 };

typedef struct {
    void *data;
    int type;
    size_t rank;
    int64_t shape[MAX_RANK];
} tensor;

static inline OrtStatus *fail(const OrtApi *api, int code, const char *message) {
    return ORT_FN(api, OrtCreateStatus, ORT_CreateStatus)(code, message);
}

#define TRY(call)                \
    do {                         \
        OrtStatus *bad_ = (call); \
        if (bad_)                \
            return bad_;         \
    } while (0)

static inline OrtStatus *read_info(const OrtApi *api, const OrtTensorInfo *info, tensor *out) {
    TRY(ORT_FN(api, OrtElementType, ORT_GetTensorElementType)(info, &out->type));
    TRY(ORT_FN(api, OrtDimensionsCount, ORT_GetDimensionsCount)(info, &out->rank));
    if (out->rank > MAX_RANK)
        return fail(api, ORT_INVALID_ARGUMENT, "a tensor has more than 16 dimensions");
    return ORT_FN(api, OrtDimensions, ORT_GetDimensions)(info, out->shape, out->rank);
}

static inline OrtStatus *read_tensor(const OrtApi *api, const OrtValue *value, tensor *out) {
    OrtTensorInfo *info;
    TRY(ORT_FN(api, OrtTensorInfoOf, ORT_GetTensorTypeAndShape)(value, &info));
    OrtStatus *bad = read_info(api, info, out);
    ORT_FN(api, OrtReleaseTensorInfo, ORT_ReleaseTensorTypeAndShapeInfo)(info);
    if (bad)
        return bad;
    return ORT_FN(api, OrtTensorData, ORT_GetTensorMutableData)((OrtValue *)(uintptr_t)value,
                                                                &out->data);
}

/* An attribute that may be absent, and then keeps its value. */
static inline void optional_int(const OrtApi *api, const OrtKernelInfo *info, const char *name,
                         int64_t *value) {
    const int64_t before = *value;
    OrtStatus *missing =
        ORT_FN(api, OrtAttributeInt, ORT_KernelInfoGetAttribute_int64)(info, name, value);
    if (missing) {
        ORT_FN(api, OrtReleaseStatus, ORT_ReleaseStatus)(missing);
        *value = before;
    }
}

static inline void optional_float(const OrtApi *api, const OrtKernelInfo *info, const char *name,
                           float *value) {
    const float before = *value;
    OrtStatus *missing =
        ORT_FN(api, OrtAttributeFloat, ORT_KernelInfoGetAttribute_float)(info, name, value);
    if (missing) {
        ORT_FN(api, OrtReleaseStatus, ORT_ReleaseStatus)(missing);
        *value = before;
    }
}

typedef struct {
    const OrtApi *api;
    const OrtKernelContext *context;
} pool;

static inline void *run_parallel(void *context, void (*body)(void *, size_t), size_t total, void *data) {
    const pool *p = context;
    if (total == 1) {
        body(data, 0);
        return NULL;
    }
    return ORT_FN(p->api, OrtParallelFor, ORT_KernelContext_ParallelFor)(p->context, body, total, 0,
                                                                         data);
}

static inline const char *provider(const OrtCustomOp *op) {
    (void)op;
    return "CPUExecutionProvider";
}

static inline int memory_kind(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return 0; /* the processor's own */
}

static inline int first_version(const OrtCustomOp *op) {
    (void)op;
    return 1;
}

extern const OrtCustomOp edge_packed_attention;

#endif
