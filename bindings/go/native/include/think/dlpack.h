/**
 * @file think/dlpack.h
 * @brief Optional: a think_tensor from a DLPack DLTensor. Not included by think.h; needs no DLPack header.
 */
#ifndef THINK_DLPACK_H
#define THINK_DLPACK_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct DLTensor;

/**
 * Describe a DLPack tensor as a think_tensor. No copy, no ownership: the view is valid as long as the DLPack tensor is.
 *
 * The tensor must have four dimensions in the order (batch, head, token, channel), or three (head, token, channel), which become a batch of one.
 * NULL strides mean row-major. The channel stride must be 1 (a tensor with one channel is always accepted).
 *
 * @param source  a DLTensor of DLPack 0.x or 1.x, as found in DLManagedTensor and DLManagedTensorVersioned
 * @param device  receives the device kind (THINK_DEVICE_CPU, ...); may be NULL
 * @param tensor  receives the view; its struct_size is read
 * @return THINK_E_ARGUMENT for a NULL or malformed tensor, THINK_E_UNSUPPORTED for another number of dimensions, dtype or channel stride
 * @since 0.9
 */
THINK_API think_status think_tensor_from_dlpack(const struct DLTensor *source, think_device *device, think_tensor *tensor, think_error *error);

#ifdef __cplusplus
}
#endif
#endif
