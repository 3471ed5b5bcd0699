/* The few facts of onnxruntime's C interface that a custom operator library needs.
 *
 * onnxruntime's wheels carry no header. Its table of functions only ever grows at the end, so
 * the place of a function in it is as stable as its name; the places below were counted from the
 * declarations and agree with the size checks onnxruntime makes on its own table (entry 101 ends
 * version 1, 126 version 4, 169 version 8, 252 version 14, 265 version 16).
 *
 * Nothing here is trusted blindly: `GetApi` must know our version, and the loader computes a
 * known product through a real session's operator before a model may use it.
 */
#ifndef EDGE_ORT_ABI_H
#define EDGE_ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_ABI_VERSION = 17 }; /* the first with KernelContext_ParallelFor */

enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum { ORT_FLOAT = 1, ORT_INT8 = 3, ORT_INT32 = 6 };
enum { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };

typedef struct OrtStatus OrtStatus;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtValue OrtValue;
typedef struct OrtTensorInfo OrtTensorInfo; /* OrtTensorTypeAndShapeInfo */
typedef struct OrtCustomOp OrtCustomOp;

/* The table: pointers to functions, one after the other. */
typedef struct OrtApi {
    void (*entry[1])(void);
} OrtApi;

typedef struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

typedef OrtStatus *(*OrtCreateStatus)(int code, const char *message);
typedef void (*OrtReleaseStatus)(OrtStatus *);
typedef OrtStatus *(*OrtCreateDomain)(const char *name, OrtCustomOpDomain **out);
typedef OrtStatus *(*OrtDomainAdd)(OrtCustomOpDomain *, const OrtCustomOp *);
typedef OrtStatus *(*OrtAddDomain)(OrtSessionOptions *, OrtCustomOpDomain *);
typedef OrtStatus *(*OrtTensorData)(OrtValue *, void **out);
typedef OrtStatus *(*OrtElementType)(const OrtTensorInfo *, int *out);
typedef OrtStatus *(*OrtDimensionsCount)(const OrtTensorInfo *, size_t *out);
typedef OrtStatus *(*OrtDimensions)(const OrtTensorInfo *, int64_t *out, size_t count);
typedef OrtStatus *(*OrtTensorInfoOf)(const OrtValue *, OrtTensorInfo **out);
typedef void (*OrtReleaseTensorInfo)(OrtTensorInfo *);
typedef OrtStatus *(*OrtAttributeFloat)(const OrtKernelInfo *, const char *name, float *out);
typedef OrtStatus *(*OrtAttributeInt)(const OrtKernelInfo *, const char *name, int64_t *out);
typedef OrtStatus *(*OrtInfoInputCount)(const OrtKernelInfo *, size_t *out);
typedef OrtStatus *(*OrtConstantInput)(const OrtKernelInfo *, size_t index, int *constant,
                                       const OrtValue **out);
typedef OrtStatus *(*OrtInput)(const OrtKernelContext *, size_t index, const OrtValue **out);
typedef OrtStatus *(*OrtOutput)(OrtKernelContext *, size_t index, const int64_t *dimensions,
                                size_t count, OrtValue **out);
typedef OrtStatus *(*OrtParallelFor)(const OrtKernelContext *, void (*body)(void *, size_t),
                                     size_t total, size_t batches, void *data);

enum {
    ORT_CreateStatus = 0,
    ORT_CreateCustomOpDomain = 26,
    ORT_CustomOpDomain_Add = 27,
    ORT_AddCustomOpDomain = 28,
    ORT_GetTensorMutableData = 51,
    ORT_GetTensorElementType = 60,
    ORT_GetDimensionsCount = 61,
    ORT_GetDimensions = 62,
    ORT_GetTensorTypeAndShape = 65,
    ORT_KernelInfoGetAttribute_float = 85,
    ORT_KernelInfoGetAttribute_int64 = 86,
    ORT_KernelContext_GetInput = 90,
    ORT_KernelContext_GetOutput = 91,
    ORT_ReleaseStatus = 93,
    ORT_ReleaseTensorTypeAndShapeInfo = 99,
    ORT_KernelInfo_GetInputCount = 230,
    ORT_KernelInfoGetConstantInput_tensor = 249,
    ORT_KernelContext_ParallelFor = 274,
};

#define ORT_FN(api, type, index) ((type)(api)->entry[index])

/* What an operator tells about itself; the fields up to version 17, in onnxruntime's order. */
struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
    const char *(*GetName)(const OrtCustomOp *);
    const char *(*GetExecutionProviderType)(const OrtCustomOp *);
    int (*GetInputType)(const OrtCustomOp *, size_t index);
    size_t (*GetInputTypeCount)(const OrtCustomOp *);
    int (*GetOutputType)(const OrtCustomOp *, size_t index);
    size_t (*GetOutputTypeCount)(const OrtCustomOp *);
    void (*KernelCompute)(void *kernel, OrtKernelContext *);
    void (*KernelDestroy)(void *kernel);
    int (*GetInputCharacteristic)(const OrtCustomOp *, size_t index);
    int (*GetOutputCharacteristic)(const OrtCustomOp *, size_t index);
    int (*GetInputMemoryType)(const OrtCustomOp *, size_t index);
    int (*GetVariadicInputMinArity)(const OrtCustomOp *);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp *);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp *);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *);
    OrtStatus *(*CreateKernelV2)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *,
                                 void **kernel);
    OrtStatus *(*KernelComputeV2)(void *kernel, OrtKernelContext *);
    OrtStatus *(*InferOutputShapeFn)(const OrtCustomOp *, void *context);
    int (*GetStartVersion)(const OrtCustomOp *);
    int (*GetEndVersion)(const OrtCustomOp *);
};

_Static_assert(offsetof(OrtCustomOp, CreateKernelV2) == 17 * sizeof(void *), "order of fields");
_Static_assert(offsetof(OrtCustomOp, GetEndVersion) == 21 * sizeof(void *), "order of fields");

#endif
