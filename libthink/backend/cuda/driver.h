// The device's half of the table, by the driver's own functions: what the CUDA runtime cannot say, "this context, and afterwards whatever was there".
// Compiled into libthink_cuda.so.1 and, without a toolkit, into the emulator's stand-in of it.
#pragma once

#include "libthink/backend/cuda_backend.h"

namespace think::cuda {

int32_t open_device(int32_t index, Device &device);
void close_device(const Device &device);
int32_t enter_device(const Device &device);
void leave_device();

}  // namespace think::cuda
