// The decode kernels of attend for calls with tiles of codes. Apart from those for numbers alone, which keep their registers.
#define THINK_OPAQUE_LANES
#include "cuda_reduce.cuh"

namespace think::attend::cuda {
namespace {

template <class T>
DecodeKernel kernel_of(int32_t channels) {
  return channels > 128 ? attend_decode<T, 256, true> : channels > 64 ? attend_decode<T, 128, true> : attend_decode<T, 64, true>;
}

}  // namespace

DecodeKernel codes_kernel(think_dtype dtype, int32_t channels) { return dtype == THINK_F16 ? kernel_of<F16>(channels) : kernel_of<BF16>(channels); }

}  // namespace think::attend::cuda
